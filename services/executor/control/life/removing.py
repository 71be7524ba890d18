"""Remove: mark, clean up on the node and with the others, forget. Whoever finds the mark finishes the removal."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from services.executor.control.domain import Record
from services.executor.control.life.endpoints import Endpoints
from services.executor.control.peers import Peers
from services.executor.control.state import sql
from services.executor.control.state.records import Records
from shared.bus.context import is_own_work
from shared.errors import Conflict, DavitError, NotFound
from shared.events.record import DomainEvent
from shared.failpoints import holdpoint

log = logging.getLogger(__name__)

ENDED = "it has ended and was to be removed then"
GOES_ON = "its removal goes on"


class Removing:
    """Removes containers that do not run."""

    def __init__(
        self, records: Records, peers: Peers, endpoints: Endpoints, spawn: Callable[..., asyncio.Task[Any]]
    ) -> None:
        self._records = records
        self._peers = peers
        self._endpoints = endpoints
        self._spawn = spawn
        self._finishing: dict[str, asyncio.Event] = {}

    async def remove(self, record: Record, *, volumes: bool) -> None:
        """Remove a container; returns when it is gone.

        Raises:
            Conflict: It runs (again).
            Unavailable, DeadlineExceeded: Not gone yet; the reconciler finishes it.
        """
        if record.status != "removing":

            def mark(current: Record) -> list[DomainEvent]:
                if current.status != "removing":
                    current.remove(volumes=volumes)
                return []

            record = await self._records.change(record, mark)
            await holdpoint("control.remove.after_mark")
        await self.finish(record)

    def finish_soon(self, record: Record) -> None:
        """Finish a removal that has been marked, beside what is being done; unless that is under way."""
        if record.id not in self._finishing:
            self._spawn(self._finish_quietly(record), name=f"remove {record.id[:12]}")

    async def _finish_quietly(self, record: Record) -> None:
        try:
            await self.finish(record)
        except DavitError as error:  # the reconciler comes back to it
            log.warning("container %s not removed yet: %s", record.id[:12], error)

    async def finish(self, record: Record) -> None:
        """Finish a removal that has been marked, or wait for who is at it. Each step is idempotent."""
        under_way = self._finishing.get(record.id)
        if under_way is not None:
            await under_way.wait()
            if await self._records.get(record.id) is None:
                return
        done = self._finishing[record.id] = asyncio.Event()
        try:
            outcomes = await asyncio.gather(
                self._remove_from_node(record), self._endpoints.release(record), return_exceptions=True
            )
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    raise outcome
            if any(mount.type == "volume" for mount in record.mounts):
                await self._peers.release_volumes(record.id, remove_anonymous=record.remove_volumes)
            await holdpoint("control.remove.before_forget")
            await self._forget(record)
        finally:
            if self._finishing.get(record.id) is done:
                del self._finishing[record.id]
            done.set()

    async def _remove_from_node(self, record: Record) -> None:
        try:
            await self._peers.remove(record)
        except Conflict:
            # A start whose commit was cut off: its process must not outlive the container.
            await self._peers.stop(record, 9, 0)
            await self._peers.remove(record)
        except NotFound:  # it never got there
            return

    async def _forget(self, record: Record) -> None:
        async with self._records.database.transaction() as tx:
            if not await sql.delete(tx, record, self._records.clock.time_ns()):
                return  # somebody else has finished it
            destroyed = record.event("destroy")
            if is_own_work():
                destroyed.cause = ENDED if record.auto_remove else GOES_ON
            tx.emit(destroyed)
        self._endpoints.forget(record.id)
        await self._records.changes.announce(record.id)
