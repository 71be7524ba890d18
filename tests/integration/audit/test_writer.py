"""The writer on a real database: what it signs, keeps, and takes up again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.audit import sql
from services.audit.events import record_of
from services.audit.intake import Intake
from services.audit.log.store import AuditLog, Saved
from services.audit.writer import ALL_CHECKPOINTS_NS, Retention, Writer
from shared.auditing.spool import Spool, boot_id
from shared.events.record import DomainEvent
from shared.state import migrate
from shared.state.database import Database
from shared.transparency.checkpoints import Checkpoint
from shared.transparency.notes import Signer

SIGNER = Signer.of("davit/test/audit", Ed25519PrivateKey.generate())


class Clock:
    def __init__(self) -> None:
        self.moved_s = 0.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.time_ns() / 1e9, UTC)

    def time_ns(self) -> int:
        return time.time_ns() + int(self.moved_s * 1e9)

    def monotonic(self) -> float:
        return time.monotonic() + self.moved_s


class NoEvents:
    def collect(self, _: int) -> list[Any]:
        return []


class Service:
    """The parts of one run of the service."""

    def __init__(self, directory: Path, database: Database, clock: Clock, saved: Any, taken: dict[str, int]) -> None:
        self.log = AuditLog(directory / "log")
        for record in self.log.open(None if saved is None else sql.saved_of(saved)):
            source = record["source"]
            taken[source["id"]] = max(taken.get(source["id"], 0), source["sequence"])
        (directory / "spool").mkdir(exist_ok=True)
        self.intake = Intake(directory / "spool", taken, boot_id())
        events: Any = NoEvents()
        self.writer = Writer(
            self.log, self.intake, events, database, SIGNER, Retention(3600, 1 << 30), clock, asyncio.Event(),
            since_checkpoint=0 if saved is None else saved.size,
        )  # fmt: skip


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    history = migrate.default_history("audit")
    database = await Database.open(f"sqlite://{tmp_path}/db", service="audit", migrations=history)
    yield database
    await database.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def started(directory: Path, database: Database, clock: Clock) -> Service:
    async with database.read() as connection:
        saved = await sql.newest_checkpoint(connection)
        taken = await sql.taken_by_source(connection)
    return Service(directory, database, clock, saved, taken)


async def notes(database: Database) -> list[Checkpoint]:
    async with database.read() as connection:
        rows = await sql.checkpoints_from(connection, 0, 1000)
    return [Checkpoint.opened(row.note, SIGNER.key) for row in rows]


def write(spool: Spool, count: int) -> None:
    for number in range(count):
        spool.write(orjson.dumps({"kind": "begin", "n": number}))


async def test_a_thousand_records_are_signed_at_once_and_fewer_in_time(
    tmp_path: Path, database: Database, clock: Clock
) -> None:
    service, spool = await started(tmp_path, database, clock), Spool(tmp_path / "spool", "api")
    write(spool, 1500)
    await service.writer.turn()
    assert [one.size for one in await notes(database)] == [1500]
    write(spool, 10)
    await service.writer.turn()
    assert len(await notes(database)) == 1
    clock.moved_s += 9
    await service.writer.turn()
    signed = await notes(database)
    assert [one.size for one in signed] == [1500, 1510]
    assert signed[-1].root == service.log.root()
    clock.moved_s += 100
    await service.writer.turn()
    assert len(await notes(database)) == 2, "nothing new is nothing to sign"
    spool.close()


async def test_a_service_that_was_killed_goes_on_with_every_record_once(
    tmp_path: Path, database: Database, clock: Clock
) -> None:
    spool = Spool(tmp_path / "spool", "api")
    for _ in range(5):
        service = await started(tmp_path, database, clock)
        write(spool, 700)
        await service.writer.turn()
        write(spool, 30)
        service.intake.collect(20)  # taken, and not yet in the log
    service = await started(tmp_path, database, clock)
    await service.writer.turn()
    lines = [orjson.loads(line) for line in service.log.read(0, limit=10_000, limit_bytes=1 << 30)]
    assert [line["source"]["sequence"] for line in lines] == list(range(1, 5 * 730 + 1))
    assert [line["number"] for line in lines] == list(range(5 * 730))
    spool.close()


async def test_a_writer_that_ended_leaves_nothing_behind(tmp_path: Path, database: Database, clock: Clock) -> None:
    service, spool = await started(tmp_path, database, clock), Spool(tmp_path / "spool", "api")
    write(spool, 1000)
    await service.writer.turn()
    spool.close()
    await service.writer.turn()
    assert list((tmp_path / "spool").iterdir()) == []
    another = Spool(tmp_path / "spool", "api")
    write(another, 1000)
    await service.writer.turn()
    async with database.read() as connection:
        assert await sql.taken_by_source(connection) == {another.source: 1000}
    another.close()


async def test_old_checkpoints_are_thinned_to_one_an_hour(tmp_path: Path, database: Database, clock: Clock) -> None:
    service, now = await started(tmp_path, database, clock), clock.time_ns()
    hour = sql.HOUR_NS
    begin = (now - 4 * ALL_CHECKPOINTS_NS) // hour * hour
    times = [begin + minute * 60 * 10**9 for minute in range(0, 4 * 24 * 60, 7)]
    async with database.transaction() as tx:
        for size, at in enumerate(times, 1):
            await sql.add_checkpoint(tx, Saved(size, ()), at, Checkpoint("x", size, bytes(32)).signed(SIGNER), {}, [])
    await service.writer.turn()
    async with database.read() as connection:
        rows = await sql.checkpoints_from(connection, 0, 10_000)
    old = [row.time_ns // hour for row in rows if row.time_ns < now - ALL_CHECKPOINTS_NS - hour]
    assert old == sorted(set(old)), "one an hour"
    assert len(old) >= 70
    recent = [row for row in rows if row.time_ns >= now - ALL_CHECKPOINTS_NS]
    assert len(recent) == sum(1 for at in times if at >= now - ALL_CHECKPOINTS_NS)


@pytest.mark.parametrize(
    ("actor", "late", "action", "kind"),
    [
        ("system:agent", False, "start", "engine"),
        ("system", False, "destroy", "engine"),
        ("uid:0", True, "tag", "effect"),
        ("uid:0", False, "create", None),
        ("system:agent", False, "die", None),
        ("system:agent", False, "health_status: healthy", None),
    ],
)
def test_which_events_are_records_of_their_own(actor: str, late: bool, action: str, kind: str | None) -> None:
    event = DomainEvent(type="container", action=action, actor_id="x", actor=actor, late=late, cause="because")
    record = record_of(event)
    assert (record or {}).get("kind") == kind
    if record is not None:
        assert record["cause"] == "because"
