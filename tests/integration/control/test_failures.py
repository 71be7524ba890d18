"""Starts that fail, policies, and what crashes leave behind."""

from __future__ import annotations

import asyncio
import time

import pytest
import sqlalchemy as sa

from services.executor.control.cluster.liveness import Liveness
from services.executor.control.creation import create as creating
from services.executor.control.life.ending import Ending
from services.executor.control.life.endpoints import Endpoints
from services.executor.control.life.execs import Execs
from services.executor.control.life.removing import Removing
from services.executor.control.life.starting import Starting
from services.executor.control.life.waiting import Changes
from services.executor.control.nodes.reconcile import Reconciler
from services.executor.control.nodes.registry import Nodes
from services.executor.control.peers import Peers
from services.executor.control.state import sql
from services.executor.control.state.records import Records
from shared.clock import SystemClock
from shared.contracts import containers as contract
from shared.contracts.containers import (
    ContainerRef,
    CreateExec,
    ExecRef,
    KillContainer,
    NodeFacts,
    RemoveContainer,
    StartExec,
    StopContainer,
    UpdateContainer,
)
from shared.contracts.docker import HealthConfig, HostConfig, Mount, Resources, RestartPolicy
from shared.contracts.node import InventoryItem
from shared.errors import Conflict, DavitError, DeadlineExceeded, InvalidArgument, NotFound, Unavailable
from shared.state.statements import Prepared
from tests.integration.control.world import IMAGE_ID, NODE, Control, World

MINUTES = 300.0


async def test_a_command_that_is_not_there_is_told_in_dockers_words(world: World) -> None:
    container_id = await world.create("web", cmd=["nope"])
    reason = 'unable to start container process: exec: "nope": executable file not found in $PATH'
    world.node.fail["start"] = NotFound(reason, exit_code=127)
    with pytest.raises(DavitError) as caught:
        await world.start("web")
    assert caught.value.message == (
        f"failed to create task for container: failed to create shim task: OCI runtime create failed: {reason}: unknown"
    )
    container = await world.inspect("web")
    assert container.state.status == "created"
    assert container.state.exit_code == 127
    assert container.state.error == caught.value.message
    assert await world.actions(container_id) == ["create"]
    await world.eventually(lambda: not world.services.endpoints)


async def test_a_failed_start_of_a_container_that_removes_itself_removes_it(world: World) -> None:
    await world.create("web", host=HostConfig(auto_remove=True))
    world.node.fail["start"] = InvalidArgument("permission denied", exit_code=126)
    with pytest.raises(InvalidArgument, match="permission denied"):
        await world.start("web")
    assert not await world.exists("web")


async def test_a_port_that_is_taken_is_an_error_of_the_start(world: World) -> None:
    await world.create("web")
    world.services.fail["join"] = Conflict("Bind for 0.0.0.0:80 failed: port is already allocated")
    with pytest.raises(Conflict, match="port is already allocated"):
        await world.start("web")
    container = await world.inspect("web")
    assert container.state.status == "created"
    assert container.state.exit_code == 128
    del world.services.fail["join"]
    await world.start("web")
    assert (await world.inspect("web")).state.error == ""


async def test_a_missing_bind_source_is_an_error_of_the_create_and_holds_nothing(world: World) -> None:
    text = 'invalid mount config for type "bind": bind source path does not exist: /x'
    world.node.fail["prepare"] = InvalidArgument(text)
    host = HostConfig(mounts=[Mount(type="bind", source="/x", target="/y"), Mount(type="volume", target="/v")])
    with pytest.raises(InvalidArgument, match="bind source path does not exist: /x"):
        await world.create("web", host=host)
    assert not await world.exists("web")
    assert world.services.held == {}
    assert world.services.removed_anonymous == ["anonymous1"]


async def test_an_unknown_image_is_not_found_but_an_unknown_container_is_a_bad_argument(world: World) -> None:
    with pytest.raises(NotFound, match="No such image: nope:latest"):
        await world.create(image="nope")
    for host in (
        HostConfig(pid_mode="container:nope"),
        HostConfig(volumes_from=["nope"]),
        HostConfig(links=["nope:x"]),
    ):
        with pytest.raises(InvalidArgument, match="No such container: nope"):
            await world.create(host=host)


