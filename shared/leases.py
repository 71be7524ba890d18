"""Leases: whatever must run once in a cluster runs where the lease is.

A lease is a key of a JetStream key-value bucket whose entries expire. The holder renews it; when it dies, another
takes over once the entry has expired. A holder that cannot renew stops counting itself as holder before that moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import nats.errors
import nats.js.errors
from nats.js.api import KeyValueConfig, StorageType

from shared.errors import Unavailable

if TYPE_CHECKING:
    from nats.js.kv import KeyValue

    from shared.bus import Bus

log = logging.getLogger(__name__)

BUCKET = "leases"
TTL_S = 9.0
RENEW_S = 3.0
# A holder gives up this long before its entry expires, so that two never count at once.
MARGIN_S = 1.0
_ERRORS = (nats.errors.Error, nats.js.errors.Error, TimeoutError, OSError)


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

    async def _bucket(self) -> KeyValue:
        try:
            return await self._bus.jetstream.key_value(BUCKET)
        except nats.js.errors.BucketNotFoundError:
            config = KeyValueConfig(bucket=BUCKET, ttl=self._ttl_s, history=1, storage=StorageType.FILE)
            return await self._bus.jetstream.create_key_value(config)

    async def _acquire(self) -> bool:
        asked_at = asyncio.get_running_loop().time()
        try:
            self._revision = await (await self._bucket()).create(self._name, self._holder.encode())
        except nats.js.errors.KeyWrongLastSequenceError:
            return False
        except _ERRORS as error:
            log.debug("lease %s: %s", self._name, error)
            return False
        self._held_until = asked_at + self._ttl_s - MARGIN_S
        return True

    async def _renew(self) -> bool:
        asked_at = asyncio.get_running_loop().time()
        try:
            bucket = await self._bucket()
            self._revision = await bucket.update(self._name, self._holder.encode(), last=self._revision)
        except nats.js.errors.KeyWrongLastSequenceError:
            self._held_until = 0.0  # another has it
            return False
        except _ERRORS as error:
            log.debug("lease %s not renewed: %s", self._name, error)
            return False
        self._held_until = asked_at + self._ttl_s - MARGIN_S
        return True

    async def _release(self) -> None:
        if not self.held:
            return
        self._held_until = 0.0
        with contextlib.suppress(*_ERRORS):
            await (await self._bucket()).delete(self._name, last=self._revision)

    async def holder(self) -> str:
        """Who holds the lease; empty when nobody does. Raises Unavailable."""
        try:
            value = (await (await self._bucket()).get(self._name)).value
        except nats.js.errors.KeyNotFoundError:
            return ""
        except _ERRORS as error:
            raise Unavailable(f"lease {self._name} cannot be read: {error or type(error).__name__}") from error
        return (value or b"").decode()
