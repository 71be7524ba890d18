"""Which host ports an endpoint gets."""

from __future__ import annotations

import pytest

from services.network import ports
from shared.contracts.docker import PortBinding
from shared.errors import Conflict, InvalidArgument


def wishes(key: str, host_port: str = "", host_ip: str = "") -> list[ports.Wish]:
    return ports.wishes({key: [PortBinding(host_ip=host_ip, host_port=host_port)]}, [], "", publish_all=False)


def allocate(asked: list[ports.Wish], taken: ports.Taken) -> list[tuple[str, int]]:
    return [(port.host_ip, port.host_port) for port in ports.allocate(asked, taken, endpoint="web (id)")]


def test_no_address_is_every_address() -> None:
    assert allocate(wishes("80/tcp", "8080"), {}) == [("0.0.0.0", 8080), ("::", 8080)]
    assert allocate(wishes("80", "8080", "127.0.0.1"), {}) == [("127.0.0.1", 8080)]


def test_a_wildcard_collides_with_every_address_of_its_family() -> None:
    taken: ports.Taken = {}
    allocate(wishes("80/tcp", "8080", "127.0.0.1"), taken)
    with pytest.raises(Conflict, match=r"web \(id\): Bind for 0\.0\.0\.0:8080 failed: port is already allocated"):
        allocate(wishes("80/tcp", "8080"), taken)
    assert allocate(wishes("80/tcp", "8080", "::1"), taken) == [("::1", 8080)]
    assert allocate(wishes("80/udp", "8080"), taken)
    assert allocate(wishes("80/tcp", "8080", "10.0.0.1"), taken) == [("10.0.0.1", 8080)]


def test_ranges_and_ephemeral_ports() -> None:
    taken: ports.Taken = {}
    assert allocate(wishes("80/tcp", "9000-9001", "127.0.0.1"), taken) == [("127.0.0.1", 9000)]
    assert allocate(wishes("80/tcp", "9000-9001", "127.0.0.1"), taken) == [("127.0.0.1", 9001)]
    with pytest.raises(Conflict, match=r"Bind for 127\.0\.0\.1:9000 failed"):
        allocate(wishes("80/tcp", "9000-9001", "127.0.0.1"), taken)
    assert allocate(wishes("80/tcp", "", "127.0.0.1"), taken) == [("127.0.0.1", 32768)]
    assert allocate(wishes("80/tcp", "0", "127.0.0.1"), taken) == [("127.0.0.1", 32769)]


def test_publish_all_takes_what_is_exposed_and_not_bound() -> None:
    asked = ports.wishes(
        {"80/tcp": [PortBinding(host_port="80")]}, ["80/tcp", "443/tcp"], "127.0.0.1", publish_all=True
    )
    assert [(wish.container_port, wish.allowed) for wish in asked] == [(80, range(80, 81)), (443, None)]
    assert all(wish.addresses == ("127.0.0.1",) for wish in asked)


@pytest.mark.parametrize(
    ("key", "host_port", "host_ip"),
    [("80/foo", "", ""), ("x/tcp", "", ""), ("0/tcp", "", ""), ("80/tcp", "70000", ""), ("80/tcp", "9-8", ""),
     ("80/tcp", "80", "nowhere")],
)  # fmt: skip
def test_nonsense_is_refused(key: str, host_port: str, host_ip: str) -> None:
    with pytest.raises(InvalidArgument):
        wishes(key, host_port, host_ip)


def test_port_map_lists_exposed_ports_too() -> None:
    published = ports.allocate(wishes("80/tcp", "8080", "127.0.0.1"), {}, endpoint="e")
    assert {key: len(value) for key, value in ports.port_map(published, ["80/tcp", "81/udp"]).items()} == {
        "80/tcp": 1,
        "81/udp": 0,
    }