async def test_a_shared_network_needs_its_container_at_the_start(world: World) -> None:
    await world.create("guest", host=HostConfig(network_mode="container:owner"))
    with pytest.raises(NotFound, match="No such container: owner"):
        await world.start("guest")
    owner = await world.create("owner")
    with pytest.raises(Conflict, match="cannot join network of a non running container"):
        await world.start("guest")
    await world.start("owner")
    await world.start("guest")
    guest = await world.inspect("guest")
    assert world.node.orders[guest.id].network_mode == f"container:{owner}"
    assert guest.config.hostname == owner[:12]
    assert guest.id not in world.services.endpoints


async def test_volumes_from_inherits_mounts_and_read_only(world: World) -> None:
    await world.create("first", host=HostConfig(binds=["data:/data", "/tmp:/t"]))
    second = await world.create("second", host=HostConfig(volumes_from=["first:ro"]))
    mounts = {point.destination: point for point in (await world.inspect(second)).mounts}
    assert (mounts["/data"].name, mounts["/data"].rw) == ("data", False)
    assert (mounts["/t"].source, mounts["/t"].rw) == ("/tmp", False)
    assert world.services.held[second] == ["data"]


# Restarts by policy


async def test_a_restart_by_policy_is_followed_from_reports(world: World) -> None:
    container_id = await world.run(host=HostConfig(restart_policy=RestartPolicy(name="always")))
    waiting = asyncio.create_task(world.wait(container_id))
    await asyncio.sleep(0.05)
    await world.node.exit(container_id, 1, restarting=True)
    assert (await waiting).status_code == 1
    assert await world.status(container_id) == "restarting"
    item = world.node.items[container_id]
    item.status, item.started_at_ns = "running", time.time_ns()
    await world.node.report(container_id, "started", pid=500, started_at_ns=item.started_at_ns, restart_count=1)
    container = await world.inspect(container_id)
    assert (container.state.pid, container.restart_count) == (500, 1)
    assert (await world.actions(container_id))[2:] == ["die", "start"]
    assert container_id in world.services.endpoints


async def test_a_stop_between_two_runs_ends_the_waiting(world: World) -> None:
    container_id = await world.run(host=HostConfig(restart_policy=RestartPolicy(name="always")))
    await world.node.exit(container_id, 1, restarting=True)
    await world.ask(contract.STOP, StopContainer(ref=container_id))
    container = await world.inspect(container_id)
    assert (container.state.status, container.state.exit_code) == ("exited", 1)
    assert world.services.endpoints == {}
    assert (await world.actions(container_id)).count("die") == 1


async def test_a_kill_between_two_runs_ends_the_waiting(world: World) -> None:
    container_id = await world.run(host=HostConfig(restart_policy=RestartPolicy(name="always")))
    await world.node.exit(container_id, 1, restarting=True)
    await world.ask(contract.KILL, KillContainer(ref=container_id))
    assert await world.status(container_id) == "exited"


async def test_health_and_oom_reports(world: World) -> None:
    container_id = await world.run(healthcheck=HealthConfig(test=["CMD", "true"]))
    assert (await world.inspect(container_id)).state.health is not None
    for status in ("healthy", "healthy", "unhealthy"):
        await world.node.report(container_id, "health", health_status=status)
    await world.node.report(container_id, "oom")
    container = await world.inspect(container_id)
    assert container.state.health is not None
    assert container.state.health.status == "unhealthy"
    assert container.state.oom_killed
    assert (await world.actions(container_id))[2:] == ["health_status: healthy", "health_status: unhealthy", "oom"]


# Execs


