"""Requests over which control dies, asked again: what was done is answered, and done once."""

from __future__ import annotations

import asyncio
import time

import pytest

from shared.bus import inflight
from shared.contracts import containers as contract
from shared.contracts.containers import (
    CreateContainer,
    CreateExec,
    ExecRef,
    RemoveContainer,
    StartExec,
    StopContainer,
)
from shared.contracts.docker import ContainerConfig, HostConfig, RestartPolicy
from shared.errors import Conflict, DavitError, Interrupted, NotFound, Unavailable
from tests.integration.control.world import World


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflight, "PERIOD_S", 0.3)
    monkeypatch.setattr(inflight, "ANSWER_S", 0.15)


async def _start_without_answer(world: World, ref: str, key: str) -> None:
    """Control is replaced after the node has carried out its order, and before it could commit that."""
    loop = asyncio.get_running_loop()
    killed = loop.create_future()
    world.node.before["start"] = lambda: killed.set_result(loop.create_task(world.kill_control()))
    starting = asyncio.create_task(world.start(ref, key))
    await (await killed)
    world.node.before.clear()
    await world.add_control()
    with pytest.raises(Interrupted):
        await starting


async def test_a_start_asked_again_after_control_died_is_the_same_start(world: World) -> None:
    container_id = await world.create("web")
    await _start_without_answer(world, "web", "k1")
    await world.start("web", "k1")
    assert await world.status("web") == "running"
    await world.start("web", "k1")
    assert await world.actions(container_id) == ["create", "start"]


async def test_a_short_run_is_not_run_again(world: World) -> None:
    container_id = await world.create("job")
    await _start_without_answer(world, "job", "k1")
    await world.node.exit(container_id, 3)
    ran = world.node.pid
    await world.start("job", "k1")
    assert (await world.inspect("job")).state.exit_code == 3
    assert world.node.pid == ran
    assert await world.actions(container_id) == ["create", "start", "die"]
    await world.start("job", "k2")
    assert world.node.pid == ran + 1


async def test_a_failed_start_fails_again_with_the_same_words_and_is_not_tried_again(world: World) -> None:
    await world.create("web")
    world.node.fail["start"] = NotFound("unable to start container process: nope", exit_code=127)
    with pytest.raises(DavitError) as first:
        await world.start("web", "k1")
    asked = len(world.node.calls)
    with pytest.raises(type(first.value)) as second:
        await world.start("web", "k1")
    assert (second.value.message, second.value.detail) == (first.value.message, first.value.detail)
    assert len(world.node.calls) == asked
    world.node.fail.clear()
    await world.start("web", "k2")
    assert await world.status("web") == "running"


async def test_a_restart_asked_again_does_not_interrupt_what_the_first_one_started(world: World) -> None:
    container_id = await world.run("web")
    request = StopContainer(ref="web", key="k1")
    await world.ask(contract.RESTART, request)
    await world.ask(contract.RESTART, request)
    assert (await world.actions(container_id)).count("die") == 1
    assert (await world.inspect("web")).generation == 2


async def test_a_restart_that_was_cut_off_leaves_a_container_that_still_removes_itself(world: World) -> None:
    container_id = await world.run("web", host=HostConfig(auto_remove=True))
    world.node.fail["start"] = Conflict("not now")
    with pytest.raises(Conflict):
        await world.ask(contract.RESTART, StopContainer(ref="web"))
    assert not await world.exists("web")  # the start of a container that removes itself has failed: it goes
    world.node.fail.clear()

    await world.run("web", host=HostConfig(auto_remove=True))
    loop = asyncio.get_running_loop()
    killed = loop.create_future()
    world.node.before["start"] = lambda: killed.set_result(loop.create_task(world.kill_control()))
    request = StopContainer(ref="web", key="k1")
    restarting = asyncio.create_task(world.ask(contract.RESTART, request))
    await (await killed)
    world.node.before.clear()
    await world.add_control()
    with pytest.raises(Interrupted):
        await restarting
    await world.ask(contract.RESTART, request)
    again = await world.inspect("web")
    assert (again.state.status, again.generation) == ("running", 2)
    assert again.host_config.auto_remove
    await world.node.exit(again.id, 0)
    await world.eventually(lambda: _gone(world, again.id))
    assert again.id != container_id


async def _gone(world: World, ref: str) -> bool:
    return not await world.exists(ref)


