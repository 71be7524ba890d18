"""Plain containers as nodes, from a containerlab file; images that nodes have from the beginning; forwarded ports."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.engine import eventually
from tests.lab.labs import TestLab, busybox_archive, require_root
from tests.lab.registry import free_port

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

FILE = """\
name: clab
topology:
  defaults: {{env: {{GREETING: hello}}}}
  kinds:
    linux: {{image: busybox.tar, cmd: sleep 1000}}
  nodes:
    r1:
      kind: linux
      env: {{OWN: yes}}
      binds: ["page:/www"]
      ports: ["{port}:80"]
      exec: ["ip addr add 10.1.0.1/24 dev eth1", "httpd -h /www"]
    r2: {{kind: linux, exec: ["ip addr add 10.1.0.2/24 dev eth1"]}}
  links:
  - endpoints: ["r1:eth1", "r2:eth1"]
"""


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def lab(port: int) -> Iterator[TestLab]:
    require_root()
    two = TestLab(FILE.format(port=port))
    busybox_archive(two.base / "busybox.tar")
    (two.base / "page").mkdir()
    (two.base / "page" / "index.html").write_text("it works\n")
    with two:
        yield two


def test_they_are_wired_as_the_file_says(lab: TestLab) -> None:
    assert "3 packets received" in lab.exec("r1", "ping", "-c", "3", "-i", "0.1", "10.1.0.2").stdout
    lab.davit("link", "r1", "r2", "--delay", "50ms")
    said = lab.exec("r1", "ping", "-c", "3", "10.1.0.2").stdout
    assert float(said.rpartition("= ")[2].split("/")[0]) >= 100
    lab.davit("link", "r1", "r2", "--reset")


def test_a_command_is_run_as_in_the_container(lab: TestLab) -> None:
    assert lab.exec("r1", "sh", "-c", "hostname; echo $GREETING $OWN; cat /proc/1/cmdline").stdout == (
        "r1\nhello true\nsleep\x001000\x00"
    )
    assert lab.exec("r1", "sh", "-c", "exit 7", check=False).returncode == 7


def test_a_port_of_this_machine_leads_to_the_node(lab: TestLab, port: int) -> None:
    assert urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10).read() == b"it works\n"


def test_a_disk_outlives_a_power_cut(lab: TestLab) -> None:
    lab.exec("r2", "sh", "-c", "echo kept >/file; sync")
    lab.davit("kill", "r2")
    assert "0 packets received" in lab.exec("r1", "ping", "-c", "1", "-W", "1", "10.1.0.2", check=False).stdout
    lab.davit("restart", "r2")
    assert lab.exec("r2", "cat", "/file").stdout == "kept\n"
    assert "1 packets received" in lab.exec("r1", "ping", "-c", "1", "10.1.0.2").stdout


def test_pause(lab: TestLab) -> None:
    lab.davit("pause", "r2")
    assert "0 packets received" in lab.exec("r1", "ping", "-c", "1", "-W", "1", "10.1.0.2", check=False).stdout
    lab.davit("resume", "r2")
    assert "1 packets received" in lab.exec("r1", "ping", "-c", "1", "10.1.0.2").stdout


def test_an_image_that_nobody_has_is_an_error_and_leaves_nothing() -> None:
    require_root()
    lab = TestLab("nodes: {r1: {role: image, image: nobody/has:it}}\n", environment={"DOCKER_HOST": "unix:///nowhere"})
    refused = lab.davit("up", str(lab.file), check=False)
    assert refused.returncode == 1
    assert "image nobody/has:it is neither a file nor on this machine's engine" in refused.stderr
    assert not lab.root.exists()
    lab.__exit__(None, None, None)


def test_images_are_there_before_they_are_used(tmp_path: Path) -> None:
    require_root()
    lab = TestLab("nodes: {m1: {role: manager}, w1: {images: [busybox.tar]}}\n")
    busybox_archive(lab.base / "busybox.tar")
    with lab:
        assert eventually(lambda: list((lab.root / "lab/w1/data/layers").glob("[0-9a-f]*")), 5, "a layer on w1")
        assert (
            lab.docker("run", "--rm", "--pull", "never", "--label", "davit.node=w1", "busybox", "echo", "x").stdout
            == "x\n"
        )
