"""A database whose disk is full: refused to all but who ends something, for whom there is space kept."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from shared.errors import Unavailable
from shared.events.record import DomainEvent
from shared.state.database import Database
from shared.state.reserve import spend
from shared.state.statements import Prepared
from tests.conftest import missing

pytestmark = pytest.mark.root

HISTORY = Path(__file__).parent / "history"
DISK_BYTES = 64 << 20
# As many as the events of some hundred containers that are stopped and removed.
WRITES = 1000
ADD = Prepared(sa.text("INSERT INTO filled VALUES (:text)"))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    if os.geteuid() != 0:
        missing("root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "davit-test", tmp_path], check=True)
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.fixture
async def database(disk: Path) -> AsyncIterator[Database]:
    """On a disk that a file fills."""
    database = await Database.open(f"sqlite://{disk}", service="test", migrations=HISTORY)
    async with database.transaction() as tx:
        await tx.execute(Prepared(sa.text("CREATE TABLE filled (text TEXT)")))
    with (disk / "filler").open("wb", buffering=0) as filler:
        while os.statvfs(disk).f_bfree > 0:
            filler.write(bytes(4096))
    yield database
    await database.close()


async def _write(database: Database, number: int) -> None:
    async with database.transaction() as tx:
        await tx.execute(ADD, {"text": "x" * 500})
        tx.emit(DomainEvent(type="container", action="die", actor_id=f"{number:064}", attributes={"exitCode": "1"}))


async def test_space_is_kept_for_who_ends_something(database: Database, disk: Path) -> None:
    with pytest.raises(Unavailable, match="the database is not available: the disk is full"):
        await _write(database, 0)
    with spend():
        for number in range(WRITES):
            await _write(database, number)
        with spend(False), pytest.raises(Unavailable, match="the disk is full"):
            await _write(database, 0)
    assert await database.recorded_events() == WRITES
    (disk / "filler").unlink()
    await _write(database, WRITES)
    async with database.read() as reader:
        assert await reader.scalar(Prepared(sa.text("SELECT count(*) FROM filled"))) == WRITES + 1


async def test_the_reserve_is_made_whole_again(database: Database, disk: Path) -> None:
    with spend():
        for number in range(WRITES):
            await _write(database, number)
    (disk / "filler").unlink()
    await database._store.keep_reserve()
    before = (disk / "test.sqlite3").stat().st_size
    await database._store.keep_reserve()
    assert (disk / "test.sqlite3").stat().st_size == before, "what is whole is left alone"
    async with database.read() as reader:
        pages = int(await reader.scalar(Prepared(sa.text("PRAGMA freelist_count"))))
    assert pages * 4096 > 1 << 20
