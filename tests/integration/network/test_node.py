"""The node's network against the real kernel."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

from services.executor.agent.network import NodeNetwork, links, namespace
from services.executor.agent.network.netlink import Netlink
from shared.config import EngineConfig
from shared.errors import Conflict
from tests.integration.network.lab import Lab, attachment, fetch, inside, network, port, reachable

P = ParamSpec("P")
R = TypeVar("R")

pytestmark = pytest.mark.root


async def _blocking(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    return await asyncio.to_thread(function, *args, **kwargs)


async def eventually(check: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < deadline, "condition not met in time"
        await asyncio.sleep(0.05)


def shell(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def background(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(words)


def nft(*words: str) -> str:
    return shell("nft", *words)


async def test_containers_reach_each_other_and_their_gateway(lab: Lab) -> None:
    net = network()
    one, two = await lab.container(attachment(net, 2)), await lab.container(attachment(net, 3))
    lab.serve(two, 80)
    assert await _blocking(fetch, one, "172.17.0.3", 80) == b"hello 172.17.0.2"
    lab.serve(None, 81)
    assert await _blocking(fetch, one, "172.17.0.1", 81) == b"hello 172.17.0.2"
    assert await _blocking(fetch, None, "172.17.0.3", 80) == b"hello 172.17.0.1"


async def test_published_port_from_loopback_container_and_itself(lab: Lab) -> None:
    net = network()
    server = await lab.container(attachment(net, 2, ports=[port(8080, 80), port(8081, 80, "127.0.0.1")]))
    client = await lab.container(attachment(net, 3))
    other = await lab.container(attachment(network(18), 2))
    lab.serve(server, 80)
    assert (await _blocking(fetch, None, "127.0.0.1", 8080)).startswith(b"hello")
    assert (await _blocking(fetch, None, "127.0.0.1", 8081)).startswith(b"hello")
    assert (await _blocking(fetch, None, "172.17.0.1", 8080)).startswith(b"hello")
    assert (await _blocking(fetch, client, "172.17.0.1", 8080)).startswith(b"hello")
    assert (await _blocking(fetch, server, "172.17.0.1", 8080)).startswith(b"hello")
    assert (await _blocking(fetch, other, "172.18.0.1", 8080)).startswith(b"hello")
    assert not await _blocking(reachable, client, "172.17.0.1", 8081)


async def test_networks_are_isolated_from_each_other(lab: Lab) -> None:
    one = await lab.container(attachment(network(18), 2))
    two = await lab.container(attachment(network(19), 2))
    lab.serve(two, 80)
    assert not await _blocking(reachable, one, "172.19.0.2", 80)
    assert await _blocking(reachable, None, "172.19.0.2", 80)


async def test_icc_off_keeps_containers_apart(lab: Lab) -> None:
    net = network(20, icc=False)
    one, two = await lab.container(attachment(net, 2)), await lab.container(attachment(net, 3))
    lab.serve(two, 80)
    assert not await _blocking(reachable, one, "172.20.0.3", 80)
    assert await _blocking(reachable, None, "172.20.0.3", 80)


async def test_a_neighbour_reaches_only_published_ports_and_sees_no_inside_address(lab: Lab) -> None:
    """A second machine, made of a namespace and a veth pair, that routes the container's subnet here."""
    net, inner = network(), network(21, internal=True)
    server = await lab.container(attachment(net, 2, ports=[port(8080, 80)]))
    hidden = await lab.container(attachment(inner, 2))
    lab.serve(server, 80)
    lab.serve(server, 443)
    host = Netlink()
    neighbour = await lab.node.empty("neighbour")
    host.run([links.new_veth("lan0", "lan1", neighbour.netns_fd)])
    here = links.get_link(host, "lan0")
    assert here is not None
    host.run([links.add_address(here.index, "10.9.0.1/24"), links.set_link(here.index, up=True)])
    there = links.get_link(neighbour.socket(), "lan1")
    assert there is not None
    neighbour.socket().run([links.add_address(there.index, "10.9.0.2/24"), links.set_link(there.index, up=True)])
    neighbour.socket().run([links.default_route(there.index, "10.9.0.1")])
    lab.serve(neighbour, 90)

    assert await _blocking(fetch, neighbour, "10.9.0.1", 8080) == b"hello 10.9.0.2"
    assert not await _blocking(reachable, neighbour, "172.17.0.2", 443)
    assert await _blocking(fetch, server, "10.9.0.2", 90) == b"hello 10.9.0.1"
    assert not await _blocking(reachable, hidden, "10.9.0.2", 90)
    host.close()


