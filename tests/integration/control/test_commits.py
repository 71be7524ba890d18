"""How many commits of control a client waits for: each is a write to the disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from shared.contracts import containers as contract
from shared.contracts.containers import CreateExec, RemoveContainer, StartExec
from shared.contracts.docker import HostConfig
from shared.state.database import Transaction
from tests.integration.control.world import World


@pytest.fixture
async def commits(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Those since the last time of asking."""
    for task in list(world.controls[0].context._tasks):
        if task.get_name() in ("reconcile", "relay"):  # they write when they please
            while not task.done():  # Python 3.11's wait_for drops a cancellation that comes with its result
                task.cancel()
                await asyncio.sleep(0)
    database = world.controls[0].database
    begin, counted = database.transaction, [0]

    @asynccontextmanager
    async def transaction() -> AsyncIterator[Transaction]:
        async with begin() as tx:
            yield tx
        counted[0] += 1  # not those that are rolled back: they write nothing

    monkeypatch.setattr(database, "transaction", transaction)

    def since() -> int:
        number, counted[0] = counted[0], 0
        return number

    return since


async def test_a_life_with_rm(world: World, commits: Callable[[], int]) -> None:
    commits()
    container_id = await world.run("web", host=HostConfig(auto_remove=True))
    assert commits() == 2
    await world.node.exit(container_id, 0)
    await world.wait(container_id, "removed")
    assert commits() == 2


async def test_an_exec(world: World, commits: Callable[[], int]) -> None:
    container_id = await world.run("web")
    commits()
    exec_id = (await world.ask(contract.EXEC_CREATE, CreateExec(ref="web", cmd=["ls"]))).id
    await world.ask(contract.EXEC_START, StartExec(id=exec_id, detach=True))
    await world.node.exec_exit(exec_id, container_id, 0)
    assert commits() == 3


async def test_removals(world: World, commits: Callable[[], int]) -> None:
    await world.create("idle")
    await world.run("busy")
    commits()
    await world.ask(contract.REMOVE, RemoveContainer(ref="idle"))
    assert commits() == 2
    await world.ask(contract.REMOVE, RemoveContainer(ref="busy", force=True))
    assert commits() == 3
