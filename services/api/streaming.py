"""Bytes between clients and the bus: bodies in, bodies out, and raw connections, all with back-pressure.

Every function here owns the stream it is given and leaves it ended: closed when all went well, cancelled when the
client went away or something failed, so that the service at the other end never works for nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol

import orjson
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from services.api.errors import error_of
from services.api.hijack import RawConnection
from services.api.repeating import until_answered
from shared.docker.frames import SYSTEM_ERROR, frame
from shared.errors import DavitError

if TYPE_CHECKING:
    from services.api.call import Call
    from services.api.detach import DetachKeys
    from shared.bus.streams import ByteStream

log = logging.getLogger(__name__)

DRAIN_BYTES = 256 * 1024
DRAIN_S = 1.0
# Source: moby's stdcopy package, `Systemerr`.
# How long the reason may take to arrive after a body found no taker.
REASON_S = 5.0


class Output(Protocol):
    """What a response's body, or a raw connection, is fed from: a stream, or what stands for several."""

    async def read(self) -> bytes: ...

    async def aclose(self) -> None: ...


class CancellableOutput(Output, Protocol):
    async def cancel(self, reason: str) -> None: ...


class StreamedResponse(Response):
    """A response whose head leaves at once and whose body follows from a byte stream.

    Args:
        first: Bytes that were read ahead.
        upload: A task that fills the other direction; it ends with the response.
    """

    def __init__(
        self,
        call: Call,
        stream: CancellableOutput,
        *,
        media_type: str,
        headers: dict[str, str] | None = None,
        first: bytes = b"",
        upload: asyncio.Task[None] | None = None,
    ) -> None:
        super().__init__(None, 200, headers, media_type)
        self._call = call
        self._stream = stream
        self._first = first
        self._upload = upload
        # Response computes a length for its empty body; this body is chunked.
        self.raw_headers = [pair for pair in self.raw_headers if pair[0] != b"content-length"]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        body = asyncio.create_task(self._send_body(send))
        gone = asyncio.create_task(self._wait_gone())
        try:
            await asyncio.wait({body, gone}, return_when=asyncio.FIRST_COMPLETED)
            if body.done():
                body.result()
        finally:
            await end_tasks(body, gone, self._upload)
            await end_stream(self._stream, finished=body.done() and not body.cancelled() and body.exception() is None)

    async def _wait_gone(self) -> None:
        if self._upload is not None:
            await asyncio.wait({self._upload})
        await self._call.wait_disconnect()

    async def _send_body(self, send: Any) -> None:
        if self._first:
            await send({"type": "http.response.body", "body": self._first, "more_body": True})
        while chunk := await self._stream.read():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def upload_body(call: Call, stream: ByteStream) -> None:
    """Send the request's body into the stream, and end that direction."""
    async for chunk in call.stream():
        if chunk:
            await stream.write(chunk)
    await stream.close_write()


async def progress_response(
    call: Call,
    request: Callable[[ByteStream], Awaitable[Any]],
    *,
    upload: Callable[[ByteStream], Coroutine[Any, Any, None]] | None = None,
    media_type: str = "application/json",
    promised: bool = False,
) -> Response:
    """Long work with JSON progress lines: pull, push, load, import, build.

    When the very first line is already an error, nothing has been promised yet and the error is the answer, with a
    status of its own; SDKs tell a missing image from a broken pull by that.

    Args:
        request: Sends the request that names the stream.
        upload: Sends the request's body to where `request` said that it comes from.
        promised: Once the work is taken on, the answer is 200, whatever the first line says.
    """
    stream = await call.deps.offer()
    sending: asyncio.Task[None] | None = None
    try:
        await request(stream)
        if upload is not None:
            sending = asyncio.create_task(upload(stream))
        else:
            await stream.close_write()
        first = await _first_chunk(stream, sending)
        if not promised and (error := first_error(first)):
            raise error
    except BaseException as error:
        await end_tasks(sending)
        await end_stream(stream, finished=False)
        if upload is not None and isinstance(error, DavitError):
            await drain(call)
        raise
    return StreamedResponse(call, stream, media_type=media_type, first=first, upload=sending)


