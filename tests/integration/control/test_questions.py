"""Lists, forwarding, networks and commits."""

from __future__ import annotations

from typing import Any

import pytest

from shared.bus.client import Empty
from shared.bus.streams import StreamRef
from shared.contracts import containers as contract
from shared.contracts.containers import (
    Attach,
    Commit,
    ConnectContainer,
    ContainerPage,
    DisconnectContainer,
    ListContainers,
    Logs,
    RemoveContainer,
    ResizeContainer,
    UsingImage,
)
from shared.contracts.docker import ContainerConfig, EndpointSettings, HostConfig, LogConfig, PortBinding
from shared.errors import Conflict, DavitError, Forbidden, InvalidArgument, NotFound, Unavailable
from tests.integration.control.world import IMAGE_ID, World

STREAM = StreamRef(id="s")


async def names(world: World, **request: Any) -> list[str]:
    page: ContainerPage = await world.ask(contract.LIST, ListContainers(**request))
    return [one.name for one in page.containers]


async def filtered(world: World, **filters: str) -> list[str]:
    return await names(world, all=True, filters={key.replace("_", "-"): [value] for key, value in filters.items()})


@pytest.fixture
async def three(world: World) -> World:
    await world.create("made", labels={"tier": "db"})
    await world.run(
        "web",
        labels={"tier": "web", "x": ""},
        exposed_ports={"80/tcp": {}},
        host=HostConfig(
            port_bindings={"80/tcp": [PortBinding(host_ip="0.0.0.0", host_port="8080")]}, binds=["data:/d"]
        ),
    )
    ended = await world.run("ended", host=HostConfig(network_mode="other"))
    await world.node.exit(ended, 3)
    return world


async def test_a_list_is_newest_first_and_shows_what_runs(three: World) -> None:
    assert await names(three) == ["web"]
    assert await names(three, all=True) == ["ended", "web", "made"]
    assert await names(three, limit=2) == ["ended", "web"]


async def test_status_texts(three: World) -> None:
    page = await three.ask(contract.LIST, ListContainers(all=True))
    ended, web, made = page.containers
    assert ended.status_text == "Exited (3) Less than a second ago"
    assert web.status_text == "Up Less than a second"
    assert made.status_text == "Created"
    assert web.command == "sh"
    assert web.ports["80/tcp"][0].host_port == "8080"
    assert web.networks["bridge"].ip_address == "172.17.0.2"


async def test_filters(three: World) -> None:
    web = await three.inspect("web")
    assert await filtered(three, status="exited") == ["ended"]
    assert await filtered(three, exited="3") == ["ended"]
    assert await filtered(three, exited="0") == []
    assert await filtered(three, name="we") == ["web"]
    assert await filtered(three, name="^/web$") == ["web"]
    assert await filtered(three, id=web.id[:12]) == ["web"]
    assert await filtered(three, label="tier=web") == ["web"]
    assert await filtered(three, label="tier") == ["web", "made"]
    assert await filtered(three, network="other") == ["ended"]
    assert await filtered(three, network="id-bridge") == ["web"]
    assert await filtered(three, volume="data") == ["web"]
    assert await filtered(three, volume="/d") == ["web"]
    assert await filtered(three, publish="80") == []
    assert await filtered(three, publish="8080/tcp") == ["web"]
    assert await filtered(three, publish="81") == []
    assert await filtered(three, expose="80/tcp") == ["web"]
    assert await filtered(three, health="none") == ["ended", "web", "made"]
    assert await filtered(three, ancestor="busybox") == ["ended", "web", "made"]
    assert await filtered(three, ancestor="nope") == []
    assert await filtered(three, before="web") == ["made"]
    assert await filtered(three, since="web") == ["ended"]
    assert await filtered(three, is_task="true") == []
    assert await names(three, filters={"status": ["created"]}) == ["made"]


