"""Kept answers: given again while nothing has been committed, and never older than what anybody has been told."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from services.api.reads import MOST_ANSWERS, MOST_BYTES, Answer, Fixed, Reads
from shared.contracts import containers as contracts
from shared.contracts.containers import ContainerPage
from shared.errors import NotFound, Unavailable
from shared.state.mark import Several, SqliteMark, Unknown, mark_of

from .conftest import EdgeUnderTest

WRITER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)
db.execute("PRAGMA synchronous = NORMAL")
while True:
    db.execute("BEGIN IMMEDIATE")
    db.execute("UPDATE register SET value = value + 1")
    db.execute("COMMIT")
    print(db.execute("SELECT value FROM register").fetchone()[0], flush=True)
    if not sys.stdin.readline():
        break
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "control.sqlite3"
    database = connect(path)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("CREATE TABLE register (value INTEGER)")
    database.execute("INSERT INTO register VALUES (0)")
    database.close()
    return path


def connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, timeout=10)


def value_of(database: sqlite3.Connection) -> int:
    return int(database.execute("SELECT value FROM register").fetchone()[0])


def increment(database: sqlite3.Connection) -> None:
    database.execute("UPDATE register SET value = value + 1")


# -- marks ----------------------------------------------------------------------------------------------------------


def test_a_mark_changes_with_each_commit_and_with_nothing_else(file: Path) -> None:
    database, mark = connect(file), SqliteMark(file)
    first = mark.read()
    assert first is not None
    assert mark.read() == first
    database.execute("BEGIN IMMEDIATE")
    increment(database)
    assert mark.read() == first
    database.execute("ROLLBACK")
    assert mark.read() == first
    increment(database)
    assert mark.read() != first
    mark.close()


def test_a_mark_of_another_file_in_its_place_is_another_mark(file: Path, tmp_path: Path) -> None:
    database, mark = connect(file), SqliteMark(file)
    increment(database)
    first = mark.read()
    database.close()
    content = file.read_bytes()
    for left in tmp_path.iterdir():
        left.unlink()
    assert mark.read() is None
    file.write_bytes(content)
    again = connect(file)
    value_of(again)
    assert mark.read() not in (None, first)
    mark.close()


def test_where_a_mark_cannot_be_read_there_is_none(file: Path, tmp_path: Path) -> None:
    assert SqliteMark(tmp_path / "absent").read() is None
    assert mark_of("postgresql://somewhere/else", "control").read() is None
    assert Several([SqliteMark(file), Unknown()]).read() is None
    marks = [mark_of(f"sqlite://{slashes}{tmp_path}", "control") for slashes in ("", "/")]
    database = connect(file)
    value_of(database)
    assert all(mark.read() for mark in marks)


def test_a_mark_is_in_nobodys_way(file: Path) -> None:
    """Neither of a writer nor of a checkpoint, which waits for those who read an old state."""
    database, mark = connect(file), SqliteMark(file)
    mark.read()
    increment(database)
    assert database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    mark.close()


# -- answers --------------------------------------------------------------------------------------------------------


class Service:
    """Answers with the register's value, slowly if it is told to, and can fail."""

    def __init__(self, file: Path, chance: random.Random | None = None) -> None:
        self._database = connect(file)
        self._chance = chance
        self.asked = 0
        self.failure: Exception | None = None

    async def ask(self) -> Answer:
        self.asked += 1
        await self._dawdle()
        if self.failure is not None:
            raise self.failure
        value = value_of(self._database)
        await self._dawdle()
        return Answer(Fixed(b"%d" % value))

    async def _dawdle(self) -> None:
        for _ in range(self._chance.randrange(6) if self._chance else 1):
            await asyncio.sleep(0)
        if self._chance and self._chance.random() < 0.05:
            await asyncio.sleep(0.002)


async def read(reads: Reads, service: Service, key: object = "key") -> int:
    return int(bytes((await reads.answer(key, ("control",), service.ask)).body))


async def test_an_answer_is_kept_until_something_is_committed(file: Path) -> None:
    database, service, reads = connect(file), Service(file), Reads({"control": SqliteMark(file)})
    assert [await read(reads, service) for _ in range(3)] == [0, 0, 0]
    assert service.asked == 1
    increment(database)
    assert [await read(reads, service) for _ in range(3)] == [1, 1, 1]
    assert service.asked == 2


async def test_without_a_mark_the_service_is_always_asked(file: Path) -> None:
    service, reads = Service(file), Reads({})
    assert [await read(reads, service) for _ in range(3)] == [0, 0, 0]
    assert service.asked == 3


