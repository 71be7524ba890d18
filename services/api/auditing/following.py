"""Following the audit log for many at once: one question to the audit service for all who are at its end.

The newest records are kept here. Who is behind them, because it began there or is slow, asks for its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from shared.contracts.audit import READ, ReadRecords, Records
from shared.errors import DavitError, NotFound

if TYPE_CHECKING:
    from services.api.call import Requester

KEPT_BYTES = 1 << 20
WAIT_S = 20.0
PAUSE_S = 0.5
FOLLOWERS_PER_S = 4000
# A follower hears something at least this often, so that whoever is in between sees that it lives.
QUIET_S = 15.0


class Follower:
    """Shared by all requests that follow."""

    def __init__(self, bus: Requester) -> None:
        self._bus = bus
        self._kept: deque[str] = deque()
        self._kept_bytes = 0
        self._end = -1  # the number after the last one kept
        self._come = asyncio.Condition()
        self._followers = 0
        self._tail: asyncio.Task[None] | None = None

    async def follow(self, first: int) -> AsyncIterator[tuple[int, list[str]]]:
        """Records from a number on, for ever, in batches with the number of their first; an empty one when it is quiet.

        What was removed is left out: the numbers tell.
        """
        self._enter(first)
        try:
            while True:
                lines = self._at_hand(first)
                if lines is None:
                    lines = await self._asked_for(first)
                    if lines is None:
                        first = await self._oldest(first)
                        continue
                if not lines:
                    if not await self._wait(first):
                        yield first, []
                    continue
                yield first, lines
                first += len(lines)
                # The more follow, the more records each of them gets at once: nobody else is to wait for all of these.
                await asyncio.sleep(self._followers / FOLLOWERS_PER_S)
        finally:
            self._leave()

    def _enter(self, first: int) -> None:
        self._followers += 1
        if self._tail is None:
            self._end = -1
            self._kept.clear()
            self._kept_bytes = 0
            self._tail = asyncio.ensure_future(self._run(first))

    def _leave(self) -> None:
        self._followers -= 1
        if not self._followers and self._tail is not None:
            self._tail.cancel()
            self._tail = None

    def _at_hand(self, first: int) -> list[str] | None:
        """What is kept here from that number on; None when it is not known here."""
        begin = self._end - len(self._kept)
        if self._end < 0 or first < begin or first > self._end:
            return None
        return [self._kept[at] for at in range(first - begin, len(self._kept))]

    async def _asked_for(self, first: int) -> list[str] | None:
        try:
            return (await self._bus.request(READ, ReadRecords(first=first))).lines
        except NotFound:
            return None

    async def _oldest(self, first: int) -> int:
        try:
            await self._bus.request(READ, ReadRecords(first=first))
        except NotFound as error:
            return int(error.detail.get("first", first))
        return first

    async def _wait(self, first: int) -> bool:
        """Whether something has come."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(QUIET_S), self._come:
                await self._come.wait_for(lambda: self._end > first)
                return True
        return False

    async def _run(self, first: int) -> None:
        """Ask for what comes, as long as somebody follows."""
        size = -1
        while True:
            try:
                if size < 0:
                    size = (await self._bus.request(READ, ReadRecords(first=first, limit=1))).size
                page = await self._bus.request(READ, ReadRecords(first=size, wait_s=WAIT_S), deadline_s=WAIT_S + 10)
            except DavitError:
                await asyncio.sleep(PAUSE_S)
                continue
            size = page.first + len(page.lines)
            await self._keep(page)

    async def _keep(self, page: Records) -> None:
        self._end = page.first + len(page.lines)
        for line in page.lines:
            self._kept.append(line)
            self._kept_bytes += len(line)
        while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
            self._kept_bytes -= len(self._kept.popleft())
        if page.lines:
            async with self._come:
                self._come.notify_all()
