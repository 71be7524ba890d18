"""Networks, endpoints and addresses: compared where both know it."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from tests.lab.engine import eventually

from .conftest import Asked, Question

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]


def post(asked: Asked, path: str, **body: Any) -> Any:
    return asked.ask(Question("POST", path, json.dumps(body)))


def get(asked: Asked, path: str) -> Any:
    return asked.ask(Question("GET", path)).json


def create(asked: Asked, name: str, network: str, endpoint: dict[str, Any] | None = None, **config: Any) -> Any:
    asked.engine.docker("rm", "-f", name, check=False)
    body: dict[str, Any] = {"Image": "busybox", "Cmd": ["sleep", "1000"], **config}
    body["HostConfig"] = {"NetworkMode": network}
    if endpoint is not None:
        body["NetworkingConfig"] = {"EndpointsConfig": {network: endpoint}}
    return post(asked, f"/containers/create?name={name}", **body)


def start(asked: Asked, name: str) -> Any:
    return asked.ask(Question("POST", f"/containers/{name}/start"))


def inside(asked: Asked, name: str, script: str) -> str:
    return asked.engine.docker("exec", name, "sh", "-c", script).stdout


def six(asked: Asked) -> Any:
    """Both subnets, without IPv6: as Compose files have it."""
    pools = [{"Subnet": "fd77:1::/64"}, {"Subnet": "10.77.0.0/24"}]
    created = post(asked, "/networks/create", Name="six", IPAM={"Config": pools}).status
    shown = get(asked, "/networks/six")
    create(asked, "sixed", "six")
    started = start(asked, "sixed").status
    addresses = inside(asked, "sixed", "ip -6 -o addr show eth0 | wc -l; ip -4 -o addr show eth0 | wc -l")
    asked.engine.docker("rm", "-f", "sixed")
    asked.engine.docker("network", "rm", "six")
    subnets = sorted(pool["Subnet"] for pool in shown["IPAM"]["Config"])
    return created, shown["EnableIPv6"], subnets, started, addresses


def test_an_ipv6_subnet_alone_switches_nothing_on(davit: Asked, reference: Asked) -> None:
    assert six(davit) == six(reference)


def prefixed(asked: Asked) -> Any:
    asked.engine.docker("network", "create", "-o", "com.docker.network.container_iface_prefix=net", "pre")
    create(asked, "prefixed", "pre")
    assert start(asked, "prefixed").status == 204
    asked.engine.docker("network", "connect", "net", "prefixed")
    names = inside(asked, "prefixed", "ls /sys/class/net").split()
    routed = inside(asked, "prefixed", "ip route | grep default | sed 's/.*dev //'").split()
    asked.engine.docker("rm", "-f", "prefixed")
    asked.engine.docker("network", "rm", "pre")
    return sorted(names), routed


def test_a_networks_prefix_of_interfaces(davit: Asked, reference: Asked) -> None:
    ours = prefixed(davit)
    assert ours == prefixed(reference)
    assert "net0" in ours[0]


def addresses(asked: Asked) -> Any:
    asked.engine.docker("network", "create", "--subnet", "10.78.0.0/24", "fixed")
    seen = {}
    for address in ("10.78.0.255", "10.78.0.0", "10.78.0.1", "10.79.0.3", "10.78.0.77"):
        assert create(asked, "fixed", "fixed", {"IPAMConfig": {"IPv4Address": address}}).status == 201
        seen[address] = start(asked, "fixed").status < 300
    for wish in ({"IPv4Address": "x"}, {"IPv6Address": "x"}, {"IPv4Address": "fd00::1"}, {"IPv6Address": "10.78.0.9"}):
        answer = create(asked, "fixed", "fixed", {"IPAMConfig": wish})
        seen[str(wish)] = (answer.status, answer.message)
    assert create(asked, "fixed", "host", {"IPAMConfig": {"IPv4Address": "10.9.9.9"}}).status == 201
    answer = start(asked, "fixed")
    seen["host"] = (answer.status >= 400, answer.message)
    asked.engine.docker("rm", "-f", "fixed", check=False)
    asked.engine.docker("network", "rm", "fixed")
    return seen


def test_addresses_that_are_nobodys(davit: Asked, reference: Asked) -> None:
    assert addresses(davit) == addresses(reference)


@pytest.mark.parametrize("address", ["01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "xx"])
def test_hardware_addresses_that_no_interface_has(davit: Asked, address: str) -> None:
    """The reference engine creates the container and fails its start in its runtime's words."""
    for answer in (
        create(davit, "hard", "bridge", MacAddress=address),
        create(davit, "hard", "bridge", {"MacAddress": address}),
    ):
        assert (answer.status, f"invalid MAC address: {address}" in answer.message) == (400, True)


def again(asked: Asked) -> Any:
    asked.engine.docker("network", "create", "--subnet", "10.78.0.0/24", "again")
    create(asked, "twice", "again")
    statuses = []
    for address in ("10.78.0.50", "10.78.0.51"):
        wish = {"IPAMConfig": {"IPv4Address": address}}
        statuses.append(post(asked, "/networks/again/connect", Container="twice", EndpointConfig=wish).status)
        start(asked, "twice")
        statuses.append(post(asked, "/networks/again/connect", Container="twice").status)
        asked.engine.docker("stop", "-t", "0", "twice")
    asked.engine.docker("rm", "-f", "twice")
    asked.engine.docker("network", "rm", "again")
    return statuses