async def test_a_create_asked_again_answers_the_container_it_made(world: World) -> None:
    request = CreateContainer(id="7" * 64, name="web", config=ContainerConfig(image="busybox"))
    request.host_config.binds = ["data:/data"]
    assert (await world.ask(contract.CREATE, request)).id == request.id
    again = request.model_copy(update={"repeated": True})
    assert (await world.ask(contract.CREATE, again)).id == request.id
    # Also when the first attempt is still at work: neither loses the other's volumes.
    assert (await world.ask(contract.CREATE, request)).id == request.id
    assert world.services.held == {request.id: ["data"]}
    assert await world.actions(request.id) == ["create"]
    with pytest.raises(Conflict, match="is already in use"):
        await world.ask(contract.CREATE, request.model_copy(update={"id": "8" * 64}))


async def test_an_exit_told_after_the_restart_that_followed_it_is_an_event_and_no_change(world: World) -> None:
    """As after the agent was killed between a restart and its reports."""
    container_id = await world.run(host=HostConfig(restart_policy=RestartPolicy(name="always")))
    ended = world.node.end(container_id, 1)
    item = world.node.items[container_id]
    item.status, item.started_at_ns, item.exit = "running", time.time_ns(), None
    await world.node.report(container_id, "started", pid=500, started_at_ns=item.started_at_ns, restart_count=1)
    for _ in range(2):
        await world.node.report(container_id, "restarting", exit=ended)
    container = await world.inspect(container_id)
    assert (container.state.status, container.state.pid) == ("running", 500)
    assert sorted((await world.actions(container_id))[1:]) == ["die", "start", "start"]


async def test_a_removal_asked_again_has_nothing_to_remove(world: World) -> None:
    await world.create("web")
    await world.ask(contract.REMOVE, RemoveContainer(ref="web"))
    with pytest.raises(NotFound):
        await world.ask(contract.REMOVE, RemoveContainer(ref="web"))


# Endpoints and ports


async def test_what_a_killed_control_had_not_released_is_released_at_the_next_inventory(world: World) -> None:
    container_id = await world.run()
    world.services.fail["leave"] = Unavailable("the network service is away")
    await world.node.exit(container_id, 0)
    await asyncio.sleep(0.3)  # the release has been tried, and refused
    await world.kill_control()
    world.services.fail.clear()
    await world.add_control()
    await world.node.inventory()
    assert container_id in world.services.endpoints  # what is younger than a few seconds settles by itself
    await world.node.inventory(age_s=10)
    await world.eventually(lambda: not world.services.endpoints)


async def test_a_release_found_by_inventory_does_not_meet_a_start_under_way(world: World) -> None:
    container_id = await world.run()
    world.services.fail["leave"] = Unavailable("the network service is away")
    await world.node.exit(container_id, 0)
    world.services.fail.clear()
    other = await world.add_control()
    going, inventory = asyncio.Event(), asyncio.Event()

    def joined_and_waiting() -> None:
        going.set()

    world.node.before["start"] = joined_and_waiting
    world.node.delay["start"] = inventory
    starting = asyncio.create_task(world.start(container_id))
    await going.wait()
    for _ in range(4):  # to either copy of control
        await world.node.inventory(age_s=10)
    await asyncio.sleep(0.2)
    assert container_id in world.services.endpoints
    inventory.set()
    await starting
    assert await world.status(container_id) == "running"
    assert container_id in world.services.endpoints
    assert other in world.controls


def _taken(port: int) -> Conflict:
    return Conflict("listen: address already in use", reason="foreign_listener", protocol="tcp", host_port=port)


async def test_another_port_is_tried_when_somebody_else_has_one(world: World) -> None:
    await world.create("web")
    ports = iter((40000, 40001))

    def refuse_twice() -> None:
        port = next(ports, None)
        if port is not None:
            raise _taken(port)

    world.node.before["start"] = refuse_twice
    await world.start("web")
    assert await world.status("web") == "running"
    assert world.services.avoided == [[], [40000], [40000, 40001]]


async def test_ports_are_not_tried_for_ever(world: World) -> None:
    await world.create("web")
    world.node.fail["start"] = _taken(40000)
    with pytest.raises(Conflict, match="address already in use"):
        await world.start("web")
    assert len(world.services.avoided) == 10
    await world.eventually(lambda: not world.services.endpoints)


async def test_a_port_that_was_asked_for_fails_in_the_nodes_words(world: World) -> None:
    await world.create("web")

    def refuse() -> None:
        world.services.fail["join"] = Conflict("port is already allocated")
        raise _taken(80)

    world.node.before["start"] = refuse
    with pytest.raises(Conflict, match="address already in use"):
        await world.start("web")
    await world.eventually(lambda: not world.services.endpoints)


