"""Attach and logs: a container's output, live or from its log, and its input.

Source: Docker Engine API 1.50, ContainerAttach, ContainerAttachWebsocket, ContainerLogs.
"""

from __future__ import annotations

import secrets
from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from services.api import websocket
from services.api.call import Call
from services.api.declared import ContainerName, may, streams
from services.api.detach import DEFAULT_KEYS, DetachKeys
from services.api.repeating import Offers, until_answered
from services.api.requests.containers import AttachQuery, LogsQuery
from services.api.resuming import AttachedOutput, LogOutput
from services.api.routing import EdgeRouter
from services.api.streaming import StreamedResponse, end_stream, pump
from shared.bus.streams import ByteStream, StreamRef
from shared.contracts import containers as contracts
from shared.contracts.containers import Attach, AttachInfo, Detached, Logs
from shared.errors import InvalidArgument

RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
MOST_DIGITS = 20
FIRST_MULTIPLEXED_VERSION = (1, 42)
HIJACKED = streams(RAW, "From here on both sides send bytes, each until it ends its direction.") | {
    101: {"description": "As 200, for a request that asks for an upgrade."}
}

router = EdgeRouter("Container")


def content_type(call: Call, tty: bool) -> str:
    return RAW if tty or call.version < FIRST_MULTIPLEXED_VERSION else MULTIPLEXED


def attach_request(container: str, query: AttachQuery, ref: StreamRef) -> Attach:
    return Attach(
        ref=container,
        stream=ref,
        key=secrets.token_hex(8),
        stdin=query.stdin,
        stdout=query.stdout,
        stderr=query.stderr,
        stream_output=query.stream,
        logs=query.logs,
    )


@router.post(
    "/containers/{ref}/attach",
    operation_id="ContainerAttach",
    response_class=Response,
    responses=HIJACKED | may(404, 409),
)
async def attach(call: Call, ref: ContainerName, query: Annotated[AttachQuery, Query()]) -> Response | None:
    """Join a container's process: its output, and its input."""
    keys = DetachKeys(query.detach_keys or DEFAULT_KEYS)
    stream, request, info = await _attached(call, ref, query)
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
        await call.ask(contracts.DETACHED, Detached(ref=ref))
    return None


async def _attached(call: Call, ref: str, query: AttachQuery) -> tuple[ByteStream, Attach, AttachInfo]:
    """The stream that was accepted; asked again, when control dies over it, as the same client."""
    offers = Offers(call.deps.offer)
    request = attach_request(ref, query, (await offers.another()).ref)

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


@router.get(
    "/containers/{ref}/attach/ws",
    operation_id="ContainerAttachWebsocket",
    response_class=Response,
    responses=HIJACKED | may(404, 409),
)
async def attach_websocket(call: Call, ref: ContainerName, query: Annotated[AttachQuery, Query()]) -> Response | None:
    """As attach, in WebSocket frames. Docker sends the streams unframed there."""
    key = websocket.handshake_key(call.headers)
    stream, _, info = await _attached(call, ref, query)
    try:
        raw = await call.hijack_raw(101, websocket.accept_headers(key))
    except BaseException:
        await end_stream(stream, finished=False)
        raise
    await websocket.pump(raw, stream, multiplexed=not info.tty)
    return None


def logs_request(ref: str, query: LogsQuery) -> Logs:
    if not query.stdout and not query.stderr:
        raise InvalidArgument("Bad parameters: you must choose at least one stream")
    return Logs(
        ref=ref,
        stream=StreamRef(id=""),
        stdout=query.stdout,
        stderr=query.stderr,
        follow=query.follow,
        since_ns=query.since,
        until_ns=query.until,
        timestamps=query.timestamps,
        tail=tail_of(query.tail),
        details=query.details,
    )


def tail_of(text: str) -> int:
    """How many lines; -1 for all, which is everything that is no number."""
    return min(int(text[:MOST_DIGITS]), 2**63 - 1) if text.isascii() and text.isdecimal() else -1


@router.get(
    "/containers/{ref}/logs",
    operation_id="ContainerLogs",
    response_class=Response,
    responses=streams(MULTIPLEXED, "Lines of the log.") | may(404),
)
async def logs(call: Call, ref: ContainerName, query: Annotated[LogsQuery, Query()]) -> Response:
    """What a container's process has written."""
    output = LogOutput(call, logs_request(ref, query))
    try:
        info = await output.open()
    except BaseException:
        await output.aclose()
        raise
    return StreamedResponse(call, output, media_type="", headers={"Content-Type": content_type(call, info.tty)})