async def _first_chunk(stream: ByteStream, sending: asyncio.Task[None] | None) -> bytes:
    """The first bytes of the answer. A client that goes away while it still sends ends the wait."""
    reading = asyncio.ensure_future(stream.read())
    try:
        if sending is not None:
            await asyncio.wait({reading, sending}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done() and not reading.done() and (failure := sending.exception()) is not None:
                if isinstance(failure, DavitError):
                    await asyncio.wait({reading}, timeout=REASON_S)
                if not reading.done():
                    raise failure
        return await reading
    finally:
        if not reading.done():
            reading.cancel()


def first_error(first: bytes) -> DavitError | None:
    """The error in a first progress line, if it is one: ``{"errorDetail": {"code": 404, "message": …}, …}``."""
    line = first.split(b"\n", 1)[0]
    if b'"errorDetail"' not in line:
        return None
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    detail = record.get("errorDetail") or {}
    return error_of(int(detail.get("code") or 500), str(detail.get("message") or record.get("error") or ""))


async def download_response(
    call: Call,
    request: Callable[[ByteStream], Awaitable[Any]],
    *,
    media_type: str,
    headers: Callable[[Any], dict[str, str]] | None = None,
) -> Response:
    """A body that leaves on a stream. `headers` is made from the reply."""

    async def ask(_: int) -> tuple[ByteStream, Any]:
        stream = await call.deps.offer()
        try:
            reply = await request(stream)
            await stream.close_write()
        except BaseException:
            await end_stream(stream, finished=False)
            raise
        return stream, reply

    answered = await until_answered(ask)
    assert answered is not None  # no error counts as done
    stream, reply = answered
    return StreamedResponse(call, stream, media_type=media_type, headers=headers(reply) if headers else None)


async def drain(call: Call, *, whole: bool = False) -> None:
    """Take in the rest of a body that nobody wants, if it is short or all of it is to go, before its refusal is sent.

    Clients that are told while they still send complain about the sending too. Go's server does the same.
    """
    size = 0
    with contextlib.suppress(TimeoutError, ClientDisconnect, RuntimeError):  # RuntimeError: it has been read already
        async with asyncio.timeout(None if whole else DRAIN_S):
            async for chunk in call.stream():
                size += len(chunk)
                if size > DRAIN_BYTES and not whole:
                    return


async def pump(
    connection: RawConnection,
    stream: ByteStream,
    *,
    tty: bool,
    output: Output | None = None,
    stdin: bool = True,
    detach: DetachKeys | None = None,
) -> None:
    """Join a raw connection and a stream until the stream's other end has finished or the client is gone.

    The client's half-close becomes the stream's; the end of the stream closes the connection. The detach keys, when
    there are any, end the connection and leave the process alone. A client whose process cannot be reached any more is
    told so.

    Args:
        output: What the client reads, if that is more than the stream.
    """
    inward = asyncio.create_task(_client_to_stream(connection, stream, stdin, detach))
    outward = asyncio.create_task(_output_to_client(stream if output is None else output, connection))
    gone = asyncio.create_task(connection.wait_lost())
    try:
        await asyncio.wait({outward, gone}, return_when=asyncio.FIRST_COMPLETED)
        if outward.done():
            outward.result()
    except ConnectionResetError:
        log.debug("the client left its raw connection")
    except DavitError as error:
        log.info("raw connection ended: %s", error)
        await tell(connection, f"the connection to the process is lost, it may still run: {error.message}", tty=tty)
    finally:
        await end_tasks(inward, outward, gone)
        await end_stream(stream, finished=outward.done() and not outward.cancelled() and outward.exception() is None)
        await connection.finish()


async def _client_to_stream(
    connection: RawConnection, stream: ByteStream, stdin: bool, detach: DetachKeys | None
) -> None:
    if not stdin:
        await stream.close_write()
    while data := await connection.read():
        if detach is not None:
            data = detach.feed(data)
        if stdin and data:
            await stream.write(data)
        if detach is not None and detach.seen:
            connection.close()
            return
    if stdin and not connection.lost:
        await stream.close_write()


async def _output_to_client(output: Output, connection: RawConnection) -> None:
    while chunk := await output.read():
        await connection.write(chunk)


async def tell(connection: RawConnection, text: str, *, tty: bool, stream: int = SYSTEM_ERROR) -> None:
    """Say on a raw connection what is wrong with it.

    Args:
        stream: Which, where there are several. Clients fail with what comes as a system error.
    """
    line = text.encode() + b"\r\n"
    with contextlib.suppress(ConnectionResetError):  # the client is gone, too
        await connection.write(line if tty else frame(stream, line))


async def end_tasks(*tasks: asyncio.Future[Any] | None) -> None:
    """Cancel what still runs and wait for it; outcomes were looked at already, or no longer matter."""
    running = [task for task in tasks if task is not None]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def end_stream(stream: CancellableOutput, *, finished: bool) -> None:
    with contextlib.suppress(DavitError):  # the peer may have gone first
        if not finished:
            await stream.cancel("the client has gone")
        await stream.aclose()


async def flushed(lines: AsyncIterator[bytes], call: Call, *, media_type: str) -> None:
    """Answer with what an iterator gives, each item in a chunk of its own, the head before the first of them."""
    headers = [(b"content-type", media_type.encode())]
    await call.reply({"type": "http.response.start", "status": 200, "headers": headers})
    body = asyncio.create_task(_send_lines(lines, call))
    gone = asyncio.create_task(call.wait_disconnect())
    try:
        await asyncio.wait({body, gone}, return_when=asyncio.FIRST_COMPLETED)
        if body.done():
            body.result()
    finally:
        await end_tasks(body, gone)


async def _send_lines(lines: AsyncIterator[bytes], call: Call) -> None:
    async for line in lines:
        await call.reply({"type": "http.response.body", "body": line, "more_body": True})
    await call.reply({"type": "http.response.body", "body": b""})
