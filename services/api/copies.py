"""Archives between clients and the node: through a pipe on the same machine, on a stream of the bus otherwise.

The pipe spares each piece the way over the bus; whoever packs or unpacks has the pipe itself as input or output. The
stream beside it carries what a pipe cannot: that the archive was whole, or why it was not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from services.api.received import send_body
from services.api.repeating import until_answered
from services.api.streaming import REASON_S, StreamedResponse, drain, end_stream, end_tasks, upload_body
from shared.bus.handover import PIPED, Inbox, PipeRef, Sender
from shared.errors import DavitError

if TYPE_CHECKING:
    from starlette.responses import Response

    from services.api.call import Call
    from shared.bus.streams import ByteStream

Request = Callable[["ByteStream", PipeRef], Awaitable[Any]]


class Download:
    """What comes through the pipe, then what comes on the stream, and the stream's end. One of the two is empty."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._pipe = Inbox()
        self._piped = True

    def ref(self) -> PipeRef:
        return self._pipe.ref()

    async def begin(self) -> None:
        """The other side has answered."""
        self._pipe.given()
        await self._stream.close_write()

    async def read(self) -> bytes:
        if self._piped:
            if data := await self._pipe.read():
                return data
            self._piped = False
        return await self._stream.read()

    async def cancel(self, reason: str) -> None:
        self._pipe.close()
        await self._stream.cancel(reason)

    async def aclose(self) -> None:
        self._pipe.close()
        await self._stream.aclose()


async def download(
    call: Call, request: Request, *, media_type: str, headers: Callable[[Any], dict[str, str]] | None = None
) -> Response:
    """A body that a node packs. `headers` is made from the reply."""

    async def ask(_: int) -> tuple[Download, Any]:
        stream = await call.deps.offer()
        output = Download(stream)
        try:
            reply = await request(stream, output.ref())
            await output.begin()
        except BaseException:
            await end_stream(output, finished=False)
            raise
        return output, reply

    answered = await until_answered(ask)
    assert answered is not None  # no error counts as done
    output, reply = answered
    return StreamedResponse(call, output, media_type=media_type, headers=headers(reply) if headers else None)


async def upload(call: Call, request: Request) -> None:
    """A body that a node unpacks; done when all of it has been used."""
    stream = await call.deps.offer()
    pipe = Sender()
    asking = asyncio.ensure_future(request(stream, pipe.ref()))
    sending = asyncio.create_task(_send(call, stream, pipe))
    finished = False
    try:
        await asyncio.wait({asking, sending}, return_when=asyncio.FIRST_COMPLETED)
        if not asking.done() and (failure := sending.exception()) is not None:
            if isinstance(failure, DavitError):  # nobody takes the body any more: the answer says why
                await asyncio.wait({asking}, timeout=REASON_S)
            if not asking.done():
                raise failure
        await asking
        finished = True
    except DavitError:
        await end_tasks(sending)
        await drain(call)
        raise
    finally:
        await end_tasks(asking, sending)
        pipe.close()
        await end_stream(stream, finished=finished)


async def _send(call: Call, stream: ByteStream, pipe: Sender) -> None:
    """Send the body on the way that the other side has chosen with its first word, and say that it was whole."""
    if await stream.read() != PIPED:
        await upload_body(call, stream)
        return
    pipe.taken()
    await send_body(call, pipe)
    pipe.close()
    await stream.close_write()
