"""Request bodies kept in a file, to be handed to a service of the same machine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from shared.errors import Unavailable
from shared.handover import unnamed_file
from shared.streams import StreamCancelled

if TYPE_CHECKING:
    from services.api.call import Call
    from shared.streams import ByteStream

log = logging.getLogger(__name__)

# So much is written at once, in a thread: the disk may be slow, and others are served meanwhile.
WRITE_BYTES = 1 << 20


@asynccontextmanager
async def received_file(call: Call) -> AsyncIterator[BinaryIO | None]:
    """The request's body, whole, in an unnamed file; None, and the body unread, where the engine keeps no data."""
    try:
        file = unnamed_file(Path(call.deps.facts.data_root))
    except OSError as error:
        log.debug("request bodies go over the bus: %s", error)
        yield None
        return
    with file:
        await _receive(call, file)
        yield file


async def _receive(call: Call, file: BinaryIO) -> None:
    waiting: list[bytes] = []
    size = 0
    async for chunk in call.stream():
        waiting.append(chunk)
        size += len(chunk)
        if size >= WRITE_BYTES:
            await asyncio.to_thread(_write, file, waiting)
            waiting, size = [], 0
    await asyncio.to_thread(_write, file, waiting)


def _write(file: BinaryIO, chunks: list[bytes]) -> None:
    try:
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                view = view[file.write(view) :]
    except OSError as error:
        raise Unavailable(f"the request's body cannot be stored: {error.strerror}") from error


async def send_file(file: BinaryIO, stream: ByteStream) -> None:
    """Write a file, from its beginning, to a stream; a peer that reads no further has its reasons, and tells them."""
    await asyncio.to_thread(file.seek, 0)
    with suppress(StreamCancelled):
        while chunk := await asyncio.to_thread(file.read, WRITE_BYTES):
            await stream.write(chunk)
