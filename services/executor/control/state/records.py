"""Reading and changing container records: one place that commits a change with its events and tells who waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager

from services.executor.control.domain import Record
from services.executor.control.life.waiting import Changes
from services.executor.control.state import sql
from shared.clock import Clock
from shared.errors import Conflict, NotFound
from shared.events.record import DomainEvent
from shared.state.database import Database, Transaction

log = logging.getLogger(__name__)

ATTEMPTS = 16
# How long a verb waits for a start that is under way; one that hangs must not take all others along.
START_PATIENCE_S = 10.0

Apply = Callable[[Record], Iterable[DomainEvent]]
"""Changes a record in place and says which events that makes, in order; raises to refuse."""


class Records:
    """Container records in the database. No lock is held between a read and a write: stale writes are refused."""

    def __init__(self, database: Database, changes: Changes, clock: Clock) -> None:
        self.database = database
        self.changes = changes
        self.clock = clock
        self._starting: dict[str, list[asyncio.Event]] = {}

    @contextmanager
    def starting(self, container_id: str) -> Iterator[None]:
        """While inside, a start of this container is under way here."""
        done = asyncio.Event()
        self._starting.setdefault(container_id, []).append(done)
        try:
            yield
        finally:
            done.set()
            self._starting[container_id].remove(done)
            if not self._starting[container_id]:
                del self._starting[container_id]

    async def find_settled(self, ref: str) -> Record:
        """As `find`, after the starts of it that are under way here, as if those had been answered before.

        A start that another copy of control carries out is not waited for: whoever has not been answered yet may have
        been overtaken.
        """
        record = await self.find(ref)
        waited = False
        for done in list(self._starting.get(record.id, ())):
            waited = True
            try:
                await asyncio.wait_for(done.wait(), START_PATIENCE_S)
            except TimeoutError:
                break
        return await self.find(ref) if waited else record

    async def find(self, ref: str) -> Record:
        """The container a client means. Raises NotFound, InvalidArgument (ambiguous)."""
        async with self.database.read() as reader:
            return await sql.find(reader, ref)

    async def get(self, container_id: str) -> Record | None:
        """The container with this full id, if there is one."""
        async with self.database.read() as reader:
            return await sql.by_id(reader, container_id)

    async def change(
        self, record: Record, apply: Apply, *, check: Callable[[Transaction], Awaitable[None]] | None = None
    ) -> Record:
        """Apply a change and commit it with its events; on a record that changed meanwhile, apply it anew.

        Args:
            record: As read before; `apply` gets it first, and newer ones while others are faster.
            check: Looks at other rows in the same transaction, before the change; raises to refuse.

        Returns:
            The record as committed.

        Raises:
            NotFound: It was removed meanwhile.
            DavitError: Whatever `apply` and `check` raise; nothing is changed then.
        """
        for attempt in range(ATTEMPTS):
            try:
                async with self.database.transaction() as tx:
                    current = record if attempt == 0 else await sql.by_id(tx, record.id)
                    if current is None:
                        raise NotFound(f"No such container: {record.id}")
                    if check is not None:
                        await check(tx)
                    events = apply(current)
                    await sql.save(tx, current, self.clock.time_ns())
                    for event in events:
                        tx.emit(event)
            except sql.StaleRecord:
                continue
            await self.changes.announce(record.id)
            return current
        raise Conflict(f"container {record.id} is being changed by others all the time")

    async def note(self, *events: DomainEvent) -> None:
        """Record events that change nothing."""
        async with self.database.transaction() as tx:
            for event in events:
                tx.emit(event)

    async def until(self, container_id: str, done: Callable[[Record | None], bool], patience_s: float) -> Record | None:
        """Wait for a state, whichever copy of control brings it about.

        Returns:
            The record that satisfied `done` (None: it is gone), or the latest one when patience ran out.
        """
        deadline = self.clock.monotonic() + patience_s
        with self.changes.watch(container_id) as changed:
            while True:
                changed.clear()
                record = await self.get(container_id)
                left = deadline - self.clock.monotonic()
                if done(record) or left <= 0:
                    return record
                try:
                    await asyncio.wait_for(changed.wait(), left)
                except TimeoutError:
                    continue
