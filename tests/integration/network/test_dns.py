"""127.0.0.11, asked from inside containers' namespaces."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from services.executor.agent.network import NodeNetwork, Sandbox, dnswire
from shared.config import EngineConfig
from tests.integration.network.lab import Lab, attachment, inside, network

pytestmark = pytest.mark.root

OUTSIDE = "203.0.113.9"
MX, TXT, HTTPS = 15, 16, 65


def question(name: str, kind: int) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    return struct.pack(">HHHHHH", 0x1234, dnswire.RD, 1, 0, 0, 0) + labels + struct.pack(">HH", kind, 1)


def ask(box: Sandbox, name: str, kind: int = dnswire.A, *, stream: bool = False) -> tuple[int, list[str]]:
    """(response code, addresses or names)."""
    query = question(name, kind)
    with inside(box):
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
    with client:
        client.settimeout(10)
        client.connect(("127.0.0.11", 53))
        if stream:
            client.sendall(struct.pack(">H", len(query)) + query)
            file = client.makefile("rb")
            (length,) = struct.unpack(">H", file.read(2))
            reply = file.read(length)
            file.close()
        else:
            client.send(query)
            reply = client.recv(4096)
    assert reply[:2] == query[:2]
    _, flags, _, count, _, _ = struct.unpack_from(">HHHHHH", reply)
    found, offset = [], len(query)
    for _ in range(count):
        (kind_of, _, _, length) = struct.unpack_from(">HHIH", reply, offset + 2)
        data = reply[offset + 12 : offset + 12 + length]
        found.append(_name(data) if kind_of == dnswire.PTR else str(ipaddress.ip_address(data)))
        offset += 12 + length
    return flags & 0xF, found


def _name(data: bytes) -> str:
    labels, offset = [], 0
    while data[offset]:
        labels.append(data[offset + 1 : offset + 1 + data[offset]].decode())
        offset += 1 + data[offset]
    return ".".join(labels)


@pytest.fixture
def outside(netns: int) -> Iterator[list[str]]:
    """The rest of the world: a server with one answer to everything. Yields the names it was asked."""
    asked: list[str] = []
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 53))
    tcp = socket.create_server(("127.0.0.1", 53))

    def answer(data: bytes) -> bytes:
        query = dnswire.parse_query(data)
        asked.append(query.name)
        return dnswire.answer_addresses(query, [OUTSIDE] if query.kind == dnswire.A else [], 60)

    def serve_udp() -> None:
        while True:
            data, client = udp.recvfrom(4096)
            if not data:
                return
            udp.sendto(answer(data), client)

    def serve_tcp() -> None:
        while True:
            try:
                client, _ = tcp.accept()
            except OSError:
                return
            with client:
                data = client.recv(4096)[2:]
                reply = answer(data)
                client.sendall(struct.pack(">H", len(reply)) + reply)

    threads = [threading.Thread(target=work, daemon=True) for work in (serve_udp, serve_tcp)]
    for thread in threads:
        thread.start()
    yield asked
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.sendto(b"", ("127.0.0.1", 53))
    tcp.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join()
    udp.close()
    tcp.close()


@pytest.fixture
async def node(netns: int, outside: list[str], tmp_path: Path) -> AsyncIterator[NodeNetwork]:
    config = EngineConfig.checked({"dns": ["127.0.0.1"]})
    network = NodeNetwork(None, config, "here", tmp_path / "network")
    await network.start()
    yield network
    await network.close()


async def test_names_of_the_network_and_the_world(lab: Lab, outside: list[str]) -> None:
    net = network(18, subnet6="fd00:18::/64", gateway6="fd00:18::1/64")
    client = await lab.container(attachment(net, 2, dns_names=["web", "front"]))
    await lab.container(attachment(net, 3, address6="fd00:18::3/64", dns_names=["db", "store"], container="c3"))
    await lab.container(attachment(net, 4, dns_names=["db2", "store"], container="c4"))
    await lab.container(attachment(network(19), 2, dns_names=["elsewhere"]))

    assert await asyncio.to_thread(ask, client, "db") == (0, ["172.18.0.3"])
    assert await asyncio.to_thread(ask, client, "DB") == (0, ["172.18.0.3"])
    assert await asyncio.to_thread(ask, client, "db.net18") == (0, ["172.18.0.3"])
    assert await asyncio.to_thread(ask, client, "db", dnswire.AAAA) == (0, ["fd00:18::3"])
    assert await asyncio.to_thread(ask, client, "web", dnswire.AAAA) == (0, [])
    assert await asyncio.to_thread(ask, client, "db", stream=True) == (0, ["172.18.0.3"])
    for kind in (MX, TXT, HTTPS):  # a name of ours has what we know of it, and nothing outside
        assert await asyncio.to_thread(ask, client, "db", kind) == (0, [])
        assert await asyncio.to_thread(ask, client, "db", kind, stream=True) == (0, [])
    code, every = await asyncio.to_thread(ask, client, "db", dnswire.ANY)
    assert (code, sorted(every)) == (0, ["172.18.0.3", "fd00:18::3"])
    code, both = await asyncio.to_thread(ask, client, "store")
    assert (code, sorted(both)) == (0, ["172.18.0.3", "172.18.0.4"])
    assert await asyncio.to_thread(ask, client, "3.0.18.172.in-addr.arpa", dnswire.PTR) == (0, ["db.net18"])
    assert outside == []
    assert await asyncio.to_thread(ask, client, "example.org") == (0, [OUTSIDE])
    assert await asyncio.to_thread(ask, client, "example.net", stream=True) == (0, [OUTSIDE])
    assert await asyncio.to_thread(ask, client, "elsewhere") == (0, [OUTSIDE])
    await lab.node.release("c3")
    assert await asyncio.to_thread(ask, client, "store") == (0, ["172.18.0.4"])


async def test_internal_networks_ask_nobody_and_links_are_private(lab: Lab, outside: list[str]) -> None:
    net = network(20, internal=True)
    await lab.container(attachment(net, 3, dns_names=["db"], container="c3"))
    linked = await lab.container(attachment(net, 2, links={"database": "db"}))
    other = await lab.container(attachment(net, 4, container="c4"))
    assert await asyncio.to_thread(ask, linked, "database") == (0, ["172.20.0.3"])
    assert await asyncio.to_thread(ask, other, "database") == (dnswire.SERVER_FAILURE, [])
    assert await asyncio.to_thread(ask, other, "example.org") == (dnswire.SERVER_FAILURE, [])
    assert outside == []


async def test_a_container_may_serve_port_53_itself(lab: Lab) -> None:
    box = await lab.container(attachment(network(18), 2, dns_names=["web"]))
    with inside(box):
        own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with own:
        own.bind(("0.0.0.0", 53))
        assert await asyncio.to_thread(ask, box, "web") == (0, ["172.18.0.2"])


async def test_the_default_bridge_has_no_names(lab: Lab) -> None:
    box = await lab.container(attachment(network(), 2))
    with pytest.raises(OSError, match="refused"):
        await asyncio.to_thread(ask, box, "web")
    extra = attachment(network(18), 2, container="cbridge2", interface="eth1", dns_names=["web"])
    await lab.node.attach("cbridge2", 0, extra)
    assert await asyncio.to_thread(ask, box, "web") == (0, ["172.18.0.2"])