async def test_a_forced_removal_that_is_cut_off_is_finished_with_the_exit(world: World) -> None:
    container_id = await world.run("web", host=HostConfig(binds=["data:/data"]))
    loop = asyncio.get_running_loop()
    killed = loop.create_future()
    world.node.before["stop"] = lambda: killed.set_result(loop.create_task(world.kill_control()))
    removing = asyncio.create_task(world.ask(contract.REMOVE, RemoveContainer(ref="web", force=True)))
    await (await killed)
    world.node.before.clear()
    await world.add_control()
    await world.eventually(lambda: _gone(world, container_id))
    with pytest.raises(Interrupted):
        await removing
    assert await world.actions(container_id) == ["create", "start", "kill", "die", "destroy"]
    assert world.services.held == {}


async def test_a_forced_removal_asks_the_node_once(world: World) -> None:
    container_id = await world.run("web")
    before = len(world.node.calls)
    await world.ask(contract.REMOVE, RemoveContainer(ref="web", force=True))
    assert not await world.exists("web")
    assert world.node.calls[before:] == [("stop", container_id), ("remove", container_id)]
    assert await world.actions(container_id) == ["create", "start", "kill", "die", "destroy"]


async def test_a_container_whose_kill_failed_is_not_removed_much_later(world: World) -> None:
    container_id = await world.run("web")
    world.node.fail["stop"] = Unavailable("the node is away")
    with pytest.raises(Unavailable):
        await world.ask(contract.REMOVE, RemoveContainer(ref="web", force=True))
    item = world.node.items[container_id]
    ended = world.node.end(container_id, 0)
    item.exit = ended.model_copy(update={"finished_at_ns": ended.finished_at_ns + 120 * 10**9})
    await world.node.report(container_id, "exited", exit=item.exit)
    assert await world.status("web") == "exited"


# Execs


async def test_an_exec_created_again_is_the_same(world: World) -> None:
    container_id = await world.run("web")
    request = CreateExec(id="e" * 64, ref="web", cmd=["ls"])
    assert (await world.ask(contract.EXEC_CREATE, request)).id == request.id
    again = request.model_copy(update={"repeated": True})
    assert (await world.ask(contract.EXEC_CREATE, again)).id == request.id
    assert (await world.actions(container_id)).count("exec_create: ls") == 1


async def _exec(world: World) -> str:
    return str((await world.ask(contract.EXEC_CREATE, CreateExec(ref="web", cmd=["job"]))).id)


async def test_an_exec_started_again_after_control_died_is_the_same_start(world: World) -> None:
    container_id = await world.run("web")
    exec_id = await _exec(world)
    loop = asyncio.get_running_loop()
    killed = loop.create_future()
    world.node.before["exec_start"] = lambda: killed.set_result(loop.create_task(world.kill_control()))
    starting = asyncio.create_task(world.ask(contract.EXEC_START, StartExec(id=exec_id, detach=True)))
    await (await killed)
    world.node.before.clear()
    await world.add_control()
    with pytest.raises(Interrupted):
        await starting
    again = StartExec(id=exec_id, detach=True, repeated=True)
    for _ in range(2):
        await world.ask(contract.EXEC_START, again)
    assert (await world.ask(contract.EXEC_INSPECT, ExecRef(id=exec_id))).running
    with pytest.raises(Conflict, match="is already running"):
        await world.ask(contract.EXEC_START, StartExec(id=exec_id, detach=True))
    await world.node.exec_exit(exec_id, container_id, 3)
    await world.ask(contract.EXEC_START, again)
    actions = [action for action in await world.actions(container_id) if action.startswith("exec_")]
    assert actions == ["exec_create: job", "exec_start: job", "exec_die"]


async def test_an_exec_that_failed_fails_again_with_the_same_words(world: World) -> None:
    await world.run("web")
    exec_id = await _exec(world)
    world.node.fail["exec_start"] = NotFound("unable to start container process: nope", exit_code=127)
    outcomes = []
    for repeated in (False, True):
        with pytest.raises(DavitError) as refused:
            await world.ask(contract.EXEC_START, StartExec(id=exec_id, detach=True, repeated=repeated))
        outcomes.append((type(refused.value), refused.value.message, refused.value.detail))
    assert outcomes[0] == outcomes[1]
    assert [verb for verb, _ in world.node.calls].count("exec_start") == 1
