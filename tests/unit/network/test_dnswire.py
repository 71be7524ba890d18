"""DNS messages and records."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.executor.agent.network import dnswire
from services.executor.agent.network.dnsrecords import NameRecords
from shared.contracts.networks import Attachment, NodeNetwork


def query(name: str, kind: int = dnswire.A, identifier: int = 7) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    return struct.pack(">HHHHHH", identifier, dnswire.RD, 1, 0, 0, 0) + labels + struct.pack(">HH", kind, 1)


def test_parse_and_answer() -> None:
    asked = dnswire.parse_query(query("Web.Net"))
    assert (asked.id, asked.name, asked.kind) == (7, "web.net", dnswire.A)
    reply = dnswire.answer_addresses(asked, ["10.0.0.1", "10.0.0.2"], 5)
    assert struct.unpack_from(">HHHHHH", reply) == (7, 0x8180, 1, 2, 0, 0)
    assert reply.endswith(b"\xc0\x0c\0\x01\0\x01\0\0\0\x05\0\x04\x0a\0\0\x02")
    assert dnswire.answers(reply, query("web.net"))
    assert not dnswire.answers(reply, query("web.net", identifier=8))
    assert not dnswire.answers(reply, query("other.net"))


@given(st.binary(max_size=64))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    try:
        dnswire.parse_query(data)
    except dnswire.MalformedQuery:
        assert len(dnswire.format_error(data)) in (0, 12)


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("2.0.17.172.in-addr.arpa", "172.17.0.2"),
        ("1." + "0." * 27 + "0.0.d.f.ip6.arpa", "fd00::1"),
        ("x.in-addr.arpa", ""),
        ("web", ""),
    ],
)
def test_reverse(name: str, address: str) -> None:
    assert dnswire.reverse_address(name) == address


def endpoint(number: int, *names: str, network: str = "n1") -> Attachment:
    return Attachment(
        endpoint_id=f"e{number}",
        container_id=f"c{number}",
        network=NodeNetwork(id=network, name=f"name-{network}"),
        address=f"10.0.0.{number}/24",
        dns_names=list(names),
    )


def test_records_follow_endpoints() -> None:
    records = NameRecords()
    records.add(endpoint(2, "Web", "front"))
    records.add(endpoint(3, "api", "front"))
    assert records.lookup(["n1"], "web") == [("10.0.0.2", "")]
    assert len(records.lookup(["n0", "n1"], "FRONT") or []) == 2
    assert records.lookup(["n1"], "web.name-n1") == [("10.0.0.2", "")]
    assert records.lookup(["n2"], "web") is None
    assert records.name_of(["n1"], "10.0.0.3") == "api.name-n1"
    records.add(endpoint(2, "renamed"))
    assert records.lookup(["n1"], "web") is None
    records.remove(endpoint(2))
    records.remove(endpoint(2))
    assert records.lookup(["n1"], "renamed") is None
    records.replace([endpoint(4, "only")])
    assert records.lookup(["n1"], "api") is None
    assert records.lookup(["n1"], "only") == [("10.0.0.4", "")]


def test_networks_without_names_have_none() -> None:
    records = NameRecords()
    plain = endpoint(2, "web")
    plain.network.dns = False
    records.add(plain)
    assert records.lookup(["n1"], "web") is None
