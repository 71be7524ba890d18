"""Docker's progress lines: JSON objects, one per line, that clients draw bars from.

Source: moby pkg/jsonmessage (the bar and its numbers), docker/go-units HumanSize.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

import orjson

from shared.bus.streams import ByteStream, StreamBroken, StreamCancelled
from shared.errors import (
    Conflict,
    DavitError,
    DeadlineExceeded,
    Forbidden,
    InvalidArgument,
    NotFound,
    Unauthorized,
    Unavailable,
    Unreachable,
    Unsupported,
)

BAR_WIDTH = 50
UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
EVERY_S = 0.1
# What the API edge takes from a line that is the very first, before it has promised success.
_STATUS: tuple[tuple[type[DavitError], int], ...] = (
    (NotFound, 404),
    (Conflict, 409),
    (Unsupported, 501),
    (InvalidArgument, 400),
    (Unauthorized, 401),
    (Forbidden, 403),
    (Unreachable, 500),
    (Unavailable, 503),
    (DeadlineExceeded, 504),
)


def human_size(size: float) -> str:
    """``10.24kB``: four significant digits, decimal units."""
    unit = 0
    while size >= 1000 and unit < len(UNITS) - 1:
        size /= 1000
        unit += 1
    return f"{size:.4g}{UNITS[unit]}"


def bar(current: int, total: int) -> str:
    """The bar that clients without one of their own print."""
    if total <= 0 or current > total:
        return f"{human_size(current):>8}"
    done = min(BAR_WIDTH, current * 100 // total // 2)
    arrow = "=" * done + ">" + " " * (BAR_WIDTH - done)
    return f"[{arrow}] {human_size(current):>8}/{human_size(total)}"


class Sink(Protocol):
    async def write(self, data: bytes) -> None: ...


class Progress:
    """The lines of one piece of work.

    Attributes:
        started: Whether a line was written: from then on errors are lines too.
    """

    def __init__(self, sink: Sink, *, quiet: bool = False) -> None:
        self._sink = sink
        self._quiet = quiet
        self._lock = asyncio.Lock()
        self._last: dict[str, float] = {}
        self.started = False

    async def line(self, record: Mapping[str, Any]) -> None:
        async with self._lock:
            self.started = True
            await self._sink.write(orjson.dumps(record) + b"\r\n")

    async def stream(self, text: str) -> None:
        """A line of text, as programs print it."""
        await self.line({"stream": text})

    async def status(self, text: str, item: str = "") -> None:
        record = {"status": text}
        if item:
            record = {"status": text, "progressDetail": {}, "id": item}  # type: ignore[dict-item]
        if not self._quiet:
            await self.line(record)

    async def advance(self, text: str, item: str, current: int, total: int) -> None:
        """How far an item is. Lines that would follow each other too fast are left out, but not the last."""
        now = time.monotonic()
        if self._quiet or (current < total and now - self._last.get(item, 0) < EVERY_S):
            return
        self._last[item] = now
        detail = {"current": current, "total": total}
        await self.line({"status": text, "progressDetail": detail, "progress": bar(current, total), "id": item})

    async def aux(self, value: Mapping[str, Any]) -> None:
        await self.line({"progressDetail": {}, "aux": value})

    async def error(self, error: DavitError) -> None:
        """The work failed; nothing follows."""
        code = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
        await self.line({"errorDetail": {"code": code, "message": error.message}, "error": error.message})


@asynccontextmanager
async def reported(stream: ByteStream, *, quiet: bool = False, promised: bool = False) -> AsyncIterator[Progress]:
    """Work that tells its progress on a stream, which is ended here whatever happens.

    An error before the first line ends the stream with it, so that the client gets a status; later it is a line.
    A client that goes away cancels the work.

    Args:
        promised: The client has been told of success, whatever comes: errors are lines from the beginning.
    """
    async with stream:
        progress = Progress(stream, quiet=quiet)
        progress.started = promised
        try:
            yield progress
        except (StreamCancelled, StreamBroken):
            raise
        except DavitError as error:
            if not progress.started:
                raise
            await progress.error(error)


async def unless_gone(stream: ByteStream, work: asyncio.Task[None]) -> None:
    """Let a task finish, or cancel it when the other end of its stream goes away. Raises what the task raises."""
    gone = asyncio.create_task(stream.gone(), name="client")
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        if not work.done():
            work.cancel()
    await asyncio.gather(work, return_exceptions=False)
