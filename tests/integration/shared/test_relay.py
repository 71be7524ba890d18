"""Events reach the stream exactly once, in order, whatever is killed, deleted or doubled."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from shared.bus.client import Bus
from shared.events import stream
from shared.events.record import STREAM, DomainEvent
from shared.events.relay import Relay
from shared.state.database import Database
from tests.integration.shared.conftest import HISTORY
from tests.integration.shared.test_database import add
from tests.lab.nats import NatsServer

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
async def own_bus(own_nats: NatsServer) -> AsyncIterator[Bus]:
    bus = await Bus.connect(own_nats.url, name="test")
    yield bus
    await bus.close()


class Running:
    """A relay that runs as a task."""

    def __init__(self, database: Database, bus: Bus) -> None:
        self.relay = Relay(database, bus, retention_s=3600)
        self._task = asyncio.create_task(self.relay.run())

    async def reached(self, sequence: int, timeout_s: float = 15) -> None:
        await until(lambda: self.relay.position >= sequence, timeout_s)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def until(condition: Callable[[], bool], timeout_s: float = 15) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def published(bus: Bus) -> list[tuple[str, int, str]]:
    """What a consumer that trusts nothing sees: every message of the stream, as it is."""
    state = (await bus.jetstream.stream_info(STREAM)).state
    events = []
    for number in range(state.first_seq, state.last_seq + 1):
        message = await bus.jetstream.get_msg(STREAM, number)
        event = DomainEvent.model_validate_json(message.data or b"")
        events.append((event.service, event.sequence, event.actor_id))
    return events


async def test_a_committed_event_appears_at_once(database: Database, own_bus: Bus) -> None:
    running = Running(database, own_bus)
    await until(lambda: running.relay.active)
    await add(database, "first")
    await running.reached(1, 2)
    began = asyncio.get_running_loop().time()
    await add(database, "second")
    await running.reached(2, 2)
    assert asyncio.get_running_loop().time() - began < 1, "waited for the poll"
    assert await published(own_bus) == [("demo", 1, "first"), ("demo", 2, "second")]
    await running.stop()


async def test_a_new_relay_goes_on_where_the_last_one_was(database: Database, own_bus: Bus) -> None:
    for turn in range(3):
        running = Running(database, own_bus)
        await add(database, str(turn))
        await running.reached(turn + 1)
        await running.stop()
    assert await published(own_bus) == [("demo", 1, "0"), ("demo", 2, "1"), ("demo", 3, "2")]


async def test_a_deleted_stream_is_rebuilt(database: Database, own_bus: Bus) -> None:
    running = Running(database, own_bus)
    for name in "abc":
        await add(database, name)
    await running.reached(3)
    await own_bus.jetstream.delete_stream(STREAM)
    await add(database, "d")

    async def all_there() -> bool:
        return len(await published(own_bus)) == 4

    async with asyncio.timeout(15):
        while True:
            try:
                if await all_there():
                    break
            except Exception:
                await asyncio.sleep(0.05)
    assert await published(own_bus) == [("demo", n, name) for n, name in enumerate("abcd", 1)]
    await running.stop()


async def test_a_deleted_stream_is_noticed_without_new_events(
    database: Database, own_bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.events.relay.POLL_S", 0.2)
    running = Running(database, own_bus)
    await add(database, "a")
    await running.reached(1)
    await own_bus.jetstream.delete_stream(STREAM)
    async with asyncio.timeout(10):
        while not await has(own_bus, 1):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert await published(own_bus) == [("demo", 1, "a")]
    await running.stop()


async def has(bus: Bus, count: int) -> bool:
    try:
        return (await bus.jetstream.stream_info(STREAM)).state.messages == count
    except Exception:
        return False


async def test_a_lost_tail_is_published_again(database: Database, own_bus: Bus) -> None:
    running = Running(database, own_bus)
    for name in "abcd":
        await add(database, name)
    await running.reached(4)
    await running.stop()
    for number in (4, 3):
        await own_bus.jetstream.delete_msg(STREAM, number)
    running = Running(database, own_bus)
    await running.reached(4)
    assert set(await remaining(own_bus)) == {(n, name) for n, name in enumerate("abcd", 1)}
    await running.stop()


async def remaining(bus: Bus) -> list[tuple[int, str]]:
    events = []
    async for event in stream.follow(bus, since_ns=0, replay_only=True):
        events.append((event.sequence, event.actor_id))
    return events


async def test_the_bus_restarts_with_its_store_lost(database: Database, own_nats: NatsServer, own_bus: Bus) -> None:
    running = Running(database, own_bus)
    for name in "abc":
        await add(database, name)
    await running.reached(3)
    own_nats.kill(forget=True)
    await add(database, "d")
    own_nats.start()
    async with asyncio.timeout(20):
        while not await has(own_bus, 4):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert await published(own_bus) == [("demo", n, name) for n, name in enumerate("abcd", 1)]
    await running.stop()


async def test_of_two_copies_one_publishes_and_the_other_takes_over(
    database: Database, database_url: str, own_bus: Bus, own_nats: NatsServer
) -> None:
    second_database = await Database.open(database_url, service="demo", migrations=HISTORY)
    second_bus = await Bus.connect(own_nats.url, name="second")
    first = Running(database, own_bus)
    await until(lambda: first.relay.active)
    second = Running(second_database, second_bus)
    await asyncio.sleep(0.3)
    assert not second.relay.active
    await add(second_database, "from the second")
    await first.reached(1, 2)
    await first.stop()
    await until(lambda: second.relay.active, 5)
    await add(database, "from the first")
    await second.reached(2, 10)
    assert await published(own_bus) == [("demo", 1, "from the second"), ("demo", 2, "from the first")]
    await second.stop()
    await second_bus.close()
    await second_database.close()


async def test_two_services_on_one_subject(database: Database, database_url: str, own_bus: Bus) -> None:
    """The newest message of a subject may be another service's; ours is found all the same."""
    other = await Database.open(database_url, service="other", migrations=HISTORY)
    running, others = Running(database, own_bus), Running(other, own_bus)
    await add(database, "ours")
    await running.reached(1)
    for n in range(5):
        await add(other, f"theirs {n}")
    await others.reached(5)
    await running.stop()
    running = Running(database, own_bus)
    await add(database, "ours again")
    await running.reached(2)
    mine = [entry for entry in await published(own_bus) if entry[0] == "demo"]
    assert mine == [("demo", 1, "ours"), ("demo", 2, "ours again")]
    await running.stop()
    await others.stop()
    await other.close()


