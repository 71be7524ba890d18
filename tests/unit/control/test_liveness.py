"""Who lives, and since when not: the rule, on a clock that the test moves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.executor.control.cluster.liveness import ASK_AFTER_S, DOWN_AFTER_S, GONE_AFTER_S, Liveness
from shared.bus.client import EMPTY, Empty
from shared.contracts import cluster as contract
from shared.contracts.cluster import Heartbeat
from shared.testing.bus import MemoryHub


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def monotonic(self) -> float:
        return self.seconds

    def time_ns(self) -> int:
        return int(self.seconds * 1e9)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hub() -> MemoryHub:
    return MemoryHub()


def of(hub: MemoryHub, clock: Clock) -> Liveness:
    bus: Any = hub.connect()
    seam: Any = clock
    return Liveness(bus, seam)


async def test_a_node_that_was_never_heard_of_is_unknown(hub: MemoryHub, clock: Clock) -> None:
    liveness = of(hub, clock)
    assert liveness.state("n") == "unknown"
    assert liveness.state("n", seen_ns=clock.time_ns()) == "ready"
    assert liveness.state("n", seen_ns=clock.time_ns() - int(5e9)) == "down"


async def test_silence_is_down_and_a_word_is_ready(hub: MemoryHub, clock: Clock) -> None:
    liveness = of(hub, clock)
    liveness.heard(Heartbeat(node="n"))
    clock.seconds += DOWN_AFTER_S - 0.1
    assert liveness.state("n") == "ready"
    clock.seconds += 0.2
    assert liveness.state("n") == "down"
    assert "silent for 2 s" in liveness.reason("n")
    liveness.heard(Heartbeat(node="n"))
    assert liveness.state("n") == "ready"


async def test_a_slow_node_that_answers_is_not_a_dead_one(hub: MemoryHub, clock: Clock) -> None:
    async def ping(_: Empty) -> Empty:
        return EMPTY

    await hub.connect().serve(contract.PING, ping, node="n")
    liveness = of(hub, clock)
    liveness.heard(Heartbeat(node="n", containers=3))
    clock.seconds += ASK_AFTER_S + 0.1
    sign = liveness.last("n")
    assert sign is not None
    await liveness._ask("n", sign)
    clock.seconds += 1
    assert liveness.state("n") == "ready"
    assert sign.beat.containers == 3


async def test_one_that_nobody_listens_for_is_down_sooner(hub: MemoryHub, clock: Clock) -> None:
    liveness = of(hub, clock)
    liveness.heard(Heartbeat(node="n"))
    sign = liveness.last("n")
    assert sign is not None
    clock.seconds += ASK_AFTER_S + 0.1
    await liveness._ask("n", sign)
    assert liveness.state("n") == "ready", "a killed agent is back before this"
    clock.seconds += GONE_AFTER_S - ASK_AFTER_S
    assert liveness.state("n") == "down"
    assert liveness.reason("n") == "its agent is not connected to the bus"


async def test_changes_are_told_once(hub: MemoryHub, clock: Clock) -> None:
    liveness = of(hub, clock)
    told: list[tuple[str, str]] = []

    async def on_change(node: str, state: str) -> None:
        told.append((node, state))

    liveness.on_change.append(on_change)
    liveness.heard(Heartbeat(node="n"))
    for _ in range(3):
        await liveness._notice("n")
    clock.seconds += 10
    for _ in range(3):
        await liveness._notice("n")
    assert told == [("n", "ready"), ("n", "down")]


async def test_a_pause_of_this_process_is_not_held_against_nodes(hub: MemoryHub, clock: Clock) -> None:
    liveness = of(hub, clock)
    liveness.heard(Heartbeat(node="n"))
    clock.seconds += 60
    liveness._forgive(60)
    assert liveness.state("n") == "ready"
    await asyncio.sleep(0)
