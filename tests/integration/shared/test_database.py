"""The database's promises, kept on SQLite and on Postgres."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
import sqlalchemy as sa

from shared.errors import Conflict, Internal, InvalidArgument, Unavailable
from shared.events import outbox
from shared.events.record import DomainEvent
from shared.state.database import Database
from shared.state.statements import Prepared
from tests.integration.shared.conftest import HISTORY, things


def event(name: str) -> DomainEvent:
    return DomainEvent(type="thing", action="create", actor_id=name)


async def add(database: Database, name: str, *, fail: bool = False) -> None:
    async with database.transaction() as transaction:
        await transaction.execute(Prepared(sa.insert(things)), {"id": name, "n": 1})
        transaction.emit(event(name))
        if fail:
            raise LookupError(name)


async def recorded(database: Database) -> list[tuple[int, str]]:
    async with database.read() as connection:
        rows = await outbox.rows_after(connection, 0, 10_000)
    return [(row.sequence, DomainEvent.model_validate_json(row.payload).actor_id) for row in rows]


async def test_change_and_event_commit_together(database: Database) -> None:
    await add(database, "a")
    async with database.read() as connection:
        assert await connection.scalars(Prepared(sa.select(things.c.id))) == ["a"]
    assert await recorded(database) == [(1, "a")]


async def test_a_failed_block_leaves_neither_row_nor_number(database: Database) -> None:
    await add(database, "a")
    with pytest.raises(LookupError):
        await add(database, "b", fail=True)
    await add(database, "c")
    assert await recorded(database) == [(1, "a"), (2, "c")]


async def test_numbers_have_no_gap_under_concurrency(database: Database) -> None:
    results = await asyncio.gather(*(add(database, str(n), fail=n % 5 == 0) for n in range(60)), return_exceptions=True)
    assert sum(isinstance(result, LookupError) for result in results) == 12
    assert [sequence for sequence, _ in await recorded(database)] == list(range(1, 49))


async def test_two_copies_share_one_numbering(database: Database, database_url: str) -> None:
    other = await Database.open(database_url, service="demo", migrations=HISTORY)
    try:
        await asyncio.gather(*(add(database, f"a{n}") for n in range(25)), *(add(other, f"b{n}") for n in range(25)))
        assert [sequence for sequence, _ in await recorded(other)] == list(range(1, 51))
    finally:
        await other.close()


async def test_a_taken_key_is_a_conflict(database: Database) -> None:
    await add(database, "a")
    with pytest.raises(Conflict):
        await add(database, "a")
    await add(database, "b")
    assert await recorded(database) == [(1, "a"), (2, "b")]


async def test_a_wrong_statement_is_a_defect_and_the_connection_stays_usable(database: Database) -> None:
    with pytest.raises(Internal):
        async with database.transaction() as transaction:
            await transaction.execute(Prepared(sa.text("SELECT * FROM nothing_of_that_name")))
    await add(database, "a")


async def test_reads_see_one_state(database: Database) -> None:
    await add(database, "a")
    async with database.read() as connection:
        if not database.is_sqlite:
            await connection.execute(Prepared(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")))
        assert await connection.scalar(Prepared(sa.select(sa.func.count()).select_from(things))) == 1
        await add(database, "b")
        assert await connection.scalar(Prepared(sa.select(sa.func.count()).select_from(things))) == 1


async def test_results_outlive_their_connection(database: Database) -> None:
    for name in "abc":
        await add(database, name)
    async with database.read() as connection:
        result = await connection.execute(Prepared(sa.select(things.c.id).order_by(things.c.id)))
    assert [row.id for row in result] == ["a", "b", "c"]


async def test_a_cancelled_transaction_holds_no_lock(database: Database) -> None:
    started = asyncio.Event()

    async def never_ends() -> None:
        async with database.transaction() as transaction:
            await transaction.execute(Prepared(sa.insert(things)), {"id": "x", "n": 1})
            started.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(never_ends())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(add(database, "a"), 5)
    assert await recorded(database) == [(1, "a")]


async def test_cancelling_during_commits_never_splits_a_change_from_its_event(database: Database) -> None:
    tasks = [asyncio.create_task(add(database, str(n))) for n in range(40)]
    for turn, task in enumerate(tasks):
        await asyncio.sleep(0.0003 * (turn % 7))
        if turn % 2:
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with database.read() as connection:
        rows = set(await connection.scalars(Prepared(sa.select(things.c.id))))
    events = await recorded(database)
    assert {name for _, name in events} == rows
    assert [sequence for sequence, _ in events] == list(range(1, len(rows) + 1))


async def test_commits_wake_the_relay_only_when_they_recorded_events(database: Database) -> None:
    woken: list[int] = []
    database.on_commit(lambda: woken.append(1))
    async with database.transaction() as transaction:
        await transaction.execute(Prepared(sa.insert(things)), {"id": "silent", "n": 1})
    assert woken == []
    await add(database, "loud")
    assert woken == [1]


async def test_an_event_too_large_for_the_bus_is_refused(database: Database) -> None:
    with pytest.raises(InvalidArgument):
        async with database.transaction() as transaction:
            transaction.emit(DomainEvent(type="thing", action="x", actor_id="a", attributes={"big": "x" * 1_100_000}))
    assert await recorded(database) == []


async def test_a_newer_database_is_refused(database: Database, database_url: str, tmp_path: Path) -> None:
    async with database.transaction() as transaction:
        await transaction.execute(Prepared(sa.text("UPDATE alembic_version SET version_num = '0009'")))
    with pytest.raises(Conflict, match=r"revision 0009.*knows up to 0001"):
        await Database.open(database_url, service="demo", migrations=HISTORY)


async def test_an_older_database_is_brought_up_to_date(database: Database, database_url: str, tmp_path: Path) -> None:
    await add(database, "kept")
    history = tmp_path / "history"
    shutil.copytree(HISTORY, history)
    (history / "versions" / "0002_more.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\nrevision, down_revision = '0002', '0001'\n"
        "def upgrade():\n    op.add_column('things', sa.Column('more', sa.String(8), server_default='x'))\n"
        "def downgrade():\n    op.drop_column('things', 'more')\n"
    )
    opened = await asyncio.gather(*(Database.open(database_url, service="demo", migrations=history) for _ in range(3)))
    async with opened[0].read() as connection:
        assert (await connection.execute(Prepared(sa.text("SELECT id, more FROM things")))).all() == [("kept", "x")]
    await asyncio.gather(*(each.close() for each in opened))


async def test_services_do_not_see_each_other(database: Database, database_url: str) -> None:
    other = await Database.open(database_url, service="other", migrations=HISTORY)
    try:
        await add(database, "a")
        assert await recorded(other) == []
        await add(other, "a")
        assert await recorded(other) == [(1, "a")]
    finally:
        await other.close()


async def test_a_server_that_is_away_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        await Database.open("postgresql://nobody@127.0.0.1:1/none", service="demo", migrations=HISTORY)


async def test_an_unknown_kind_of_database_is_named() -> None:
    with pytest.raises(InvalidArgument, match="mysql"):
        await Database.open("mysql://x/y", service="demo", migrations=HISTORY)


async def test_old_events_are_forgotten_once_published(database: Database) -> None:
    for name in "abc":
        await add(database, name)
    async with database.transaction() as transaction:
        assert await outbox.prune(transaction.connection, before_ns=2**62, published=2) == 2
    assert await recorded(database) == [(3, "c")]
    await add(database, "d")
    assert (await recorded(database))[-1] == (4, "d")