@pytest.mark.parametrize(
    "filters", [{"foo": "x"}, {"status": "bar"}, {"health": "bar"}, {"exited": "x"}, {"publish": "foo"}]
)
async def test_bad_filters_are_refused(world: World, filters: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument, match="invalid filter"):
        await filtered(world, **filters)


async def test_pages_join_to_the_whole_list(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.executor.control.reads.queries.PAGE", 4)
    ids = [await world.create() for _ in range(9)]
    found: list[str] = []
    request = ListContainers(all=True)
    while True:
        page = await world.ask(contract.LIST, request)
        found += [one.id for one in page.containers]
        if not page.next:
            break
        request = ListContainers(all=True, after=page.next)
    assert found == ids[::-1]


async def test_sizes_when_asked(three: World) -> None:
    page = await three.ask(contract.LIST, ListContainers(size=True))
    assert (page.containers[0].size_rw_bytes, page.containers[0].size_root_fs_bytes) == (10, 100)


async def test_info_counts_and_users_of_an_image(three: World) -> None:
    info = await three.ask(contract.INFO, Empty())
    assert (info.containers, info.running, info.paused, info.stopped) == (3, 1, 0, 2)
    assert info.nodes[0].node == "n1"
    assert info.nodes[0].ready
    users = (await three.ask(contract.USING_IMAGE, UsingImage(image_ids=[IMAGE_ID]))).users
    assert sorted(user.running for user in users) == [False, False, True]
    assert (await three.ask(contract.USING_IMAGE, UsingImage(image_ids=["sha256:0"]))).users == []


# Forwarding


async def test_logs_and_attach_reach_the_node(world: World) -> None:
    container_id = await world.create("web", tty=True)
    assert (await world.ask(contract.ATTACH, Attach(ref="web", stream=STREAM, stdout=True))).tty
    assert (await world.ask(contract.LOGS, Logs(ref="web", stream=STREAM, stdout=True))).tty
    assert ("attach", container_id) in world.node.calls
    assert ("logs", container_id) in world.node.calls
    assert await world.actions(container_id) == ["create", "attach"]


async def test_a_replay_is_no_attach(world: World) -> None:
    container_id = await world.create("web")
    await world.ask(contract.ATTACH, Attach(ref="web", stream=STREAM, stdout=True, logs=True, stream_output=False))
    assert await world.actions(container_id) == ["create"]


async def test_no_logs_without_a_log(world: World) -> None:
    await world.create("web", host=HostConfig(log_config=LogConfig(type="none")))
    with pytest.raises(InvalidArgument, match="configured logging driver does not support reading"):
        await world.ask(contract.LOGS, Logs(ref="web", stream=STREAM, stdout=True))


async def test_resize_needs_a_process(world: World) -> None:
    container_id = await world.create("web")
    with pytest.raises(Conflict):
        await world.ask(contract.RESIZE, ResizeContainer(ref="web", height=1, width=2))
    await world.start("web")
    await world.ask(contract.RESIZE, ResizeContainer(ref="web", height=1, width=2))
    assert (await world.events(container_id))[-1].attributes["width"] == "2"


# Networks


async def test_connect_and_disconnect_while_it_runs(world: World) -> None:
    container_id = await world.run("web")
    await world.ask(contract.CONNECT, ConnectContainer(ref="web", network="front"))
    assert (await world.inspect("web")).networks["front"].ip_address == "10.0.0.2"
    assert ("attach_network", container_id) in world.node.calls
    with pytest.raises(Forbidden, match="endpoint with name web already exists in network front"):
        await world.ask(contract.CONNECT, ConnectContainer(ref="web", network="front"))
    await world.ask(contract.DISCONNECT, DisconnectContainer(ref="web", network="front"))
    assert "front" not in (await world.inspect("web")).networks
    assert ("detach_network", container_id) in world.node.calls
    with pytest.raises(Forbidden, match="is not connected to network front"):
        await world.ask(contract.DISCONNECT, DisconnectContainer(ref="web", network="front"))


async def test_a_connection_that_the_node_cannot_make_is_undone(world: World) -> None:
    container_id = await world.run("web")
    world.node.fail["attach_network"] = Conflict("no interface left")
    with pytest.raises(Conflict):
        await world.ask(contract.CONNECT, ConnectContainer(ref="web", network="front"))
    assert "front" not in (await world.inspect("web")).networks
    assert container_id in world.services.leaves


async def test_networks_of_a_stopped_container_are_for_its_next_start(world: World) -> None:
    container_id = await world.create("web")
    settings = EndpointSettings(aliases=["db"])
    await world.ask(contract.CONNECT, ConnectContainer(ref="web", network="front", settings=settings))
    await world.ask(contract.DISCONNECT, DisconnectContainer(ref="web", network="bridge"))
    await world.start("web")
    assert world.services.endpoints[container_id] == ["front"]


async def test_networks_that_cannot_be_combined(world: World) -> None:
    for mode, text in (("host", "sharing network namespace"), ("none", "private \\(none\\) mode")):
        container_id = await world.create(host=HostConfig(network_mode=mode))
        with pytest.raises(InvalidArgument, match=text):
            await world.ask(contract.CONNECT, ConnectContainer(ref=container_id, network="front"))


async def test_disconnect_by_force_when_the_container_is_gone(world: World) -> None:
    with pytest.raises(NotFound):
        await world.ask(contract.DISCONNECT, DisconnectContainer(ref="0" * 64, network="front"))
    await world.ask(contract.DISCONNECT, DisconnectContainer(ref="0" * 64, network="front", force=True))
    assert world.services.leaves == ["0" * 64]


# Commit


async def test_commit_makes_an_image_of_configuration_and_changes(world: World) -> None:
    container_id = await world.run("web", cmd=["sleep", "1"], env=["B=own"], labels={"l": "1"}, tty=True)
    request = Commit(ref="web", repo="mine", changes=['CMD ["x"]', "ENV C=3"], config=ContainerConfig(user="app"))
    image = await world.ask(contract.COMMIT, request)
    assert image.id == "sha256:" + "c" * 64
    [layer] = world.services.committed
    assert layer.parent == IMAGE_ID
    assert layer.stream.id == "changes"
    assert layer.config.cmd == ["x"]
    assert layer.config.env == ["C=3", "B=own", "A=image"]
    assert layer.config.user == "app"
    assert (layer.config.hostname, layer.config.tty) == ("", False)
    assert [verb for verb, _ in world.node.calls][1:] == ["pause", "pack", "unpause"]
    *_, pause, unpause, commit = await world.events(container_id)
    assert (pause.action, unpause.action) == ("pause", "unpause")
    assert (commit.action, commit.attributes["imageRef"]) == ("commit", "mine:latest")


async def test_a_failed_commit_lets_the_container_go_on(world: World) -> None:
    await world.run("web")
    world.node.fail["pack"] = Conflict("no")
    with pytest.raises(DavitError):
        await world.ask(contract.COMMIT, Commit(ref="web"))
    assert [verb for verb, _ in world.node.calls][1:] == ["pause", "pack", "unpause"]


async def test_generated_names_are_used_again_only_when_free(world: World) -> None:
    container_id = await world.create()
    name = (await world.inspect(container_id)).name
    assert "_" in name
    await world.ask(contract.REMOVE, RemoveContainer(ref=name))
    assert not await world.exists(name)


async def test_an_image_that_lost_its_name_is_shown_by_its_id(world: World) -> None:
    await world.create("web")

    async def shown() -> str:
        return str((await world.ask(contract.LIST, ListContainers(all=True))).containers[0].image)

    assert await shown() == "busybox"
    world.services.resolvable.discard("busybox")
    assert await shown() == IMAGE_ID
    world.services.fail["named"] = Unavailable("the image service is away")
    assert await shown() == "busybox", "a list is answered without it"
