"""Joining a client's byte stream to a process's stdio.

The shim serves attach on its socket; what it sends is already what the client reads (multiplexed frames, or raw for
a TTY), so bytes pass through unchanged. A slow client slows its own copy only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from shared.bus.streams import ByteStream
from shared.errors import DavitError, Unavailable

log = logging.getLogger(__name__)

READ_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class AttachSpec:
    """Which of the three a client wants."""

    stdin: bool = False
    stdout: bool = False
    stderr: bool = False


@dataclass(slots=True)
class PendingAttach:
    """A client that attached before the container started; `ready` is set once it is joined or given up."""

    spec: AttachSpec
    stream: ByteStream
    taken: asyncio.Event = field(default_factory=asyncio.Event)


async def _output(reader: asyncio.StreamReader, stream: ByteStream) -> None:
    while data := await reader.read(READ_BYTES):
        await stream.write(data)


async def _input(stream: ByteStream, writer: asyncio.StreamWriter) -> None:
    async for data in stream:
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def join(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    stream: ByteStream,
    spec: AttachSpec,
    before_close: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Copy both ways until the process's output ends or the client goes.

    Args:
        before_close: Awaited after the last byte of output and before the client sees its end, so that whoever asks
            for the exit code then finds it.
    """
    stdin = asyncio.create_task(_input(stream, writer))
    try:
        try:
            await _output(reader, stream)
        except (DavitError, ConnectionError) as error:
            log.debug("client of an attached stream is gone: %s", error)
            return
        if before_close is not None:
            await before_close()
        await stream.close_write()
    except DavitError as error:
        log.debug("attached stream ended: %s", error)
    except asyncio.CancelledError:
        await stream.fail(Unavailable("the node's agent is being stopped"))  # not the end of the process
        raise
    finally:
        stdin.cancel()
        await asyncio.gather(stdin, return_exceptions=True)
        writer.close()
        await stream.aclose()