def test_a_second_connect_of_what_does_not_run(davit: Asked, reference: Asked) -> None:
    assert again(davit) == again(reference)
    davit.engine.docker("network", "create", "--subnet", "10.78.0.0/24", "again")
    create(davit, "twice", "again")
    wish = {"IPAMConfig": {"IPv4Address": "10.78.0.50"}, "Aliases": ["second"]}
    assert post(davit, "/networks/again/connect", Container="twice", EndpointConfig=wish).status == 200
    start(davit, "twice")
    shown = get(davit, "/containers/twice/json")["NetworkSettings"]["Networks"]["again"]
    assert (shown["IPAddress"], "second" in shown["Aliases"]) == ("10.78.0.50", True)
    davit.engine.docker("rm", "-f", "twice")
    davit.engine.docker("network", "rm", "again")


def single(asked: Asked, network: str) -> Any:
    network_id = get(asked, f"/networks/{network}")["Id"]
    seen: list[Any] = []

    def look(name: str) -> None:
        endpoint = get(asked, "/containers/single/json")["NetworkSettings"]["Networks"][network]
        shown = {key: bool(endpoint[key]) for key in ("NetworkID", "EndpointID", "IPAddress", "MacAddress")}
        listed = [one["Name"] for one in get(asked, f"/networks/{network}")["Containers"].values()]
        by = [
            asked.engine.docker("ps", "-a", "--filter", f"network={text}", "--format", "{{.Names}}").stdout.split()
            for text in (network, network_id)
        ]
        ports = get(asked, "/containers/single/json")["NetworkSettings"]["Ports"]
        seen.append((name, shown, listed, by, ports))

    assert create(asked, "single", network, ExposedPorts={"80/tcp": {}}).status == 201
    look("created")
    start(asked, "single")
    look("running")
    asked.engine.docker("stop", "-t", "0", "single")
    look("stopped")
    asked.engine.docker("rm", "-f", "single")
    seen[0] = seen[0][:3]  # a container that never ran is found by the network's name alone, or not
    return seen


@pytest.mark.parametrize("network", ["host", "none"])
def test_networks_without_addresses(davit: Asked, reference: Asked, network: str) -> None:
    assert single(davit, network) == single(reference, network)


def test_an_endpoints_interface_and_its_settings(davit: Asked) -> None:
    """Docker Engine knows both since 28."""
    options = {
        "com.docker.network.endpoint.ifname": "uplink",
        "com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.log_martians=1,net.ipv4.conf.IFNAME.forwarding=0",
    }
    assert create(davit, "named", "net", {"DriverOpts": options}).status == 201
    assert start(davit, "named").status == 204
    assert inside(davit, "named", "ls /sys/class/net").split() == ["lo", "uplink"]
    script = "cd /proc/sys/net/ipv4/conf/uplink; cat log_martians forwarding"
    assert inside(davit, "named", script).split() == ["1", "0"]
    davit.engine.docker("network", "connect", "bridge", "named")
    assert inside(davit, "named", "ls /sys/class/net").split() == ["eth0", "lo", "uplink"]
    for options in (
        {"com.docker.network.endpoint.ifname": "far-too-long-a-name"},
        {"com.docker.network.endpoint.sysctls": "kernel.shmmax=1"},
        {"com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.nosuch=1"},
    ):
        create(davit, "named", "net", {"DriverOpts": options})
        answer = start(davit, "named")
        assert (answer.status, next(iter(options.values())) in answer.message) == (400, True), answer.body


def gateways(davit: Asked) -> str:
    return inside(davit, "prior", "ip route | grep ^default | sed 's/.*via //; s/ .*//'").strip()


def test_the_next_gateway_has_the_next_priority(davit: Asked) -> None:
    for name, third in (("gwa", 1), ("gwb", 2), ("gwc", 3)):
        davit.engine.docker("network", "create", "--subnet", f"10.81.{third}.0/24", name)
    davit.engine.docker("create", "--name", "prior", "--network", "name=gwa,gw-priority=1", "--restart", "always",
                        "--network", "name=gwb,gw-priority=3", "--network", "name=gwc,gw-priority=2",
                        "busybox", "sleep", "1000")  # fmt: skip
    davit.engine.docker("start", "prior")
    assert gateways(davit) == "10.81.2.1"
    davit.engine.docker("network", "disconnect", "gwb", "prior")
    assert gateways(davit) == "10.81.3.1"
    pid = get(davit, "/containers/prior/json")["State"]["Pid"]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: get(davit, "/containers/prior/json")["State"]["Pid"] not in (0, pid), 20)
    assert gateways(davit) == "10.81.3.1"  # also of the next run
    davit.engine.docker("rm", "-f", "prior")
    davit.engine.docker("network", "rm", "gwa", "gwb", "gwc")