async def test_an_exec_from_create_to_exit(world: World) -> None:
    container_id = await world.run("web")
    exec_id = (await world.ask(contract.EXEC_CREATE, CreateExec(ref="web", cmd=["ls", "-l"]))).id
    assert not (await world.ask(contract.EXEC_INSPECT, ExecRef(id=exec_id))).running
    await world.ask(contract.EXEC_START, StartExec(id=exec_id, detach=True))
    running = await world.ask(contract.EXEC_INSPECT, ExecRef(id=exec_id))
    assert running.running
    assert running.pid == 77
    assert (await world.inspect("web")).exec_ids == [exec_id]
    with pytest.raises(Conflict, match="is already running"):
        await world.ask(contract.EXEC_START, StartExec(id=exec_id, detach=True))
    await world.node.exec_exit(exec_id, container_id, 4)
    ended = await world.ask(contract.EXEC_INSPECT, ExecRef(id=exec_id))
    assert (ended.running, ended.exit_code) == (False, 4)
    with pytest.raises(Conflict, match=f"Error: Exec command {exec_id} has already run"):
        await world.ask(contract.EXEC_START, StartExec(id=exec_id, detach=True))
    assert (await world.actions(container_id))[2:] == ["exec_create: ls -l", "exec_start: ls -l", "exec_die"]


async def test_an_exec_that_is_over_before_its_start_is_committed(world: World) -> None:
    container_id = await world.run("web")
    exec_id = (await world.ask(contract.EXEC_CREATE, CreateExec(ref="web", cmd=["true"]))).id
    world.node.exec_ends_at_once = 3
    await world.ask(contract.EXEC_START, StartExec(id=exec_id, detach=True))
    ended = await world.ask(contract.EXEC_INSPECT, ExecRef(id=exec_id))
    assert (ended.running, ended.exit_code) == (False, 3)
    assert (await world.actions(container_id))[2:] == ["exec_create: true", "exec_start: true", "exec_die"]


async def test_an_exec_of_unknown_outcome_is_not_called_failed(world: World) -> None:
    container_id = await world.run("web")
    exec_id = (await world.ask(contract.EXEC_CREATE, CreateExec(ref="web", cmd=["job"]))).id
    world.node.fail["exec_start"] = DeadlineExceeded("slow")
    with pytest.raises(DeadlineExceeded):
        await world.ask(contract.EXEC_START, StartExec(id=exec_id, detach=True))
    assert (await world.ask(contract.EXEC_INSPECT, ExecRef(id=exec_id))).exit_code is None
    await world.node.exec_exit(exec_id, container_id, 5)  # it had been started all the same
    assert (await world.ask(contract.EXEC_INSPECT, ExecRef(id=exec_id))).exit_code == 5
    assert (await world.actions(container_id))[2:] == ["exec_create: job", "exec_start: job", "exec_die"]


async def test_execs_need_a_running_container_and_end_with_it(world: World) -> None:
    container_id = await world.run("web")
    exec_id = (await world.ask(contract.EXEC_CREATE, CreateExec(ref="web", cmd=["sleep"]))).id
    await world.ask(contract.EXEC_START, StartExec(id=exec_id, detach=True))
    await world.ask(contract.PAUSE, ContainerRef(ref="web"))
    with pytest.raises(Conflict, match="is paused, unpause the container before exec"):
        await world.ask(contract.EXEC_CREATE, CreateExec(ref="web", cmd=["ls"]))
    await world.node.exit(container_id, 0)
    ended = await world.ask(contract.EXEC_INSPECT, ExecRef(id=exec_id))
    assert (ended.running, ended.exit_code) == (False, 137)
    with pytest.raises(Conflict, match="is not running"):
        await world.ask(contract.EXEC_CREATE, CreateExec(ref="web", cmd=["ls"]))
    await world.ask(contract.REMOVE, RemoveContainer(ref="web"))
    with pytest.raises(NotFound, match=f"No such exec instance: {exec_id}"):
        await world.ask(contract.EXEC_INSPECT, ExecRef(id=exec_id))