async def test_a_foreign_listener_is_an_error_in_dockers_words_and_leaves_nothing(lab: Lab) -> None:
    with socket.create_server(("0.0.0.0", 8080)):
        wanted = attachment(network(), 2, ports=[port(8079, 80), port(8080, 80)])
        with pytest.raises(Conflict, match=r"listen tcp4 0\.0\.0\.0:8080: bind: address already in use"):
            await lab.container(wanted)
        assert lab.node.kernel.sandbox(wanted.container_id) is None
        socket.create_server(("0.0.0.0", 8079)).close()
    await lab.container(wanted)
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("0.0.0.0", 8080))


async def test_release_leaves_nothing(lab: Lab) -> None:
    host = Netlink()
    names = {link.name for link in links.list_links(host)}
    wanted = attachment(network(), 2, ports=[port(8080, 80), port(8080, 80, protocol="udp")])
    await lab.container(wanted)
    assert "172.17.0.2" in nft("list", "map", "inet", "davit", "publish4_any")
    await lab.node.release(wanted.container_id)
    await lab.node.release(wanted.container_id)
    assert "172.17.0.2" not in nft("list", "map", "inet", "davit", "publish4_any")
    socket.create_server(("0.0.0.0", 8080)).close()
    pool = {"davit0"} | names
    await eventually(lambda: not [x for x in links.list_links(host) if x.master and x.name not in pool])
    host.close()


async def test_an_address_can_be_used_again_at_once(lab: Lab) -> None:
    """The namespace of the container before lives on in the kernel for a while, and must not answer."""
    net = network()
    first = attachment(net, 2, container="first")
    box = await lab.container(first)
    with inside(box):
        straggler = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)  # keeps the namespace alive
    with straggler:
        lab.serve(box, 80, b"old")
        assert (await _blocking(fetch, None, "172.17.0.2", 80)).startswith(b"old")
        await lab.node.release("first")
        fresh = await lab.container(attachment(net, 2, container="second"))
        lab.serve(fresh, 80, b"new")
        assert (await _blocking(fetch, None, "172.17.0.2", 80)).startswith(b"new")


async def test_flushed_rules_and_a_deleted_bridge_come_back(lab: Lab) -> None:
    server = await lab.container(attachment(network(), 2, ports=[port(8080, 80)]))
    lab.serve(server, 80)
    assert await _blocking(reachable, None, "127.0.0.1", 8080)
    nft("flush", "ruleset")
    await eventually(lambda: reachable(None, "127.0.0.1", 8080))
    host = Netlink()
    bridge = links.get_link(host, "davit0")
    assert bridge is not None
    host.run([links.delete_link(bridge.index)])
    assert not await _blocking(reachable, None, "127.0.0.1", 8080)
    await eventually(lambda: reachable(None, "127.0.0.1", 8080))
    ends = [link for link in links.list_links(host) if link.master]
    host.run([links.delete_link(link.index) for link in ends])
    await eventually(lambda: reachable(None, "127.0.0.1", 8080))
    host.close()


async def test_connect_and_disconnect_while_running(lab: Lab) -> None:
    first, second = network(18), network(19)
    box = await lab.container(attachment(first, 2, container="web"))
    peer = await lab.container(attachment(second, 3))
    lab.serve(peer, 80)
    extra = attachment(second, 2, container="web", interface="eth1", default_gateway=False)
    await lab.node.attach("web", 0, extra)
    await lab.node.attach("web", 0, extra)
    assert await _blocking(fetch, box, "172.19.0.3", 80) == b"hello 172.19.0.2"
    await lab.node.detach("web", 0, attachment(first, 2, container="web"))
    with inside(box):
        assert "default via 172.19.0.1 dev eth1" in shell("ip", "route")
    await lab.node.detach("web", 0, extra)
    assert not await _blocking(reachable, box, "172.19.0.3", 80)


