"""The network service over a real bus and database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from services.network import bootstrap
from services.network.handlers import NetworkHandlers
from services.network.hostnets import HostSubnets
from services.network.ipam import Net
from services.network.joining import EndpointHandlers
from services.network.sql import NetworkStore
from shared.bus.client import Bus, Contract, Empty
from shared.clock import SystemClock
from shared.config import EngineConfig
from shared.contracts import networks as contract
from shared.contracts.docker import EndpointSettings, IpamEndpoint, PortBinding
from shared.contracts.networks import (
    Attachment,
    ConnectNetwork,
    CreateNetwork,
    Ipam,
    IpamPool,
    Joined,
    JoinNetworks,
    LeaveNetworks,
    ListNetworks,
    NetworkRef,
    NodeNetworksRequest,
    PruneNetworks,
    RenameEndpoints,
)
from shared.errors import Conflict, Forbidden, InvalidArgument, NotFound, Unsupported
from shared.events import outbox
from shared.state.database import Database
from shared.state.migrate import default_history

ANY = "0.0.0.0"


class NothingElse(HostSubnets):
    """A machine on which nobody else has networks."""

    def in_use(self) -> list[Net]:
        return []

    def claim(self, subnet: Net) -> bool:
        return True


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await Database.open(database_url, service="network", migrations=default_history("network"))
    yield database
    await database.close()


@pytest.fixture
async def service(bus: Bus, database: Database) -> Bus:
    store = NetworkStore()
    networks = NetworkHandlers(database, bus, SystemClock(), store, bootstrap.defaults(EngineConfig()), NothingElse())
    await networks.ensure_predefined()
    await networks.ensure_predefined()
    await networks.serve()
    await EndpointHandlers(database, bus, store).serve()
    return bus


def container(number: int) -> str:
    return f"{number:064x}"


async def join(bus: Bus, number: int = 1, **fields: object) -> Joined:
    body: dict[str, object] = {
        "container_id": container(number),
        "container_name": f"c{number}",
        "node": "here",
        "networks": {"bridge": {}},
        "primary": "bridge",
    }
    return await bus.request(contract.JOIN, JoinNetworks.model_validate({**body, **fields}))


async def leave(bus: Bus, number: int = 1, network: str | None = None) -> list[Attachment]:
    return (
        await bus.request(contract.LEAVE, LeaveNetworks(container_id=container(number), network=network))
    ).attachments


async def create(bus: Bus, name: str = "net", **fields: object) -> str:
    return (await bus.request(contract.CREATE, CreateNetwork.model_validate({"name": name, **fields}))).id


def bind(container_port: str, host_port: str, host_ip: str = "") -> dict[str, list[PortBinding]]:
    return {container_port: [PortBinding(host_ip=host_ip, host_port=host_port)]}


async def events(database: Database) -> list[tuple[str, dict[str, str]]]:
    import orjson

    async with database.read() as connection:
        rows = await outbox.rows_after(connection, 0, 1000)
    bodies = [orjson.loads(row.payload) for row in rows]
    return [(body["action"], body["attributes"]) for body in bodies]


async def test_predefined_networks(service: Bus) -> None:
    listed = (await service.request(contract.LIST, ListNetworks())).networks
    assert {(one.name, one.driver) for one in listed} == {("bridge", "bridge"), ("host", "host"), ("none", "null")}
    bridge = await service.request(contract.INSPECT, NetworkRef(ref="bridge"))
    assert (bridge.ipam.config[0].subnet, bridge.ipam.config[0].gateway) == ("172.17.0.0/16", "172.17.0.1")
    with pytest.raises(Forbidden, match="bridge is a pre-defined network and cannot be removed"):
        await service.request(contract.REMOVE, NetworkRef(ref="bridge"))


async def test_join_leave_and_join_again(service: Bus, database: Database) -> None:
    first = await join(service, 1)
    (one,) = first.attachments
    assert (one.address, one.mac_address, one.interface) == ("172.17.0.2/16", "02:42:ac:11:00:02", "eth0")
    assert one.default_gateway
    assert one.dns_names == []
    view = first.settings["bridge"]
    assert (view.gateway, view.ip_address, view.ip_prefix_len) == ("172.17.0.1", "172.17.0.2", 16)
    assert (await join(service, 1)) == first
    assert (await join(service, 2)).attachments[0].address == "172.17.0.3/16"
    inspected = await service.request(contract.INSPECT, NetworkRef(ref="bridge"))
    assert {view.ipv4_address for view in inspected.endpoints} == {"172.17.0.2/16", "172.17.0.3/16"}
    assert len(await leave(service, 1)) == 1
    assert await leave(service, 1) == []
    assert (await join(service, 3)).attachments[0].address == "172.17.0.2/16"
    recorded = [action for action, attributes in await events(database) if "container" in attributes]
    assert recorded == ["connect", "connect", "disconnect", "connect"]


async def test_ports_are_allocated_once(service: Bus) -> None:
    ports = {**bind("80/tcp", "8080"), **bind("81/tcp", ""), **bind("82/udp", "9000-9001", "127.0.0.1")}
    joined = await join(service, 1, ports=ports, exposed=["99/tcp"])
    assert [(one.host_ip, one.host_port) for one in joined.ports["80/tcp"]] == [(ANY, "8080"), ("::", "8080")]
    assert joined.ports["81/tcp"][0].host_port == "32768"
    assert [(one.host_ip, one.host_port) for one in joined.ports["82/udp"]] == [("127.0.0.1", "9000")]
    assert joined.ports["99/tcp"] == []
    assert len(joined.attachments[0].ports) == 5
    refused = r"on endpoint c2 \([0-9a-f]{64}\): Bind for 0\.0\.0\.0:8080 failed: port is already allocated"
    with pytest.raises(Conflict, match=refused):
        await join(service, 2, ports=bind("80/tcp", "8080"))
    with pytest.raises(Conflict, match=r"Bind for 127\.0\.0\.1:8080 failed"):
        await join(service, 2, ports=bind("80/tcp", "8080", "127.0.0.1"))
    again = await join(service, 2, ports={**bind("81/tcp", ""), **bind("82/udp", "9000-9001", "127.0.0.1")})
    assert again.ports["81/tcp"][0].host_port == "32769"
    assert again.ports["82/udp"][0].host_port == "9001"
    await leave(service, 1)
    await join(service, 3, ports=bind("80/tcp", "8080"), publish_all=True, exposed=["80/tcp", "443/tcp"])


async def test_user_network_names_addresses_and_errors(service: Bus) -> None:
    pool = IpamPool(subnet="10.77.0.0/24", ip_range="10.77.0.128/25", aux={"router": "10.77.0.129"})
    await create(service, ipam=Ipam(config=[pool]))
    joined = await join(service, 1, networks={"net": EndpointSettings(aliases=["db"])}, primary="net", hostname="host1")
    (one,) = joined.attachments
    assert one.address == "10.77.0.130/24"
    assert one.dns_names == ["c1", "db", container(1)[:12], "host1"]
    assert one.network.dns
    assert one.network.bridge.startswith("dv-")

    def fixed(address: str) -> dict[str, EndpointSettings]:
        return {"net": EndpointSettings(ipam_config=IpamEndpoint(ipv4_address=address))}

    assert (await join(service, 2, networks=fixed("10.77.0.5"))).attachments[0].address == "10.77.0.5/24"
    with pytest.raises(Forbidden, match=r"^Address already in use$"):
        await join(service, 3, networks=fixed("10.77.0.5"))
    with pytest.raises(InvalidArgument, match="It does not belong to any of this network's subnets"):
        await join(service, 3, networks=fixed("10.99.0.5"))
    with pytest.raises(InvalidArgument, match="supported on user defined networks only"):
        await join(service, 3, networks={"bridge": fixed("172.17.0.9")["net"]})
    with pytest.raises(NotFound, match=r"^network nope not found$"):
        await join(service, 3, networks={"nope": EndpointSettings()})
    with pytest.raises(Forbidden, match=r"network net id [0-9a-f]{64} has active endpoints"):
        await service.request(contract.REMOVE, NetworkRef(ref="net"))
    await service.request(contract.RENAME, RenameEndpoints(container_id=container(1), container_name="new"))
    wanted = await service.request(contract.NODE_WANTED, NodeNetworksRequest(node="here"), node="here")
    assert {"new", "db"} <= set(next(one for one in wanted.attachments if one.container_id == container(1)).dns_names)
    assert {one.name for one in wanted.networks} == {"bridge", "net"}


async def test_connect_and_disconnect(service: Bus) -> None:
    await create(service, "front")
    await create(service, "back", internal=True)
    await join(service, 1, networks={"front": EndpointSettings()}, primary="front")
    request = ConnectNetwork(container_id=container(1), container_name="c1", node="here", network="back")
    extra = (await service.request(contract.CONNECT, request)).attachments[0]
    assert (extra.interface, extra.default_gateway) == ("eth1", False)
    assert (await service.request(contract.CONNECT, request)).attachments == [extra]
    other = request.model_copy(update={"settings": EndpointSettings(aliases=["x"])})
    with pytest.raises(Forbidden, match="endpoint with name c1 already exists in network back"):
        await service.request(contract.CONNECT, other)
    assert [one.network.name for one in await leave(service, 1, "front")] == ["front"]
    assert [one.network.name for one in await leave(service, 1)] == ["back"]


async def test_several_networks_at_once_and_their_gateway(service: Bus) -> None:
    for name in ("b", "a"):
        await create(service, name)
    joined = await join(service, 1, networks={"b": EndpointSettings(), "a": EndpointSettings()}, primary="b")
    assert [(one.network.name, one.interface, one.default_gateway) for one in joined.attachments] == [
        ("b", "eth0", False),
        ("a", "eth1", True),
    ]
    chosen = {"b": EndpointSettings(gw_priority=1), "a": EndpointSettings()}
    joined = await join(service, 2, networks=chosen, primary="b", ports=bind("80/tcp", "80"))
    assert [bool(one.ports) for one in joined.attachments] == [True, False]


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"name": "bridge"}, Forbidden, "operation is not permitted on predefined bridge network"),
        ({"driver": "nosuch"}, NotFound, 'plugin "nosuch" not found'),
        ({"driver": "host"}, Forbidden, 'only one instance of "host" network is allowed'),
        ({"driver": "macvlan"}, Unsupported, "parent"),
        ({"ipam": Ipam(config=[IpamPool(subnet="172.17.0.0/24")])}, Forbidden, "Pool overlaps with other one"),
        ({"ipam": Ipam(config=[IpamPool(subnet="bad")])}, InvalidArgument, "invalid CIDR address: bad"),
        ({"ipam": Ipam(driver="xx")}, NotFound, 'plugin "xx" not found'),
        (
            {"ipam": Ipam(config=[IpamPool(subnet="10.1.0.0/24", gateway="10.2.0.1")])},
            InvalidArgument,
            "Requested address is out of range",
        ),
        (
            {"ipam": Ipam(config=[IpamPool(subnet="10.1.0.0/24"), IpamPool(subnet="10.2.0.0/24")])},
            Forbidden,
            "multiple subnets",
        ),
        ({"options": {"com.docker.network.driver.mtu": "abc"}}, InvalidArgument, "failed to parse"),
        ({"scope": "swarm"}, Forbidden, "swarm is not active"),
        ({"config_from": "nope"}, NotFound, 'configuration network "nope" does not exist'),
    ],
)
async def test_refused_networks(service: Bus, fields: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        await create(service, **{"name": "x", **fields})  # type: ignore[arg-type]  # a table of cases


async def test_pools_filters_prune(service: Bus) -> None:
    first = await create(service, "one", labels={"a": "b"})
    with pytest.raises(Conflict, match=r"^network with name one already exists$"):
        await create(service, "one")
    await create(service, "two", enable_ipv6=True)
    await create(service, "used")
    await join(service, 1, networks={"used": EndpointSettings()})
    one = await service.request(contract.INSPECT, NetworkRef(ref=first[:10]))
    assert one.ipam.config[0].subnet == "172.18.0.0/16"
    two = await service.request(contract.INSPECT, NetworkRef(ref="two"))
    assert two.ipam.config[1].subnet.startswith("fd")

    async def listed(**filters: list[str]) -> set[str]:
        answer = await service.request(contract.LIST, ListNetworks(filters=filters))
        return {network.name for network in answer.networks}

    assert await listed(type=["custom"]) == {"one", "two", "used"}
    assert await listed(label=["a=b"]) == {"one"}
    assert await listed(dangling=["true"]) == {"one", "two"}
    assert await listed(driver=["null"]) == {"none"}
    with pytest.raises(InvalidArgument, match="invalid filter 'bogus'"):
        await listed(bogus=["x"])
    removed: asyncio.Queue[str] = asyncio.Queue()

    async def heard(request: contract.ApplyNetwork) -> Empty:
        removed.put_nowait(request.network.name)
        return Empty()

    await service.serve(Contract(contract.NETWORK_REMOVED, contract.ApplyNetwork, Empty), heard, queue="t")
    pruned = await service.request(contract.PRUNE, PruneNetworks())
    assert sorted(pruned.names) == ["one", "two"]
    async with asyncio.timeout(5):
        assert {await removed.get(), await removed.get()} == {"one", "two"}


async def test_many_joins_at_once_get_different_addresses(service: Bus) -> None:
    begin = time.perf_counter()
    joined = await asyncio.gather(*(join(service, number, ports=bind("80/tcp", "")) for number in range(1, 61)))
    spent_ms = (time.perf_counter() - begin) * 1e3 / 60
    assert len({one.attachments[0].address for one in joined}) == 60
    assert len({one.ports["80/tcp"][0].host_port for one in joined}) == 60
    assert spent_ms < 1000


# Starts and releases that overtake each other; ports that others have


async def taken(database: Database, number: int = 1) -> set[int]:
    async with database.read() as reader:
        present = await NetworkStore().of_container(reader, container(number))
    return {port.host_port for network, one in present for port in one.on(network).ports}


async def test_a_release_for_an_earlier_start_leaves_a_later_one_alone(service: Bus, database: Database) -> None:
    first = await join(service, generation=1, ports={"80/tcp": [{"HostPort": "8080"}]})
    again = await join(service, generation=2, ports={"80/tcp": [{"HostPort": "8080"}]})
    assert again.attachments == first.attachments
    late = await service.request(contract.LEAVE, LeaveNetworks(container_id=container(1), generation=1))
    assert (late.attachments, late.kept) == ([], True)
    assert await taken(database) == {8080}
    done = await service.request(contract.LEAVE, LeaveNetworks(container_id=container(1), generation=2))
    assert (len(done.attachments), done.kept) == (1, False)
    assert await taken(database) == set()


async def test_a_network_connected_later_belongs_to_the_same_start(service: Bus) -> None:
    await service.request(contract.CREATE, CreateNetwork(name="back"))
    await join(service, generation=3)
    await service.request(
        contract.CONNECT,
        ConnectNetwork(container_id=container(1), container_name="c1", node="here", network="back", generation=3),
    )
    await service.request(contract.RENAME, RenameEndpoints(container_id=container(1), container_name="c2"))
    late = await service.request(contract.LEAVE, LeaveNetworks(container_id=container(1), generation=2))
    assert (late.attachments, late.kept) == ([], True)


async def test_a_port_that_somebody_else_has_is_avoided(service: Bus, database: Database) -> None:
    wish = {"80/tcp": [{"HostPort": ""}]}
    first = await join(service, ports=wish)
    port = int(first.ports["80/tcp"][0].host_port)
    second = await join(service, ports=wish, avoid=[{"protocol": "tcp", "port": port}])
    other = int(second.ports["80/tcp"][0].host_port)
    assert other != port
    assert await taken(database) == {other}
    avoid = [{"protocol": "tcp", "port": one} for one in (port, other)]
    third = await join(service, ports={"80/tcp": [{"HostPort": f"{port}-{other + 1}"}]}, avoid=avoid)
    assert third.ports["80/tcp"][0].host_port == str(other + 1)


async def test_a_port_that_was_asked_for_cannot_be_avoided(service: Bus, database: Database) -> None:
    wish = {"80/tcp": [{"HostPort": "8080"}]}
    await join(service, ports=wish)
    with pytest.raises(Conflict, match="port is already allocated"):
        await join(service, ports=wish, avoid=[{"protocol": "tcp", "port": 8080}])
    assert await taken(database) == {8080}