async def test_the_end_of_an_exec_that_nobody_saw_is_found_by_the_inventory(world: World) -> None:
    container_id = await world.run("web")
    ids = [(await world.ask(contract.EXEC_CREATE, CreateExec(ref="web", cmd=["job"]))).id for _ in range(3)]
    for exec_id in ids[:2]:
        await world.ask(contract.EXEC_START, StartExec(id=exec_id, detach=True))
    world.node.execs = ids[:1]  # the shim of the second was killed while there was no agent
    await world.node.inventory()
    found = [await world.ask(contract.EXEC_INSPECT, ExecRef(id=one)) for one in ids]
    assert [one.running for one in found] == [True, True, False], "it was started after that was written down"
    await world.node.inventory(age_s=MINUTES)
    found = [await world.ask(contract.EXEC_INSPECT, ExecRef(id=one)) for one in ids]
    assert [(one.running, one.exit_code) for one in found] == [(True, None), (False, 137), (False, None)]
    assert (await world.inspect("web")).exec_ids == ids[:1]
    assert (await world.actions(container_id)).count("exec_die") == 1


async def test_execs_that_have_ended_are_forgotten_after_a_while(world: World) -> None:
    container_id = await world.run("web")
    ended, created, young = [
        (await world.ask(contract.EXEC_CREATE, CreateExec(ref="web", cmd=["x"]))).id for _ in "123"
    ]
    for one in (ended, young):
        await world.ask(contract.EXEC_START, StartExec(id=one, detach=True))
        await world.node.exec_exit(one, container_id, 0)
    old = time.time_ns() - 601 * 10**9
    async with world.controls[0].database.transaction() as tx:
        for one in (ended, created):
            await tx.execute(Prepared(sa.update(sql.execs).where(sql.execs.c.id == one).values(changed_ns=old)))
    await _sweeper(world.controls[0], LaterClock()).sweep()
    for one in (created, young):
        await world.ask(contract.EXEC_INSPECT, ExecRef(id=one))
    with pytest.raises(NotFound, match=f"No such exec instance: {ended}"):
        await world.ask(contract.EXEC_INSPECT, ExecRef(id=ended))


async def test_an_exec_whose_command_is_missing(world: World) -> None:
    await world.run("web")
    exec_id = (await world.ask(contract.EXEC_CREATE, CreateExec(ref="web", cmd=["nope"]))).id
    reason = 'exec: "nope": executable file not found in $PATH'
    world.node.fail["exec_start"] = NotFound(f"unable to start container process: {reason}", exit_code=127)
    with pytest.raises(InvalidArgument) as caught:
        await world.ask(contract.EXEC_START, StartExec(id=exec_id, detach=True))
    assert caught.value.message == (
        f"OCI runtime exec failed: exec failed: unable to start container process: {reason}: unknown"
    )
    assert (await world.ask(contract.EXEC_INSPECT, ExecRef(id=exec_id))).exit_code == 127
    events = await world.events()
    assert [event.action for event in events][-2:] == ["exec_create: nope", "exec_start: nope"]


# Crashes and silence


async def _age(world: World, container_id: str) -> None:
    """As if nothing had happened to a container for long."""
    async with world.controls[0].database.transaction() as tx:
        old = time.time_ns() - 600 * 10**9
        await tx.execute(
            Prepared(sa.update(sql.containers).where(sql.containers.c.id == container_id).values(changed_ns=old))
        )


async def test_a_start_cut_off_before_its_commit_is_found_by_the_inventory(world: World) -> None:
    container_id = await world.create("web")
    loop = asyncio.get_running_loop()
    killed = loop.create_future()
    world.node.before["start"] = lambda: killed.set_result(loop.create_task(world.kill_control()))
    starting = asyncio.create_task(world.start("web"))
    await (await killed)
    world.node.before.clear()
    await world.add_control()
    assert await world.status("web") == "created"
    await world.node.inventory(age_s=MINUTES)
    container = await world.inspect("web")
    assert container.state.running
    assert container.networks["bridge"].ip_address == "172.17.0.2"
    assert await world.actions(container_id) == ["create", "start"]
    starting.cancel()


async def test_an_exit_of_a_start_that_was_never_committed_brings_both_events(world: World) -> None:
    container_id = await world.create()
    now = time.time_ns()
    world.node.items[container_id] = InventoryItem(id=container_id, generation=1, status="running", started_at_ns=now)
    await world.node.exit(container_id, 2)
    assert (await world.inspect(container_id)).state.exit_code == 2
    assert await world.actions(container_id) == ["create", "start", "die"]


