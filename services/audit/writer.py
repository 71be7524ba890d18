"""The one that writes the log: takes what is there, numbers it, signs what it has written, and rotates.

::

    spools ─┐
    events ─┼─► number, append ─► sync ─► visible to readers ─► spools' files removed
    own ────┘                      └─► every 1,000 records or 10 s: sign, and keep what was taken from where

Until a batch is synced nobody sees it: its numbers stand, whatever ends the machine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from services.audit import sql
from services.audit.events import EventIntake
from services.audit.intake import Intake, Taken
from services.audit.log.store import AuditLog
from shared.auditing import records
from shared.cancellation import to_the_end
from shared.clock import Clock
from shared.errors import DavitError
from shared.state.database import Database
from shared.state.reserve import spend
from shared.transparency.checkpoints import Checkpoint
from shared.transparency.notes import Signer

log = logging.getLogger(__name__)

BATCH = 2000
# Between two batches: more records in each cost less each. A reader of the newest waits this long for them.
PAUSE_S = 0.05
LOOK_EVERY_S = 1.0
CHECKPOINT_RECORDS = 1000
CHECKPOINT_S = 8.0  # less than the ten seconds that are promised
RETENTION_EVERY_S = 600.0
# All checkpoints of a day are kept, and of those before it the last of each hour.
ALL_CHECKPOINTS_NS = 24 * 3600 * 10**9
THINNED_AT_ONCE = 1000
OWN = "audit"


@dataclass(frozen=True, slots=True)
class Retention:
    """Attributes: seconds: how old records become at least. limit_bytes: what the log takes on the disk at most."""

    seconds: float
    limit_bytes: int


class Writer:
    """Writes one log.

    Args:
        log: Opened.
        since_checkpoint: Its size when it was last signed.
        wake: Set when there may be something to do.
    """

    def __init__(
        self,
        audit_log: AuditLog,
        intake: Intake,
        events: EventIntake,
        database: Database,
        signer: Signer,
        retention: Retention,
        clock: Clock,
        wake: asyncio.Event,
        since_checkpoint: int,
    ) -> None:
        self._log = audit_log
        self._intake = intake
        self._events = events
        self._database = database
        self._signer = signer
        self.retention = retention
        self._clock = clock
        self._wake = wake
        self._own: list[dict[str, Any]] = []
        self._visible = audit_log.size
        self._grown = asyncio.Condition()
        self._signed = since_checkpoint
        self._saved_taken: dict[str, int] = dict(intake.taken)
        self._sign_by: float | None = None
        self._retention_due = 0.0
        self._thinned = 0
        self.note = ""
        self.problem = ""
        self._stopped = False

    @property
    def size(self) -> int:
        """How many records readers may see."""
        return self._visible

    @property
    def signed_size(self) -> int:
        return self._signed

    def add(self, record: dict[str, Any]) -> None:
        """Record something of the audit service's own."""
        self._own.append(record)
        self._wake.set()

    async def wait_for(self, number: int, timeout_s: float) -> None:
        """Return when there is a record of that number, or after that time."""
        try:
            async with asyncio.timeout(timeout_s), self._grown:
                await self._grown.wait_for(lambda: self._visible > number or self._stopped)
        except TimeoutError:
            return

    async def run(self) -> None:
        """Write for ever."""
        while True:
            try:
                async with asyncio.timeout(self._wait_s()):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            await self.turn()
            await asyncio.sleep(PAUSE_S)

    def _wait_s(self) -> float:
        if self._sign_by is None:
            return LOOK_EVERY_S
        return max(0.0, min(LOOK_EVERY_S, self._sign_by - self._clock.monotonic()))

    async def turn(self) -> None:
        """Take and write what is there."""
        try:
            while await self._write_batch():
                await self._sign_if_due()
            await self._sign_if_due()
            await self._rotate_if_due()
            await self._remove_old()
        except DavitError as error:
            if self.problem != error.message:
                log.error("the audit log is not written: %s", error)
            self.problem = error.message
        else:
            self.problem = ""

    async def _write_batch(self) -> bool:
        """Whether there may be more."""
        taken = [*self._pending(), *self._intake.collect(BATCH), *self._events.collect(BATCH)]
        if not taken:
            if self._visible < self._log.size:
                await self._make_visible()
            self._intake.committed()  # a writer may have ended without another record
            return False
        lines = []
        for number, one in enumerate(taken, self._log.size):
            one.record["number"] = number
            one.record["source"] = {"id": one.source, "sequence": one.sequence}
            lines.append(records.encoded(one.record))
        await self._append(lines)
        await self._make_visible()
        self._intake.committed()
        return len(taken) >= BATCH

    def _pending(self) -> list[Taken]:
        own, self._own = self._own, []
        first = self._intake.taken.get(OWN, 0) + 1
        if own:
            self._intake.taken[OWN] = first + len(own) - 1
        return [Taken(OWN, sequence, record) for sequence, record in enumerate(own, first)]

    async def _append(self, lines: Sequence[bytes]) -> None:
        """What was taken is taken: it is tried until the disk takes it."""
        while True:
            try:
                self._log.append(lines)
                return
            except DavitError as error:
                if self.problem != error.message:
                    log.error("the audit log is not written, and records wait: %s", error)
                self.problem = error.message
            await asyncio.sleep(LOOK_EVERY_S)

    async def _make_visible(self) -> None:
        await _in_thread(self._log.sync)
        self._visible = self._log.size
        if self._sign_by is None and self._visible > self._signed:
            self._sign_by = self._clock.monotonic() + CHECKPOINT_S
        async with self._grown:
            self._grown.notify_all()

    # -- signing ----------------------------------------------------------------------------------------------------

    async def _sign_if_due(self) -> None:
        waiting = self._visible - self._signed
        due = self._sign_by is not None and self._clock.monotonic() >= self._sign_by
        if waiting >= CHECKPOINT_RECORDS or (waiting and due):
            await self.sign()

    async def sign(self) -> None:
        """Sign the log as it is. Raises Unavailable when the key's command or the database does not."""
        saved = self._log.saved()
        now = self._clock.time_ns()
        checkpoint = Checkpoint(self._signer.key.name, saved.size, self._log.root(), records.moment(now))
        note = await asyncio.to_thread(checkpoint.signed, self._signer)
        changed = {
            source: sequence
            for source, sequence in self._intake.taken.items()
            if self._saved_taken.get(source) != sequence
        }
        gone, self._intake.gone = self._intake.gone, []
        with spend():
            async with self._database.transaction() as tx:
                await sql.add_checkpoint(tx, saved, now, note, changed, gone)
        self._saved_taken |= changed
        for source in gone:
            self._saved_taken.pop(source, None)
        self._signed = saved.size
        self._sign_by = None if self._visible <= saved.size else self._clock.monotonic() + CHECKPOINT_S
        self.note = note

    # -- rotation and retention -------------------------------------------------------------------------------------

    async def _rotate_if_due(self) -> None:
        if self._log.rotation_due:
            if self._signed < self._log.size:
                await self.sign()
            self._log.rotate()
        if self._log.compression_due:
            self._log.rotated(await asyncio.to_thread(self._log.compress))

    async def _remove_old(self) -> None:
        if self._clock.monotonic() < self._retention_due:
            return
        self._retention_due = self._clock.monotonic() + RETENTION_EVERY_S
        before_ns = self._clock.time_ns() - int(self.retention.seconds * 1e9)
        await self._thin()
        first, end = self._log.remove_before(before_ns, limit_bytes=self.retention.limit_bytes)
        if end > first:
            log.info("removed audit records past their retention", extra={"first": first, "end": end})
            async with self._database.transaction() as tx:
                await sql.forget_checkpoints(tx, end)
            self.add(
                {
                    "kind": records.ENGINE,
                    "time": records.moment(self._clock.time_ns()),
                    "actor": {"name": "system:audit"},
                    "action": {"resource": "audit", "verb": "remove"},
                    "cause": "retention",
                    "details": {"first": first, "end": end},
                }
            )

    async def _thin(self) -> None:
        before_ns = self._clock.time_ns() - ALL_CHECKPOINTS_NS
        while True:
            async with self._database.transaction() as tx:
                kept = await sql.thin_checkpoints(tx, self._thinned, before_ns, THINNED_AT_ONCE)
            if kept is None:
                return
            self._thinned = kept

    async def close(self) -> None:
        """Take what is there, sign it, and let readers go."""
        self._stopped = True
        await self.turn()
        if self._visible > self._signed:
            try:
                await self.sign()
            except DavitError as error:  # signed at the next start
                log.warning("the audit log was not signed at its end: %s", error)
        async with self._grown:
            self._grown.notify_all()


async def _in_thread(work: Any) -> None:
    await to_the_end(asyncio.get_running_loop().run_in_executor(None, work))
