"""A container's life as clients see it."""

from __future__ import annotations

import asyncio

import pytest

from shared.contracts import containers as contract
from shared.contracts.containers import (
    ContainerRef,
    KillContainer,
    Prune,
    RemoveContainer,
    RenameContainer,
    StopContainer,
    UpdateContainer,
    WaitContainer,
)
from shared.contracts.docker import HostConfig, Resources, RestartPolicy
from shared.errors import Conflict, DeadlineExceeded, InvalidArgument, NotFound, NotModified
from tests.integration.control.world import IMAGE_ID, World


async def test_create_answers_an_id_and_inspect_shows_what_was_decided(world: World) -> None:
    container_id = await world.create("web", cmd=["echo", "hi"], env=["B=own"], labels={"k": "v"})
    container = await world.inspect("web")
    assert container.id == container_id
    assert container.state.status == "created"
    assert (container.path, container.args) == ("echo", ["hi"])
    assert container.image_id == IMAGE_ID
    assert container.config.env == ["B=own", "A=image"]
    assert container.config.hostname == container_id[:12]
    assert container.host_config.network_mode == "bridge"
    [event] = await world.events(container_id)
    assert event.action == "create"
    assert event.attributes == {"k": "v", "image": "busybox", "name": "web"}


async def test_a_name_is_taken_once(world: World) -> None:
    first = await world.create("web")
    with pytest.raises(Conflict) as caught:
        await world.create("web")
    assert caught.value.message == (
        f'Conflict. The container name "/web" is already in use by container "{first}". '
        "You have to remove (or rename) that container to be able to reuse that name."
    )


async def test_a_container_is_found_by_name_id_and_unique_prefix(world: World) -> None:
    container_id = await world.create("web")
    for ref in ("web", "/web", container_id, container_id[:12], container_id[:4]):
        assert (await world.inspect(ref)).id == container_id
    with pytest.raises(NotFound, match="No such container: nope"):
        await world.inspect("nope")


async def test_an_ambiguous_prefix_is_refused_and_a_name_wins_over_prefixes(world: World) -> None:
    ids = [await world.create() for _ in range(40)]
    digit = next(one[0] for one in ids if sum(other[0] == one[0] for other in ids) > 3)
    with pytest.raises(InvalidArgument, match=f"Multiple IDs found with provided prefix: {digit}"):
        await world.inspect(digit)
    prefix = ids[0][:2]
    named = await world.create(prefix)
    assert (await world.inspect(prefix)).id == named


async def test_start_joins_orders_and_records(world: World) -> None:
    container_id = await world.run("web", cmd=["sleep", "9"], tty=True)
    order = world.node.orders[container_id]
    assert order.generation == 1
    assert order.config.env[:3] == [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        f"HOSTNAME={container_id[:12]}",
        "TERM=xterm",
    ]
    assert order.attachments[0].network.name == "bridge"
    container = await world.inspect("web")
    assert container.state.running
    assert container.state.pid == 101
    assert container.networks["bridge"].ip_address == "172.17.0.2"
    assert await world.actions(container_id) == ["create", "start"]
    with pytest.raises(NotModified):
        await world.start("web")


async def test_an_exit_ends_waits_and_frees_the_endpoint(world: World) -> None:
    container_id = await world.run("web")
    waiting = asyncio.create_task(world.wait("web"))
    next_exit = asyncio.create_task(world.wait("web", "next-exit"))
    await asyncio.sleep(0.05)
    await world.node.exit(container_id, 3)
    assert (await waiting).status_code == 3
    assert (await next_exit).status_code == 3
    container = await world.inspect("web")
    assert container.state.status == "exited"
    assert container.state.exit_code == 3
    assert container.networks["bridge"].ip_address == ""
    await world.eventually(lambda: world.services.leaves == [container_id])
    die = (await world.events(container_id))[-1]
    assert die.action == "die"
    assert die.attributes["exitCode"] == "3"
    assert die.attributes["execDuration"] == "0"


async def test_the_same_exit_twice_is_one(world: World) -> None:
    container_id = await world.run()
    ended = await world.node.exit(container_id, 0)
    await world.node.report(container_id, "exited", exit=ended)
    assert (await world.actions(container_id)).count("die") == 1


async def test_an_exit_that_overtakes_its_start_comes_after_it(world: World) -> None:
    world.node.exits_at_once = 0
    container_id = await world.run()
    assert (await world.wait(container_id)).status_code == 0
    assert await world.actions(container_id) == ["create", "start", "die"]