async def test_what_ended_while_control_was_away_is_recorded(world: World) -> None:
    ended, lost, kept = [await world.run() for _ in range(3)]
    world.node.end(ended, 9)
    del world.node.items[lost]
    await world.node.inventory(age_s=MINUTES)
    assert (await world.inspect(ended)).state.exit_code == 9
    container = await world.inspect(lost)
    assert (container.state.status, container.state.exit_code) == ("exited", 255)
    assert await world.status(kept) == "running"
    await world.eventually(lambda: set(world.services.endpoints) == {kept})


async def test_an_inventory_that_is_older_than_a_start_changes_nothing(world: World) -> None:
    container_id = await world.run()
    item = world.node.items.pop(container_id)
    await world.node.inventory()
    assert await world.status(container_id) == "running"
    world.node.items[container_id] = item


async def test_a_pause_cut_off_before_its_commit_is_found(world: World) -> None:
    container_id = await world.run()
    world.node.items[container_id].status = "paused"
    await world.node.inventory(age_s=MINUTES)
    assert await world.status(container_id) == "paused"


async def test_leftovers_are_removed_from_a_node_but_strangers_are_not(world: World) -> None:
    removed = await world.create()
    await world.ask(contract.REMOVE, RemoveContainer(ref=removed))
    world.node.items[removed] = InventoryItem(id=removed, generation=1, status="exited")
    stranger = "f" * 64
    world.node.items[stranger] = InventoryItem(id=stranger, generation=3, status="running")
    assert (await world.node.inventory()).remove == [removed]


async def test_a_removal_cut_short_is_finished(world: World) -> None:
    container_id = await world.create("web", host=HostConfig(binds=["data:/data"]))
    world.node.fail["remove"] = Unavailable("the node is away")
    with pytest.raises(Unavailable):
        await world.ask(contract.REMOVE, RemoveContainer(ref="web"))
    assert await world.status("web") == "removing"
    del world.node.fail["remove"]
    await world.kill_control()
    await world.add_control()
    await world.node.inventory(age_s=MINUTES)
    await world.eventually(lambda: _gone(world, container_id))
    assert world.services.held == {}
    assert (await world.actions(container_id)).count("destroy") == 1


async def _gone(world: World, ref: str) -> bool:
    return not await world.exists(ref)


async def test_a_container_started_during_its_removal_does_not_stay(world: World) -> None:
    container_id = await world.create("web")
    world.node.items[container_id] = InventoryItem(id=container_id, generation=1, status="running")
    await world.ask(contract.REMOVE, RemoveContainer(ref="web"))
    assert container_id not in world.node.items
    assert not await world.exists("web")


async def test_endpoints_that_could_not_be_released_are_released_later(world: World) -> None:
    container_id = await world.run()
    world.services.fail["leave"] = Unavailable("the network service is away")
    await world.node.exit(container_id, 0)
    assert await world.status(container_id) == "exited"
    await world.kill_control()
    world.services.fail.clear()
    await world.add_control()
    await _age(world, container_id)
    await world.eventually(lambda: not world.services.endpoints, within_s=20)


async def test_volumes_of_a_create_cut_short_are_released(world: World) -> None:
    world.services.held["0" * 64] = ["anonymous9"]
    kept = await world.create(host=HostConfig(binds=["data:/data"]))
    clock = LaterClock()
    reconciler = _sweeper(world.controls[0], clock)
    await reconciler.sweep()
    clock.later_s = 60
    await reconciler.sweep()
    assert "0" * 64 in world.services.held
    clock.later_s = 130
    await reconciler.sweep()
    assert set(world.services.held) == {kept}


class LaterClock(SystemClock):
    later_s = 0

    def time_ns(self) -> int:
        return super().time_ns() + self.later_s * 10**9


