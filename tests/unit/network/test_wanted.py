"""From records to kernel state."""

from __future__ import annotations

from services.executor.agent.network import nft, wanted
from shared.contracts.networks import Attachment, NodeNetwork, PublishedPort

NET = NodeNetwork(
    id="ab" * 32, name="n", bridge="dv-1", subnet="10.0.0.0/24", gateway="10.0.0.1/24", subnet6="fd00::/64"
)


def attachment(*ports: tuple[str, str, int]) -> Attachment:
    return Attachment(
        endpoint_id="e",
        container_id="c",
        network=NET,
        address="10.0.0.2/24",
        ports=[
            PublishedPort(protocol=protocol, host_ip=host_ip, host_port=port, container_port=80)
            for protocol, host_ip, port in ports
        ],
    )


def test_network_elements() -> None:
    assert wanted.network_elements([NET]) == {
        "bridges": {'"dv-1"'},
        "within": {'"dv-1" . "dv-1"'},
        "own4": {'"dv-1" . 10.0.0.0/24'},
        "own6": {'"dv-1" . fd00::/64'},
        "masquerade4": {"10.0.0.0/24"},
        "masquerade6": {"fd00::/64"},
    }
    inside = wanted.network_elements([NET.model_copy(update={"internal": True})])
    assert inside["internal"] == {'"dv-1"'}
    assert "masquerade4" not in inside


def test_port_elements() -> None:
    ports = attachment(("tcp", "0.0.0.0", 8080), ("udp", "127.0.0.1", 53), ("tcp", "::", 8080))
    assert wanted.port_elements(ports) == {
        "publish4_any": {"6 . 8080 : 10.0.0.2 . 80"},
        "publish4": {"127.0.0.1 . 17 . 53 : 10.0.0.2 . 80"},
    }
    assert [wanted.needs_proxy(ports, port) for port in ports.ports] == [False, False, True]


def test_bridge() -> None:
    bridge = wanted.wanted_bridge(NET)
    assert bridge == wanted.Bridge("dv-1", "02:42:ab:ab:ab:ab", ("10.0.0.1/24",), 1500, True)
    assert wanted.wanted_bridge(NET.model_copy(update={"driver": "macvlan"})) is None


def test_ruleset_names_every_set_that_chains_use() -> None:
    text = nft.ruleset({"bridges": {'"b"', '"a"'}})
    assert 'set bridges { type ifname; elements = { "a", "b" }; }' in text
    used = {word.strip("@") for word in nft.CHAINS.split() if word.startswith("@")}
    assert used == set(nft.SETS)


def test_listing() -> None:
    listing = b"""{"nftables": [{"table": {"name": "davit"}}, {"chain": {"name": "forward", "handle": 3}},
      {"map": {"name": "publish4_any", "elem": [[{"concat": [6, 80]}, {"concat": ["10.0.0.2", 80]}]]}},
      {"set": {"name": "own4", "elem": [{"concat": ["dv-1", {"prefix": {"addr": "10.0.0.0", "len": 24}}]}]}},
      {"set": {"name": "foreign", "elem": ["x"]}}]}"""
    assert nft.parse_listing(listing) == (
        [{"name": "forward"}],
        {"publish4_any": {"6 . 80 : 10.0.0.2 . 80"}, "own4": {'"dv-1" . 10.0.0.0/24'}},
    )