@pytest.mark.parametrize("failpoint", ["outbox.before_publish=kill@4", "outbox.after_publish=kill@4"])
async def test_killed_while_publishing(failpoint: str, database_url: str, own_nats: NatsServer, own_bus: Bus) -> None:
    """A process commits ten events and is killed at its fourth publish; the next one publishes the rest."""
    program = [sys.executable, "-m", "tests.integration.shared.publisher", database_url, own_nats.url]
    environment = {key: value for key, value in os.environ.items() if key != "DAVIT_FAILPOINTS"}
    killed = await asyncio.to_thread(
        subprocess.run, [*program, "10", failpoint], cwd=ROOT, env=environment, check=False, timeout=60
    )
    assert killed.returncode == -signal.SIGKILL
    finished = await asyncio.to_thread(
        subprocess.run, [*program, "0", ""], cwd=ROOT, env=environment, check=False, timeout=60
    )
    assert finished.returncode == 0
    assert await published(own_bus) == [("demo", n, str(n)) for n in range(1, 11)]


async def test_a_follower_sees_each_event_once_through_restart_and_loss(
    database: Database, own_nats: NatsServer, own_bus: Bus
) -> None:
    running = Running(database, own_bus)
    await add(database, "a")
    await running.reached(1)
    seen: list[str] = []

    async def collect() -> None:
        async for event in stream.follow(own_bus, since_ns=0):
            seen.append(event.actor_id)

    follower = asyncio.create_task(collect())
    await until(lambda: seen == ["a"])
    own_nats.kill()
    await add(database, "b")
    own_nats.start()
    await until(lambda: seen == ["a", "b"], 20)
    own_nats.kill(forget=True)
    own_nats.start()
    await add(database, "c")
    await until(lambda: "c" in seen, 20)
    assert seen == ["a", "b", "c"]
    follower.cancel()
    await asyncio.gather(follower, return_exceptions=True)
    await running.stop()