async def test_ipv6_container_and_ipv6_port_of_an_ipv4_container(lab: Lab) -> None:
    net = network(22, subnet6="fd00:22::/64", gateway6="fd00:22::1/64")
    six = await lab.container(
        attachment(net, 2, address6="fd00:22::2/64", ports=[port(8080, 80, "::")], container="six")
    )
    lab.serve(six, 80)
    assert await _blocking(fetch, None, "fd00:22::2", 80) == b"hello fd00:22::1"
    assert (await _blocking(fetch, None, "fd00:22::1", 8080)).startswith(b"hello")
    assert (await _blocking(fetch, None, "::1", 8080)).startswith(b"hello")
    four = await lab.container(attachment(network(), 2, ports=[port(8081, 80, "::")], container="four"))
    lab.serve(four, 80)
    assert (await _blocking(fetch, None, "::1", 8081)).startswith(b"hello")
    await lab.node.release("four")
    assert not await _blocking(reachable, None, "::1", 8081)


async def test_a_new_agent_adopts_running_containers(lab: Lab, tmp_path: Path, netns: int) -> None:
    wanted = attachment(network(18), 2, ports=[port(8080, 80)], container="web")
    stale = attachment(network(18), 3, ports=[port(8081, 80)], container="gone")
    box, _ = await lab.container(wanted), await lab.container(stale)
    lab.serve(box, 80)
    with inside(box):
        holder = background("sleep", "60")
    try:
        await lab.node.close()
        assert await _blocking(reachable, None, "127.0.0.1", 8080)
        fresh = NodeNetwork(None, EngineConfig(), "here", tmp_path / "network")
        await fresh.start()
        assert await _blocking(reachable, None, "127.0.0.1", 8080)
        await fresh.adopt("web", holder.pid, [wanted])
        assert "172.18.0.3" in nft("list", "map", "inet", "davit", "publish4_any")
        await fresh.settle()
        assert "172.18.0.3" not in nft("list", "map", "inet", "davit", "publish4_any")
        assert await _blocking(reachable, None, "127.0.0.1", 8080)
        with pytest.raises(OSError, match="in use"):
            socket.create_server(("0.0.0.0", 8080))
        await fresh.release("web")
        assert not await _blocking(reachable, None, "127.0.0.1", 8080)
    finally:
        holder.kill()
        holder.wait()
        await fresh.close()


async def test_network_none_has_loopback_only(lab: Lab) -> None:
    box = await lab.node.empty("alone")
    with inside(box):
        kernel = Netlink()
        assert [(link.name, link.up) for link in links.list_links(kernel)] == [("lo", True)]
        kernel.close()
        assert namespace.get_sysctl("net/ipv4/ip_unprivileged_port_start") == "0"


async def test_a_hundred_endpoints_cost_what_one_costs(lab: Lab) -> None:
    net = network()
    spent: list[float] = []
    for number in range(100):
        begin = time.perf_counter()
        await lab.container(attachment(net, number + 2, ports=[port(10000 + number, 80)]))
        spent.append(time.perf_counter() - begin)
    assert sorted(spent[-20:])[10] < 5 * sorted(spent[:20])[10]
    for number in range(100):
        await lab.node.release(f"cbridge{number + 2}")
    assert "elements" not in nft("list", "map", "inet", "davit", "publish4_any")


async def test_macvlan_puts_a_container_on_the_hosts_network(lab: Lab) -> None:
    host = Netlink()
    neighbour = await lab.node.empty("neighbour")
    host.run([links.new_veth("lan0", "lan1", neighbour.netns_fd)])
    here, there = links.get_link(host, "lan0"), links.get_link(neighbour.socket(), "lan1")
    assert here is not None
    assert there is not None
    host.run([links.set_link(here.index, up=True)])
    neighbour.socket().run([links.add_address(there.index, "172.30.0.9/16"), links.set_link(there.index, up=True)])
    net = network(30, driver="macvlan", bridge="", options={"parent": "lan0"})
    box = await lab.container(attachment(net, 2))
    lab.serve(box, 80)
    assert await _blocking(fetch, neighbour, "172.30.0.2", 80) == b"hello 172.30.0.9"
    await lab.node.release("cnet302")
    host.close()