def _sweeper(control: Control, clock: LaterClock) -> Reconciler:
    peers = Peers(control.context.bus)
    records = Records(control.database, Changes(control.context.bus), clock)
    endpoints = Endpoints(control.database, peers, control.context.spawn)
    removing = Removing(records, peers, endpoints, control.context.spawn)
    starting = Starting(records, peers, endpoints, removing)
    ending = Ending(records, peers, endpoints, removing, starting)
    return Reconciler(
        records,
        peers,
        Nodes(control.database, "n1", clock, Liveness(control.context.bus, clock)),
        ending,
        removing,
        endpoints,
        Execs(records, peers),
    )


async def test_two_copies_serve_as_one(world: World) -> None:
    await world.add_control()
    ids = await asyncio.gather(*(world.run(host=HostConfig(auto_remove=i % 2 == 0)) for i in range(10)))
    waits = [asyncio.create_task(world.wait(one, "next-exit")) for one in ids]
    await asyncio.sleep(0.1)
    await asyncio.gather(*(world.node.exit(one, 0) for one in ids))
    assert [result.status_code for result in await asyncio.gather(*waits)] == [0] * 10
    await world.eventually(lambda: not world.services.endpoints)
    events = await world.events()
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    for one in ids:
        assert [event.action for event in events if event.actor_id == one][:3] == ["create", "start", "die"]


async def test_reads_do_not_ask_the_node(world: World) -> None:
    container_id = await world.run()
    await world.peer_bus.close()
    assert await world.status(container_id) == "running"
    page = await world.ask(contract.LIST, contract.ListContainers())
    assert [one.id for one in page.containers] == [container_id]


async def test_an_image_removed_during_a_slow_creation_takes_the_container_along(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(creating, "RESOLVED_FOR_S", -1.0)
    world.services.resolvable.remove(IMAGE_ID)  # the name was found, and then the image went
    with pytest.raises(NotFound, match="No such image: busybox"):
        await world.create("web")
    assert not await world.exists("web")
    world.services.resolvable.add(IMAGE_ID)
    assert await world.create("web"), "the name is free again"


async def test_a_container_goes_to_the_node_that_its_label_names(world: World) -> None:
    await world.create("here", labels={"davit.node": NODE})
    assert (await world.inspect("here")).node == NODE
    with pytest.raises(InvalidArgument, match=r"label davit\.node: there is no node 'nowhere'"):
        await world.create("there", labels={"davit.node": "nowhere"})
    async with world.controls[0].database.transaction() as tx:
        await sql.save_node(tx, NodeFacts(node="away"), time.time_ns() - 60 * 10**9)
    with pytest.raises(Unavailable, match="away: it is down"):
        await world.create("there", labels={"davit.node": "away"})


async def test_limits_are_measured_by_the_node_that_the_container_is_on(world: World) -> None:
    async with world.controls[0].database.transaction() as tx:
        await sql.save_node(tx, NodeFacts(node="large", cpus=64), time.time_ns())
    await world.create("there", labels={"davit.node": "large"})
    limits = Resources(nano_cpus=40 * 10**9)
    await world.ask(contract.UPDATE, UpdateContainer(ref="there", resources=limits, set_fields=["nano_cpus"]))
    assert (await world.inspect("there")).host_config.nano_cpus == 40 * 10**9
    await world.create("here")
    with pytest.raises(InvalidArgument, match="Range of CPUs"):
        await world.ask(contract.UPDATE, UpdateContainer(ref="here", resources=limits, set_fields=["nano_cpus"]))


async def test_a_node_with_a_disk_of_its_own_prepares_what_is_created(world: World) -> None:
    await world.create("plain")
    assert not [verb for verb, _ in world.node.calls if verb == "prepare"]
    await world.node.inventory(fetches_layers=True)
    container_id = await world.create("fetched", labels={"davit.node": NODE})
    assert world.node.calls[-1] == ("prepare", container_id)
    world.node.fail["prepare"] = Unavailable("5 of 9 bytes have arrived", pending=True)
    assert await world.create("slow", labels={"davit.node": NODE}), "the start waits for the rest"
    world.node.fail["prepare"] = Unavailable("the disk is full")
    with pytest.raises(Unavailable, match="the disk is full"):
        await world.create("full", labels={"davit.node": NODE})
    assert not await world.exists("full")