async def test_auto_remove_leaves_nothing_and_tells_whoever_waits(world: World) -> None:
    container_id = await world.create(host=HostConfig(auto_remove=True, binds=["data:/data", "/anon"]))
    removed = asyncio.create_task(world.wait(container_id, "removed"))
    await asyncio.sleep(0.05)
    await world.start(container_id)
    await world.node.exit(container_id, 7)
    assert (await removed).status_code == 7
    assert not await world.exists(container_id)
    assert await world.actions(container_id) == ["create", "start", "die", "destroy"]
    assert world.services.held == {}
    assert world.services.endpoints == {}
    assert world.services.removed_anonymous == ["anonymous1"]
    assert container_id not in world.node.items


async def test_a_wait_goes_on_with_its_ticket(world: World) -> None:
    container_id = await world.run()
    pending = await world.wait(container_id, "next-exit", patience_s=0)
    assert pending.pending
    await world.node.exit(container_id, 5)
    request = WaitContainer(ref=container_id, condition="next-exit", ticket=pending.ticket)
    assert (await world.ask(contract.WAIT, request)).status_code == 5


@pytest.mark.parametrize("timeout_s", [0, 1])
async def test_stop_signals_kills_after_the_timeout_and_records_in_order(world: World, timeout_s: int) -> None:
    world.node.ignores_signals = True
    container_id = await world.run()
    await world.ask(contract.STOP, StopContainer(ref=container_id, timeout_s=timeout_s))
    container = await world.inspect(container_id)
    assert container.state.exit_code == 137
    events = await world.events(container_id)
    assert [(event.action, event.attributes.get("signal")) for event in events][2:] == [
        ("kill", "15"), ("kill", "9"), ("die", None), ("stop", None),
    ]  # fmt: skip
    assert world.services.endpoints == {}
    with pytest.raises(NotModified):
        await world.ask(contract.STOP, StopContainer(ref=container_id))


async def test_kill_returns_when_the_process_is_gone(world: World) -> None:
    container_id = await world.run("web")
    await world.ask(contract.KILL, KillContainer(ref="web", signal="HUP"))
    assert await world.status("web") == "running"
    await world.ask(contract.KILL, KillContainer(ref="web"))
    assert await world.status("web") == "exited"
    assert await world.actions(container_id) == ["create", "start", "kill", "kill", "die"]
    with pytest.raises(Conflict, match=r"cannot kill container: web: container .* is not running"):
        await world.ask(contract.KILL, KillContainer(ref="web"))
    with pytest.raises(InvalidArgument, match="Invalid signal: FOO"):
        await world.ask(contract.KILL, KillContainer(ref="web", signal="FOO"))


async def test_restart_stops_and_starts_again(world: World) -> None:
    container_id = await world.run("web")
    await world.ask(contract.RESTART, StopContainer(ref="web"))
    assert await world.status("web") == "running"
    assert (await world.actions(container_id))[2:] == ["kill", "die", "stop", "start", "restart"]
    assert world.node.orders[container_id].generation == 2


async def test_restart_keeps_a_container_that_removes_itself(world: World) -> None:
    await world.run("web", host=HostConfig(auto_remove=True))
    await world.ask(contract.RESTART, StopContainer(ref="web"))
    container = await world.inspect("web")
    assert container.state.running
    assert container.host_config.auto_remove


async def test_pause_and_unpause(world: World) -> None:
    container_id = await world.run("web")
    await world.ask(contract.PAUSE, ContainerRef(ref="web"))
    container = await world.inspect("web")
    assert container.state.paused
    assert container.state.running
    with pytest.raises(Conflict, match="is already paused"):
        await world.ask(contract.PAUSE, ContainerRef(ref="web"))
    with pytest.raises(Conflict, match="cannot start a paused container, try unpause instead"):
        await world.start("web")
    await world.ask(contract.UNPAUSE, ContainerRef(ref="web"))
    assert await world.status("web") == "running"
    with pytest.raises(Conflict, match="is not paused"):
        await world.ask(contract.UNPAUSE, ContainerRef(ref="web"))
    assert (await world.actions(container_id))[2:] == ["pause", "unpause"]


