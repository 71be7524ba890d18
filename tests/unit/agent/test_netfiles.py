"""Generated files of a running container whose networks change."""

from __future__ import annotations

from pathlib import Path

from services.executor.agent.containers import netfiles
from services.executor.agent.containers.records import ContainerPaths
from shared.contracts.docker import ContainerConfig, HostConfig
from shared.contracts.networks import Attachment, NodeNetwork
from shared.contracts.node import ContainerOrder


def attachment(name: str, address: str) -> Attachment:
    network = NodeNetwork(id=name, name=name, dns=True)
    return Attachment(endpoint_id=name, container_id="c", network=network, address=address)


def test_what_the_container_wrote_stays_whatever_it_is(tmp_path: Path) -> None:
    one, two = attachment("one", "10.1.0.2/24"), attachment("two", "10.2.0.2/24")
    order = ContainerOrder(
        id="c",
        name="c",
        generation=1,
        config=ContainerConfig(),
        host_config=HostConfig(),
        path="true",
        args=[],
        layers=[],
        hostname="web",
        attachments=[one],
    )
    paths = ContainerPaths(tmp_path, tmp_path / "socket")
    netfiles.write(order, paths)
    with paths.hosts.open("ab") as hosts:
        hosts.write(b"10.9.9.9 caf\xe9\n")
    paths.resolv_conf.write_bytes(b"# \xff\n")
    order.attachments = [one, two]
    netfiles.networks_changed(order, paths, [one], started_ns=0)
    lines = paths.hosts.read_bytes().splitlines()
    assert b"10.9.9.9 caf\xe9" in lines
    assert b"10.2.0.2\tweb" in lines
    assert paths.resolv_conf.read_bytes() == b"# \xff\n"


def test_files_that_a_container_filled_are_left_alone(tmp_path: Path) -> None:
    order = ContainerOrder(
        id="c" * 64,
        name="web",
        generation=1,
        image_id="sha256:1",
        config=ContainerConfig(),
        host_config=HostConfig(),
        path="true",
        args=[],
        layers=[],
        hostname="web",
        attachments=[],
    )
    paths = ContainerPaths(tmp_path, tmp_path / "socket")
    netfiles.write(order, paths)
    with paths.hosts.open("r+b") as hosts:
        hosts.truncate(netfiles.LARGEST_BYTES + 1)
    before = paths.hosts.stat()
    netfiles.networks_changed(order, paths, [], started_ns=0)
    after = paths.hosts.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
