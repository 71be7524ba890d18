"""Steps that several builds want at the same time: one does it, the others wait for what it led to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Flight:
    """A step under way. awaited: Somebody waits for it."""

    def __init__(self) -> None:
        self.awaited = False
        self.ended = asyncio.Event()


class Flights:
    """Steps that are being done in this process, by parent image and cache key."""

    def __init__(self) -> None:
        self._under_way: dict[tuple[str, str], Flight] = {}

    async def wait(self, parent_id: str, key: str) -> bool:
        """Whether somebody was doing the step; it is over then, well or not."""
        flight = self._under_way.get((parent_id, key))
        if flight is None:
            return False
        flight.awaited = True
        await flight.ended.wait()
        return True

    @asynccontextmanager
    async def doing(self, parent_id: str, key: str) -> AsyncIterator[Flight]:
        """Whoever wants the same step within the block waits for its end."""
        flight = self._under_way[parent_id, key] = Flight()
        try:
            yield flight
        finally:
            if self._under_way.get((parent_id, key)) is flight:
                del self._under_way[parent_id, key]
            flight.ended.set()
