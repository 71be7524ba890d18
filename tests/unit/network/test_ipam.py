"""Which subnet a network gets, and which address an endpoint."""

from __future__ import annotations

import ipaddress

import pytest

from services.network import ipam
from shared.contracts.networks import IpamPool
from shared.errors import Forbidden, InvalidArgument, NotFound


def test_default_pools_in_order_without_overlap() -> None:
    taken: list[ipam.Net] = []
    for _ in range(31):
        taken.append(ipam.choose_subnet(ipam.DEFAULT_POOLS, taken))
    assert str(taken[0]) == "172.17.0.0/16"
    assert str(taken[14]) == "172.31.0.0/16"
    assert str(taken[15]) == "192.168.0.0/20"
    with pytest.raises(NotFound, match="could not find an available, non-overlapping IPv4 address pool"):
        ipam.choose_subnet(ipam.DEFAULT_POOLS, taken)


def test_addresses_skip_gateway_reserved_network_and_broadcast() -> None:
    pool = ipam.parse_pool(IpamPool(subnet="10.0.0.0/29", aux={"router": "10.0.0.3"}))
    used: set[str] = set()
    for _ in range(4):
        used.add(str(ipam.allocate(pool, used, "net")))
    assert used == {"10.0.0.2", "10.0.0.4", "10.0.0.5", "10.0.0.6"}
    with pytest.raises(Forbidden, match="no available IPv4 addresses on this network's address pools: net"):
        ipam.allocate(pool, used, "net")


def test_range_and_named_gateway() -> None:
    pool = ipam.parse_pool(IpamPool(subnet="10.0.0.0/24", ip_range="10.0.0.128/25", gateway="10.0.0.254"))
    assert str(ipam.allocate(pool, set(), "net")) == "10.0.0.128"
    assert pool.view() == IpamPool(subnet="10.0.0.0/24", ip_range="10.0.0.128/25", gateway="10.0.0.254")


def test_ipv6() -> None:
    pool = ipam.parse_pool(IpamPool(subnet="fd00::/64"))
    assert str(pool.gateway) == "fd00::1"
    assert str(ipam.allocate(pool, {"fd00::2"}, "net")) == "fd00::3"
    assert ipam.unique_local_subnet("a").prefixlen == 64
    assert ipam.unique_local_subnet("a") != ipam.unique_local_subnet("b")
    assert ipam.unique_local_subnet("a").subnet_of(ipaddress.IPv6Network("fd00::/8"))


@pytest.mark.parametrize(
    ("wish", "text"),
    [
        ("10.9.0.1", "It does not belong to any of this network's subnets"),
        ("fd00::1", "It does not belong to any of this network's subnets"),
        ("x", "invalid IP address: x"),
    ],
)
def test_impossible_wishes(wish: str, text: str) -> None:
    pool = ipam.parse_pool(IpamPool(subnet="10.0.0.0/24"))
    with pytest.raises(InvalidArgument, match=text):
        ipam.check_wish(pool, wish, set(), configured=True)


def test_wishes_that_are_taken_or_need_a_configured_subnet() -> None:
    pool = ipam.parse_pool(IpamPool(subnet="10.0.0.0/24"))
    for wish in ("10.0.0.1", "10.0.0.7"):
        with pytest.raises(Forbidden, match="Address already in use"):
            ipam.check_wish(pool, wish, {"10.0.0.7"}, configured=True)
    with pytest.raises(InvalidArgument, match="only when connecting to networks with user configured subnets"):
        ipam.check_wish(pool, "10.0.0.8", set(), configured=False)
    assert str(ipam.check_wish(pool, "10.0.0.8", set(), configured=True)) == "10.0.0.8"


def test_mac_follows_the_address() -> None:
    assert ipam.mac_address("172.17.0.2", "ff" * 32) == "02:42:ac:11:00:02"
    assert ipam.mac_address("", "0a0b0c0d" + "f" * 56) == "02:42:0a:0b:0c:0d"
