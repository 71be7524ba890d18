"""Attach and logs: a container's output, live or from its log, and its input.

Source: Docker Engine API 1.50, ContainerAttach, ContainerAttachWebsocket, ContainerLogs.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from starlette.responses import Response

from services.api import websocket
from services.api.call import Call, Routes
from services.api.detach import DEFAULT_KEYS, DetachKeys
from services.api.streaming import download_response, end_stream, pump
from shared.contracts import containers as contracts
from shared.contracts.containers import Attach, AttachInfo, Detached, Logs
from shared.errors import InvalidArgument
from shared.streams import ByteStream

RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
FIRST_MULTIPLEXED_VERSION = (1, 42)


def content_type(call: Call, tty: bool) -> str:
    return RAW if tty or call.version < FIRST_MULTIPLEXED_VERSION else MULTIPLEXED


def attach_request(call: Call, stream: ByteStream) -> Attach:
    params = call.params
    return Attach(
        ref=call.path("ref"),
        stream=stream.ref,
        stdin=params.flag("stdin"),
        stdout=params.flag("stdout"),
        stderr=params.flag("stderr"),
        stream_output=params.flag("stream"),
        logs=params.flag("logs"),
    )


async def attach(call: Call) -> Response | None:
    keys = DetachKeys(call.params.text("detachKeys") or DEFAULT_KEYS)
    stream = await call.deps.offer()
    try:
        request = attach_request(call, stream)
        info = await call.ask(contracts.ATTACH, request)
        connection = await call.hijack(content_type(call, info.tty).encode())
    except BaseException:
        await end_stream(stream, finished=False)
        raise
    stdin = request.stdin and request.stream_output
    await pump(connection, stream, stdin=stdin, detach=keys if info.tty and stdin else None)
    if keys.seen:
        await call.ask(contracts.DETACHED, Detached(ref=call.path("ref")))
    return None


async def attach_websocket(call: Call) -> Response | None:
    """As attach, in WebSocket frames. Docker sends the streams unframed there."""
    key = websocket.handshake_key(call.headers)
    stream = await call.deps.offer()
    try:
        info: AttachInfo = await call.ask(contracts.ATTACH, attach_request(call, stream))
        raw = await call.hijack_raw(101, websocket.accept_headers(key))
    except BaseException:
        await end_stream(stream, finished=False)
        raise
    await websocket.pump(raw, stream, multiplexed=not info.tty)
    return None


def logs_request(call: Call) -> Callable[[ByteStream], Awaitable[AttachInfo]]:
    params = call.params
    now = time.time_ns()
    stdout, stderr = params.flag("stdout"), params.flag("stderr")
    if not stdout and not stderr:
        raise InvalidArgument("Bad parameters: you must choose at least one stream")
    tail = params.text("tail")
    since_ns, until_ns = params.time_ns("since", now), params.time_ns("until", now)

    async def ask(stream: ByteStream) -> AttachInfo:
        return await call.ask(
            contracts.LOGS,
            Logs(
                ref=call.path("ref"),
                stream=stream.ref,
                stdout=stdout,
                stderr=stderr,
                follow=params.flag("follow"),
                since_ns=since_ns,
                until_ns=until_ns,
                timestamps=params.flag("timestamps"),
                tail=int(tail) if tail.isdecimal() else -1,
                details=params.flag("details"),
            ),
        )

    return ask


async def logs(call: Call) -> Response:
    ask = logs_request(call)
    return await download_response(
        call, ask, media_type="", headers=lambda info: {"Content-Type": content_type(call, info.tty)}
    )


ROUTES: Routes = (
    ("POST", "/containers/{ref}/attach", attach),
    ("GET", "/containers/{ref}/attach/ws", attach_websocket),
    ("GET", "/containers/{ref}/logs", logs),
)
