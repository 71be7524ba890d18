"""linux.netDevices: devices of the runtime's network namespace become the container's, with what they had."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.runtime.conftest import Runc, spec_of
from tests.lab.netns import NetworkNamespace, run

pytestmark = pytest.mark.root
SHOW = "ip address show"


@pytest.fixture
def host(runc: Runc) -> Iterator[NetworkNamespace]:
    """A network namespace that is the host's for the runtime, with a device `h0` and its peer `p0`."""
    with NetworkNamespace("dvh") as host:
        run("ip", "-n", host.name, "link", "add", "h0", "type", "veth", "peer", "name", "p0")
        run("ip", "-n", host.name, "link", "set", "h0", "mtu", "1789", "address", "02:11:22:33:44:55")
        yield host


def container(runc: Runc, host: NetworkNamespace, spec: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """`run` in the foreground, by a runtime in that namespace."""
    command = [*host.enter, *runc.command(), "run", "-b", str(runc.bundle(spec)), runc.new_id()]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def with_devices(devices: dict[str, Any], script: str, path: str | None = None) -> dict[str, Any]:
    spec = spec_of("sh", "-c", script)
    spec["linux"]["netDevices"] = devices
    if path is not None:
        spec["linux"]["namespaces"] = [e for e in spec["linux"]["namespaces"] if e["type"] != "network"]
        spec["linux"]["namespaces"].append({"type": "network", "path": path})
    return spec


def test_it_is_there_up_and_as_it_was(runc: Runc, host: NetworkNamespace) -> None:
    run("ip", "-n", host.name, "link", "set", "h0", "up")
    run("ip", "-n", host.name, "address", "add", "10.1.2.3/24", "brd", "10.1.2.254", "dev", "h0")
    run("ip", "-n", host.name, "address", "add", "10.1.3.3/32", "dev", "h0")
    run("ip", "-n", host.name, "address", "add", "fd00:77::5/64", "dev", "h0", "nodad")
    run("ip", "-n", host.name, "address", "add", "10.9.9.9/24", "dev", "p0")
    done = container(runc, host, with_devices({"h0": {"name": "ctr0"}}, f"{SHOW} dev ctr0; ip link show h0"))
    assert "can't find device 'h0'" in done.stderr
    assert "inet 10.1.2.3/24 brd 10.1.2.254 scope global ctr0" in done.stdout
    assert "inet 10.1.3.3/32 scope global ctr0" in done.stdout
    assert "inet6 fd00:77::5/64 scope global" in done.stdout
    assert "10.9.9.9" not in done.stdout
    assert "02:11:22:33:44:55" in done.stdout
    assert "mtu 1789" in done.stdout
    assert "UP" in done.stdout.split(">")[0]
    # the device goes with the container's namespace, and its peer with it; the kernel takes its time
    deadline = time.monotonic() + 10
    while "p0" in run("ip", "-n", host.name, "link", "show").stdout:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_addresses_that_mean_nothing_elsewhere_are_left_behind(runc: Runc, host: NetworkNamespace) -> None:
    run("ip", "-n", host.name, "address", "add", "127.0.0.33/32", "dev", "h0", "scope", "host")
    run("ip", "-n", host.name, "address", "add", "10.1.2.4/24", "dev", "h0", "valid_lft", "300", "preferred_lft", "300")
    done = container(runc, host, with_devices({"h0": {}}, f"{SHOW} dev h0"))
    assert (done.returncode, "127.0.0.33" in done.stdout, "10.1.2.4" in done.stdout) == (0, False, False), done


def test_in_a_namespace_given_by_path_it_stays_after_the_container(runc: Runc, host: NetworkNamespace) -> None:
    with NetworkNamespace("dvc") as other:
        path = f"/run/netns/{other.name}"
        done = container(runc, host, with_devices({"h0": {}}, SHOW, path))
        assert (done.returncode, "h0@" in done.stdout) == (0, True), done
        run("ip", "-n", other.name, "link", "show", "dev", "h0")
        taken = container(runc, host, with_devices({"p0": {"name": "h0"}}, "true", path))
        assert (taken.returncode, "move network device p0: file exists" in taken.stderr) == (1, True), taken
        run("ip", "-n", host.name, "link", "show", "dev", "p0")


def test_with_a_user_namespace(runc: Runc, host: NetworkNamespace) -> None:
    spec = with_devices({"h0": {}}, SHOW)
    spec["linux"]["namespaces"].append({"type": "user"})
    for name in ("uidMappings", "gidMappings"):
        spec["linux"][name] = [{"containerID": 0, "hostID": 0, "size": 70000}]
    run("ip", "-n", host.name, "address", "add", "10.1.2.3/24", "dev", "h0")
    done = container(runc, host, spec)
    assert (done.returncode, "inet 10.1.2.3/24" in done.stdout) == (0, True), done


@pytest.mark.parametrize(
    ("devices", "text"),
    [
        ({"nosuch": {}}, "link not found for interface nosuch on runtime namespace"),
        ({"h0": {"name": "longer-than-15-bytes"}}, 'linux.netDevices.h0: invalid network device name \\"longer-than'),
        ({"h0": {"name": "a/b"}}, 'invalid network device name \\"a/b\\"'),
        ({"h0": {"name": "x"}, "p0": {"name": "x"}}, 'linux.netDevices.p0.name: two devices cannot be called \\"x\\"'),
        ({"h0": {"name": "lo"}}, "move network device h0: file exists"),
    ],
)
def test_what_cannot_be_is_refused(runc: Runc, host: NetworkNamespace, devices: dict[str, Any], text: str) -> None:
    done = container(runc, host, with_devices(devices, "true"))
    assert (done.returncode, text in done.stderr) == (1, True), done
    run("ip", "-n", host.name, "link", "show", "dev", "h0")
    run("ip", "-n", host.name, "link", "show", "dev", "p0")


@pytest.mark.parametrize("path", [None, "/proc/self/ns/net"])
def test_it_needs_a_namespace_of_the_containers_own(runc: Runc, host: NetworkNamespace, path: str | None) -> None:
    spec = with_devices({"h0": {}}, "true", path or "")
    if path is None:
        spec["linux"]["namespaces"].pop()
    done = container(runc, host, spec)
    assert "linux.netDevices: unable to move network devices without a private NET namespace" in done.stderr