async def test_remove_needs_force_while_it_runs(world: World) -> None:
    container_id = await world.run("web", host=HostConfig(binds=["/anon"]))
    with pytest.raises(Conflict, match='cannot remove container "/web": container is running: stop the container'):
        await world.ask(contract.REMOVE, RemoveContainer(ref="web"))
    await world.ask(contract.REMOVE, RemoveContainer(ref="web", force=True, volumes=True))
    assert not await world.exists("web")
    assert [event.attributes.get("signal") for event in await world.events(container_id)][2] == "9"
    assert (await world.actions(container_id))[2:] == ["kill", "die", "destroy"]
    assert world.services.removed_anonymous == ["anonymous1"]


async def test_remove_keeps_anonymous_volumes_unless_asked(world: World) -> None:
    await world.create("web", host=HostConfig(binds=["/anon"]))
    await world.ask(contract.REMOVE, RemoveContainer(ref="web"))
    assert world.services.held == {}
    assert world.services.removed_anonymous == []


async def test_rename_moves_the_name(world: World) -> None:
    container_id = await world.run("old")
    await world.create("other")
    with pytest.raises(Conflict, match="Error when allocating new name"):
        await world.ask(contract.RENAME, RenameContainer(ref="old", name="other"))
    with pytest.raises(InvalidArgument, match="same name as its current name"):
        await world.ask(contract.RENAME, RenameContainer(ref="old", name="old"))
    await world.ask(contract.RENAME, RenameContainer(ref="old", name="new"))
    assert (await world.inspect("new")).id == container_id
    event = (await world.events(container_id))[-1]
    assert (event.action, event.attributes["name"], event.attributes["oldName"]) == ("rename", "new", "/old")


async def test_update_changes_what_was_given_and_nothing_else(world: World) -> None:
    await world.run(
        "web", host=HostConfig(memory=100 << 20, nano_cpus=10**9, restart_policy=RestartPolicy(name="always"))
    )
    everything = sorted(Resources.model_fields)
    request = UpdateContainer(
        ref="web", resources=Resources(memory=50 << 20), set_fields=everything, restart_policy=RestartPolicy()
    )
    await world.ask(contract.UPDATE, request)
    host = (await world.inspect("web")).host_config
    assert (host.memory, host.nano_cpus, host.restart_policy.name) == (50 << 20, 10**9, "always")
    with pytest.raises(InvalidArgument, match="already set memoryswap limit"):
        await world.ask(
            contract.UPDATE, UpdateContainer(ref="web", resources=Resources(memory=1 << 40), set_fields=["memory"])
        )


async def test_update_refuses_a_policy_for_a_container_that_removes_itself(world: World) -> None:
    await world.create("web", host=HostConfig(auto_remove=True))
    with pytest.raises(InvalidArgument, match="AutoRemove is enabled"):
        await world.ask(
            contract.UPDATE,
            UpdateContainer(ref="web", resources=Resources(), restart_policy=RestartPolicy(name="always")),
        )


async def test_prune_takes_what_does_not_run(world: World) -> None:
    running = await world.run("running")
    gone = [await world.create("one", labels={"a": "1"}), await world.create("two", labels={"a": "1"})]
    kept = await world.create("kept")
    pruned = await world.ask(contract.PRUNE, Prune(filters={"label": ["a=1"]}))
    assert sorted(pruned.ids) == sorted(gone)
    assert pruned.space_reclaimed_bytes == 20
    assert await world.exists(running)
    assert await world.exists(kept)
    with pytest.raises(InvalidArgument, match="invalid filter 'foo'"):
        await world.ask(contract.PRUNE, Prune(filters={"foo": ["x"]}))


async def test_two_starts_at_once_are_one_start(world: World) -> None:
    container_id = await world.create()
    outcomes = await asyncio.gather(*(world.start(container_id) for _ in range(4)), return_exceptions=True)
    assert sum(outcome is None for outcome in outcomes) >= 1
    assert all(outcome is None or isinstance(outcome, NotModified) for outcome in outcomes)
    assert (await world.actions(container_id)).count("start") == 1
    assert (await world.inspect(container_id)).state.running


async def test_a_deadline_is_not_an_answer(world: World) -> None:
    container_id = await world.create()
    world.node.fail["start"] = DeadlineExceeded("slow")
    with pytest.raises(DeadlineExceeded):
        await world.start(container_id)
    assert (await world.inspect(container_id)).state.error == ""
    del world.node.fail["start"]
    await world.start(container_id)
    assert await world.status(container_id) == "running"
