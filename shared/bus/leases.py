"""Leases: whatever must run once in a cluster runs where the lease is.

A lease is a key of a JetStream key-value bucket whose entries expire. The holder renews it; when it dies, another
takes over once the entry has expired. A holder that cannot renew stops counting itself as holder before that moment.
The bucket is gone when its server is; a holder notices at its next renewal, and others let it go first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from shared.bus import jetstream
from shared.errors import Conflict, DavitError, NotFound

if TYPE_CHECKING:
    from shared.bus.client import Bus

log = logging.getLogger(__name__)

BUCKET = "leases"
TTL_S = 9.0
RENEW_S = 3.0
# A holder gives up this long before its entry expires, so that two never count at once.
MARGIN_S = 1.0


class Lease:
    """One contender for a named lease.

    Args:
        name: What is leased, such as ``control.reconcile``.
        holder: Who contends, unique per process.
    """

    def __init__(self, bus: Bus, name: str, holder: str, *, ttl_s: float = TTL_S, renew_s: float = RENEW_S) -> None:
        self._bus = bus
        self._name = name
        self._holder = holder
        self._ttl_s = ttl_s
        self._renew_s = renew_s
        self._revision = 0
        self._held_until = 0.0
        self._not_before = 0.0
        bus.on_reconnect(self._reconnected)

    async def _reconnected(self) -> None:
        """The entry may be gone, and its holder not know it yet."""
        if not self.held:
            self._not_before = asyncio.get_running_loop().time() + self._ttl_s

    @property
    def held(self) -> bool:
        """Whether this process is the holder, now."""
        return asyncio.get_running_loop().time() < self._held_until

    async def hold(self, work: Callable[[], Awaitable[None]]) -> None:
        """Contend for ever; run the work whenever the lease is held, and cancel it when the lease is lost.

        The work is an endless loop; when it returns, the lease is given back and contended for again.
        """
        while True:
            if await self._acquire():
                log.info("holding the lease %s", self._name)
                try:
                    await self._work_and_renew(work)
                finally:
                    await self._release()
            await asyncio.sleep(self._renew_s)

    async def _work_and_renew(self, work: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.ensure_future(work())
        try:
            while not task.done():
                await asyncio.wait([task], timeout=self._renew_s)
                if not task.done() and not await self._renew() and not self.held:
                    log.warning("lost the lease %s", self._name)
                    return
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _acquire(self) -> bool:
        asked_at = asyncio.get_running_loop().time()
        if asked_at < self._not_before:
            return False
        try:
            entry = await self._entry()
            if entry is not None and not entry.deleted:
                return False
            self._revision = await self._put(entry.revision if entry is not None else 0)
        except Conflict:
            return False
        except DavitError as error:
            log.debug("lease %s: %s", self._name, error)
            return False
        self._held_until = asked_at + self._ttl_s - MARGIN_S
        return True

    async def _renew(self) -> bool:
        asked_at = asyncio.get_running_loop().time()
        try:
            self._revision = await self._put(self._revision)
        except Conflict:
            self._held_until = 0.0  # another has it
            return False
        except DavitError as error:
            log.debug("lease %s not renewed: %s", self._name, error)
            return False
        self._held_until = asked_at + self._ttl_s - MARGIN_S
        return True

    async def _entry(self) -> jetstream.Entry | None:
        return await jetstream.get(self._bus, BUCKET, self._name)

    async def _put(self, last: int) -> int:
        try:
            return await jetstream.put(self._bus, BUCKET, self._name, self._holder.encode(), last=last)
        except NotFound:
            await jetstream.create_bucket(self._bus, BUCKET, ttl_s=self._ttl_s)
        return await jetstream.put(self._bus, BUCKET, self._name, self._holder.encode(), last=0)

    async def _release(self) -> None:
        if not self.held:
            return
        self._held_until = 0.0
        with contextlib.suppress(DavitError):
            await jetstream.delete(self._bus, BUCKET, self._name, last=self._revision)

    async def holder(self) -> str:
        """Who holds the lease; empty when nobody does. Raises Unavailable."""
        entry = await self._entry()
        return "" if entry is None or entry.deleted else entry.value.decode()
