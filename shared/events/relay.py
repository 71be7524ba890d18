"""Publishing recorded events to the `EVENTS` stream: each exactly once, in order, whatever is killed in between.

The table is the truth and the stream a copy, so at every start, reconnection and doubt the relay asks the stream
what it has of this service and publishes what is missing. It goes event by event: with several under way, a refused
one would leave a hole behind a later one, which the comparison by last sequence could not see.

::

    lock ─► stream exists? ─► compare ─► publish what follows ─► wait (commit, other copy's commit, poll)
      ▲                          ▲                                  │
      └── error, lost lock ──────┴──── reconnected, stream changed ─┘

One relay per service is active: the holder of a file lock (SQLite) or an advisory lock (Postgres), which the kernel or
the server takes back when its process dies. The others hand their wake-ups to it over the bus.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nats.errors
import nats.js.errors
import sqlalchemy as sa

from shared.bus import jetstream
from shared.clock import Clock, SystemClock
from shared.errors import DavitError, Internal, Unavailable
from shared.events import outbox
from shared.events.record import HEADER_SEQUENCE, HEADER_SERVICE, STREAM
from shared.events.stream import ensure_stream, find_published
from shared.failpoints import failpoint
from shared.state.reserve import spend
from shared.state.statements import Prepared

if TYPE_CHECKING:
    from shared.bus.client import Bus
    from shared.state.database import Database

log = logging.getLogger(__name__)

POLL_S = 5.0
_try_lock = Prepared(sa.text("SELECT pg_try_advisory_lock(:key)"))
_ask = Prepared(sa.text("SELECT 1"))
STANDBY_POLL_S = 1.0
FULL_POLL_S = 0.5
BATCH = 64
PUBLISH_TIMEOUT_S = 5.0
PRUNE_EVERY_S = 600.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0


class _CompareAgain(Exception):
    """The stream may not be what it was."""


class Relay:
    """Publishes one service's outbox; run with `run` as an owned task.

    Args:
        retention_s: How long events stay in the table and in the stream.
    """

    def __init__(self, database: Database, bus: Bus, *, retention_s: float, clock: Clock | None = None) -> None:
        self._database = database
        self._bus = bus
        self._retention_s = retention_s
        self._clock = clock or SystemClock()
        self._work = asyncio.Event()
        self._active = False
        self._doubt = False
        self._position = 0
        self._stream_last = 0
        self._prune_at = 0.0
        self._background: set[asyncio.Task[None]] = set()

    @property
    def active(self) -> bool:
        """Whether this copy of the service is the one that publishes."""
        return self._active

    @property
    def position(self) -> int:
        """Every event up to this sequence number is in the stream."""
        return self._position

    def wake(self) -> None:
        """Say that events were committed. Never waits."""
        if self._active:
            self._work.set()
            return
        task = asyncio.get_running_loop().create_task(self._wake_other())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _wake_other(self) -> None:
        with contextlib.suppress(Unavailable):  # the other copy polls, too
            await self._bus.publish(self._wake_subject, b"")

    @property
    def _wake_subject(self) -> str:
        return f"davit.outbox.{self._database.service}"

    async def run(self) -> None:
        """Publish for ever: whenever this copy holds the lock and the bus is there."""
        self._database.on_commit(self.wake)
        self._bus.on_reconnect(self._reconnected)
        subscription = await self._bus.listen(self._wake_subject, self._woken)
        pause_s = _FIRST_PAUSE_S
        try:
            while True:
                try:
                    async with _publisher_lock(self._database) as still_held:
                        await self._lead(still_held)
                except (DavitError, nats.errors.Error, OSError) as error:
                    log.warning("events wait to be published: %s", error)
                finally:
                    self._active = False
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S) if self._position == 0 else _FIRST_PAUSE_S
        finally:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def _woken(self, _data: bytes) -> None:
        self._work.set()

    async def _reconnected(self) -> None:
        self._doubt = True
        self._work.set()

    async def _lead(self, still_held: Any) -> None:
        self._active = True
        while True:
            self._doubt = False
            await ensure_stream(self._bus, self._retention_s)
            await self._compare()
            try:
                while True:
                    await self._publish_new()
                    await self._prune()
                    await self._wait(still_held)
            except _CompareAgain:
                log.info("comparing recorded with published events again", extra={"after": self._position})

    async def _compare(self) -> None:
        """Find out what the stream has, and publish the rest."""
        async with self._database.read() as connection:
            subjects = await outbox.subjects(connection)
            last = await outbox.last_sequence(connection)
        found = await find_published(self._bus, self._database.service, subjects)
        if found.last > last:
            raise Internal(
                f"the stream has event {found.last} of service {self._database.service}, and its database only {last}:"
                " the database is older than the stream"
            )
        self._position = found.last
        self._stream_last = found.stream_last

    async def _publish_new(self) -> None:
        while True:
            self._work.clear()
            async with self._database.read() as connection:
                rows = await outbox.rows_after(connection, self._position, BATCH)
            for row in rows:
                await self._room()
                await self._publish(row)
            if len(rows) < BATCH:
                return

    async def _room(self) -> None:
        """Wait while the disk is full: a stream whose server could not write once takes nothing until it is restarted.

        That the server of the stream writes to the same disk is so with the embedded one; where not, events only wait.
        """
        if not self._database.disk_is_full():
            return
        log.warning("events wait to be published: the disk is full")
        while self._database.disk_is_full():  # noqa: ASYNC110  # nobody tells when there is room
            await asyncio.sleep(FULL_POLL_S)

    async def _publish(self, row: Any) -> None:
        failpoint("outbox.before_publish")
        ack = await self._append(row, row.message_id)
        if ack.duplicate and not await jetstream.has_message(self._bus, STREAM, ack.number):
            # The server remembers the id of a message that was deleted since; a reader goes by the id inside.
            ack = await self._append(row, f"{row.message_id}-{self._clock.time_ns()}")
        failpoint("outbox.after_publish")
        self._position = row.sequence
        if ack.number < self._stream_last and not ack.duplicate:
            raise _CompareAgain  # a new stream of the old name, which has only what came since
        self._stream_last = max(self._stream_last, ack.number)

    async def _append(self, row: Any, message_id: str) -> jetstream.Appended:
        headers = {
            "Nats-Msg-Id": message_id,
            HEADER_SERVICE: self._database.service,
            HEADER_SEQUENCE: str(row.sequence),
        }
        return await jetstream.append(self._bus, STREAM, row.subject, row.payload.encode(), headers=headers)

    async def _wait(self, still_held: Any) -> None:
        """Until there is something to do; every now and then see whether all is still as it was."""
        try:
            async with asyncio.timeout(POLL_S):
                await self._work.wait()
        except TimeoutError:
            await still_held()
            if await ensure_stream(self._bus, self._retention_s) < self._stream_last:
                raise _CompareAgain from None
        if self._doubt:
            raise _CompareAgain

    async def _prune(self) -> None:
        if self._clock.monotonic() < self._prune_at:
            return
        self._prune_at = self._clock.monotonic() + PRUNE_EVERY_S
        before_ns = self._clock.time_ns() - int(self._retention_s * 1e9)
        with spend():
            async with self._database.transaction() as transaction:
                gone = await outbox.prune(transaction.connection, before_ns=before_ns, published=self._position)
        if gone:
            log.info("forgot events past their retention", extra={"up_to": gone})


@asynccontextmanager
async def _publisher_lock(database: Database) -> AsyncIterator[Any]:
    """Wait to be the service's only publisher. Yields a check that raises Unavailable when that has changed."""
    if database.lock_file is not None:
        async with _file_lock(database.lock_file.with_suffix(".relay.lock")):
            yield _unchanged
        return
    key = {"key": database.advisory_key("relay")}
    async with database.dedicated() as connection:
        while not await connection.scalar(_try_lock, key):  # noqa: ASYNC110  # the event is another process's end
            await asyncio.sleep(STANDBY_POLL_S)

        async def still_held() -> None:
            await connection.scalar(_ask)  # raises when the session, and with it the lock, is gone

        yield still_held  # the lock goes with the connection


async def _unchanged() -> None:
    """A file lock is lost with its process only."""


@asynccontextmanager
async def _file_lock(path: Path) -> AsyncIterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            await asyncio.sleep(STANDBY_POLL_S)
        yield
    finally:
        os.close(descriptor)
