"""Waiting for containers to change, whichever copy of control makes the change.

After each commit the id goes out on the bus (``davit.state.<id>``, nothing more: what changed is in the database).
A waiter registers before it reads, so a change between the read and the wait is not missed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from nats.aio.msg import Msg

from shared.bus.client import Bus
from shared.errors import Unavailable

log = logging.getLogger(__name__)

SUBJECT = "davit.state."


class Changes:
    """Wakes waiters of this process; tells the other copies."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._waiters: dict[str, set[asyncio.Event]] = {}

    async def start(self) -> None:
        await self._bus.nats.subscribe(SUBJECT + "*", cb=self._heard)

    async def _heard(self, message: Msg) -> None:
        self._wake(message.subject.removeprefix(SUBJECT))

    def _wake(self, container_id: str) -> None:
        for event in self._waiters.get(container_id, ()):
            event.set()

    async def announce(self, container_id: str) -> None:
        """Call after a commit that changed a container."""
        self._wake(container_id)
        try:
            await self._bus.publish(SUBJECT + container_id, b"")
        except Unavailable as error:  # what is committed stands; other copies' waiters look again when patience ends
            log.debug("change of %s not announced: %s", container_id[:12], error)

    @contextmanager
    def watch(self, container_id: str) -> Iterator[asyncio.Event]:
        """An event that is set at every change of the container; clear it before reading."""
        event = asyncio.Event()
        self._waiters.setdefault(container_id, set()).add(event)
        try:
            yield event
        finally:
            waiters = self._waiters[container_id]
            waiters.discard(event)
            if not waiters:
                del self._waiters[container_id]
