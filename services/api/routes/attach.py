"""Attach and logs: a container's output, live or from its log, and its input.

Source: Docker Engine API 1.50, ContainerAttach, ContainerAttachWebsocket, ContainerLogs.
"""

from __future__ import annotations

import secrets
import time

from starlette.responses import Response

from services.api import websocket
from services.api.call import Call, Routes
from services.api.detach import DEFAULT_KEYS, DetachKeys
from services.api.repeating import Offers, until_answered
from services.api.resuming import AttachedOutput, LogOutput
from services.api.streaming import StreamedResponse, end_stream, pump
from shared.bus.streams import ByteStream, StreamRef
from shared.contracts import containers as contracts
from shared.contracts.containers import Attach, AttachInfo, Detached, Logs
from shared.errors import InvalidArgument

RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
FIRST_MULTIPLEXED_VERSION = (1, 42)


def content_type(call: Call, tty: bool) -> str:
    return RAW if tty or call.version < FIRST_MULTIPLEXED_VERSION else MULTIPLEXED


def attach_request(call: Call, ref: StreamRef) -> Attach:
    params = call.params
    return Attach(
        ref=call.path("ref"),
        stream=ref,
        key=secrets.token_hex(8),
        stdin=params.flag("stdin"),
        stdout=params.flag("stdout"),
        stderr=params.flag("stderr"),
        stream_output=params.flag("stream"),
        logs=params.flag("logs"),
    )


async def attach(call: Call) -> Response | None:
    keys = DetachKeys(call.params.text("detachKeys") or DEFAULT_KEYS)
    stream, request, info = await _attached(call)
    try:
        connection = await call.hijack(content_type(call, info.tty).encode())
    except BaseException:
        await end_stream(stream, finished=False)
        raise
    stdin = request.stdin and request.stream_output
    # Input that was under way to who has died is lost, and with it what the process would have said.
    output = AttachedOutput(call, stream, request, info if not stdin else AttachInfo(tty=info.tty))
    try:
        await pump(
            connection, stream, tty=info.tty, output=output, stdin=stdin, detach=keys if info.tty and stdin else None
        )
    finally:
        await output.aclose()
    if keys.seen:
        await call.ask(contracts.DETACHED, Detached(ref=call.path("ref")))
    return None


async def _attached(call: Call) -> tuple[ByteStream, Attach, AttachInfo]:
    """The stream that was accepted; asked again, when control dies over it, as the same client."""
    offers = Offers(call.deps.offer)
    request = attach_request(call, (await offers.another()).ref)

    async def ask(attempt: int) -> AttachInfo:
        if attempt:
            request.stream = (await offers.another()).ref
        return await call.ask(contracts.ATTACH, request)

    try:
        info = await until_answered(ask)
    except BaseException:
        await offers.end()
        raise
    assert info is not None  # no error counts as done
    return await offers.accepted(), request, info


async def attach_websocket(call: Call) -> Response | None:
    """As attach, in WebSocket frames. Docker sends the streams unframed there."""
    key = websocket.handshake_key(call.headers)
    stream, _, info = await _attached(call)
    try:
        raw = await call.hijack_raw(101, websocket.accept_headers(key))
    except BaseException:
        await end_stream(stream, finished=False)
        raise
    await websocket.pump(raw, stream, multiplexed=not info.tty)
    return None


def logs_request(call: Call) -> Logs:
    params = call.params
    now = time.time_ns()
    stdout, stderr = params.flag("stdout"), params.flag("stderr")
    if not stdout and not stderr:
        raise InvalidArgument("Bad parameters: you must choose at least one stream")
    tail = params.text("tail")
    since_ns, until_ns = params.time_ns("since", now), params.time_ns("until", now)

    return Logs(
        ref=call.path("ref"),
        stream=StreamRef(id=""),
        stdout=stdout,
        stderr=stderr,
        follow=params.flag("follow"),
        since_ns=since_ns,
        until_ns=until_ns,
        timestamps=params.flag("timestamps"),
        tail=int(tail) if tail.isdecimal() else -1,
        details=params.flag("details"),
    )


async def logs(call: Call) -> Response:
    output = LogOutput(call, logs_request(call))
    try:
        info = await output.open()
    except BaseException:
        await output.aclose()
        raise
    return StreamedResponse(call, output, media_type="", headers={"Content-Type": content_type(call, info.tty)})


ROUTES: Routes = (
    ("POST", "/containers/{ref}/attach", attach),
    ("GET", "/containers/{ref}/attach/ws", attach_websocket),
    ("GET", "/containers/{ref}/logs", logs),
)
