"""Subnets that others on the machine use."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from services.network import hostnets
from services.network.hostnets import HostSubnets
from shared.errors import InvalidArgument

TABLE = (
    "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
    "eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
    "davit0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
    "tun0\t0000A8C0\t0100000A\t0003\t0\t0\t0\t00F0FFFF\t0\t0\t0\n"
)


def test_a_subnet_is_used_when_a_route_leads_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "route").write_text(TABLE)
    monkeypatch.setattr(hostnets, "ROUTES", tmp_path / "route")
    assert [str(net) for net in HostSubnets().in_use()] == ["172.17.0.0/16", "192.168.0.0/20"]


def test_a_claim_is_one_process_s(tmp_path: Path) -> None:
    net = ipaddress.ip_network("198.51.100.0/29")
    one, other = HostSubnets(), HostSubnets()
    assert one.claim(net)
    assert one.claim(net)
    assert not other.claim(net)
    one.release([net])
    assert other.claim(net)
    other.close()
    one.hold([net])
    one.close()


def test_a_bridge_that_is_not_there_is_named() -> None:
    assert hostnets.address_of("lo") == "127.0.0.1/8"
    with pytest.raises(InvalidArgument, match="no-such"):
        hostnets.address_of("no-such")