async def test_requests_of_one_state_are_asked_once_and_failures_are_nobody_elses(file: Path) -> None:
    service, reads = Service(file), Reads({"control": SqliteMark(file)})
    assert await asyncio.gather(*(read(reads, service) for _ in range(5))) == [0] * 5
    assert service.asked == 1
    service.failure = NotFound("no such thing")
    found = await asyncio.gather(*(read(reads, service, "other") for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in found] == [NotFound] * 3
    assert service.asked == 4
    service.failure = None
    assert await read(reads, service, "other") == 0


async def test_a_client_that_leaves_takes_nobody_along(file: Path) -> None:
    service, reads = Service(file), Reads({"control": SqliteMark(file)})
    first = asyncio.create_task(read(reads, service))
    await asyncio.sleep(0)
    second = asyncio.create_task(read(reads, service))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == 0


async def test_an_answer_with_an_end_is_asked_for_again_then(file: Path) -> None:
    now = [10]
    reads = Reads({"control": SqliteMark(file)}, now_ns=lambda: now[0])
    asked = []

    async def ask() -> Answer:
        asked.append(now[0])
        return Answer(Fixed(b"1"), until_ns=20)

    for now[0] in (10, 19, 20, 21):
        await reads.answer("key", ("control",), ask)
    assert asked == [10, 20, 21]


async def test_what_is_kept_is_bounded(file: Path) -> None:
    reads = Reads({"control": SqliteMark(file)})

    async def large() -> Answer:
        return Answer(Fixed(bytes(MOST_BYTES // 8)))

    for number in range(20):
        await reads.answer(number, ("control",), large)
    assert reads._bytes <= MOST_BYTES
    service = Service(file)
    for number in range(MOST_ANSWERS + 10):
        await read(reads, service, str(number))
    assert len(reads._kept) <= MOST_ANSWERS


# -- the promise ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
async def test_no_read_is_older_than_an_answer_that_was_given_before_it_began(file: Path, seed: int) -> None:
    """Three copies of the edge, two services that are slow at random and fail, writers that are killed."""
    chance = random.Random(seed)
    services = [Service(file, chance) for _ in range(2)]
    copies = [Reads({"control": SqliteMark(file)}) for _ in range(3)]
    told = 0  # the newest value that anybody has been told
    reads_done = from_kept = 0
    over = asyncio.Event()

    async def client() -> None:
        nonlocal told, reads_done, from_kept
        while not over.is_set():
            service = chance.choice(services)
            before, asked = told, service.asked
            try:
                value = await read(chance.choice(copies), service, chance.choice("ab"))
            except Unavailable:
                continue
            assert value >= before, f"{value} was answered after somebody had been told {before}"
            told = max(told, value)
            reads_done += 1
            from_kept += service.asked == asked
            await asyncio.sleep(0)

    async def writers() -> None:
        nonlocal told
        for _ in range(8):
            writer = await asyncio.create_subprocess_exec(
                sys.executable, "-c", WRITER, str(file), stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            assert writer.stdin is not None
            assert writer.stdout is not None
            for _ in range(chance.randrange(1, 6)):
                told = max(told, int(await writer.stdout.readline()))
                await asyncio.sleep(0.002)
                writer.stdin.write(b"\n")
            writer.send_signal(signal.SIGKILL)  # in the middle of what it may be doing
            await writer.wait()

    async def troubles() -> None:
        while not over.is_set():
            await asyncio.sleep(chance.random() / 100)
            services[0].failure = Unavailable("killed") if services[0].failure is None else None
            if chance.random() < 0.3:  # a copy is killed and another takes its place
                copies[chance.randrange(3)] = Reads({"control": SqliteMark(file)})

    async with asyncio.TaskGroup() as group:
        for _ in range(6):
            group.create_task(client())
        group.create_task(troubles())
        await writers()
        over.set()
    assert told >= 8
    assert reads_done > 100
    assert from_kept > 20  # it was not the services alone


async def test_a_mark_that_does_not_change_would_be_found_out(file: Path) -> None:
    """The test above can fail: so it does with a mark that is the same for ever."""

    class Blind(SqliteMark):
        def read(self) -> tuple[int, ...] | None:
            return (1,)

    database, service, reads = connect(file), Service(file), Reads({"control": Blind(file)})
    assert await read(reads, service) == 0
    increment(database)
    assert await read(reads, service) == 0


async def test_a_route_answers_from_what_it_kept(edge: EdgeUnderTest, file: Path) -> None:
    edge.reads._marks = {name: SqliteMark(file) for name in ("control", "image")}
    pages = [ContainerPage(containers=[], partial=True), ContainerPage(containers=[])]
    edge.bus.answer(contracts.LIST, lambda _: pages.pop(0) if len(pages) > 1 else pages[0])
    for _ in range(4):
        assert (await edge.client.request("GET", "/containers/json")).body == b"[]\n"
    assert len(edge.bus.requests) == 2  # the first was not all that it should have been, and was not kept
    await edge.client.request("GET", "/containers/json?all=1")
    await edge.client.request("GET", "/v1.41/containers/json")
    assert len(edge.bus.requests) == 4
    database = connect(file)
    increment(database)
    await edge.client.request("GET", "/containers/json")
    assert len(edge.bus.requests) == 5
