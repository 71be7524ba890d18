"""Generated files of containers."""

from __future__ import annotations

import pytest

from services.executor.agent.network import files
from shared.contracts.networks import Attachment, NodeNetwork


def attachment(name: str = "bridge", address: str = "172.17.0.2/16", **fields: object) -> Attachment:
    network = NodeNetwork(id=name, name=name, gateway=address.replace(".2/", ".1/"), dns=name != "bridge")
    body = {"endpoint_id": name, "container_id": "c", "network": network, "address": address, **fields}
    return Attachment.model_validate(body)


def test_hosts() -> None:
    text = files.hosts_file(
        "web",
        "example.org",
        [attachment(links={"db": "172.17.0.9"})],
        ["other:10.0.0.1", "six:[::1]", "seven=::2", "up:host-gateway"],
    )
    lines = text.splitlines()
    assert lines[0] == "127.0.0.1\tlocalhost"
    assert lines[-6:] == [
        "10.0.0.1\tother",
        "::1\tsix",
        "::2\tseven",
        "172.17.0.1\tup",
        "172.17.0.9\tdb",
        "172.17.0.2\tweb.example.org web",
    ]


@pytest.mark.parametrize(("host", "domain"), [("web.example.org", ""), ("web.example", "org"), ("web", "example.org")])
def test_the_own_line_has_the_full_name_and_the_bare_one(host: str, domain: str) -> None:
    assert files.hosts_file(host, domain, [attachment()], []).splitlines()[-1] == "172.17.0.2\tweb.example.org web"


def test_hosts_on_the_hosts_network_start_from_its_own() -> None:
    text = files.hosts_file("web", "", [], ["a:1.2.3.4"], host_network=True, host="127.0.0.1 localhost\n10.0.0.5 me\n")
    assert text == "127.0.0.1 localhost\n10.0.0.5 me\n1.2.3.4\ta\n"


def test_links_on_networks_with_names_are_left_to_dns() -> None:
    assert "db" not in files.hosts_file("web", "", [attachment("net", links={"db": "other"})])


def test_resolv_conf_on_the_default_bridge() -> None:
    host = "nameserver 127.0.0.53 # stub\nnameserver 10.0.0.53\nsearch a.example b.example\noptions edns0\n"
    assert files.resolv_conf([attachment()], host=host) == (
        "nameserver 10.0.0.53\nsearch a.example b.example\noptions edns0\n"
    )
    assert files.resolv_conf([attachment()], ["9.9.9.9"], ["."], ["ndots:2"], host=host) == (
        "nameserver 9.9.9.9\noptions ndots:2\n"
    )
    assert files.resolv_conf([attachment()], host="nameserver 127.0.0.1\n").startswith("nameserver 8.8.8.8\n")
    assert "127.0.0.53" in files.resolv_conf([], host=host, host_network=True)


def test_resolv_conf_on_a_network_with_names() -> None:
    host = "nameserver 10.0.0.53\nsearch a.example\n"
    assert files.resolv_conf([attachment("net")], ["9.9.9.9"], host=host) == (
        "nameserver 127.0.0.11\nsearch a.example\noptions ndots:0\n"
    )
    assert "ndots:0" not in files.resolv_conf([attachment("net")], options=["ndots:5"], host=host)
