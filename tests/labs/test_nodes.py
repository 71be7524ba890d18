"""`davit lab`: three nodes on this machine, what is done to them, and that nothing is left of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.engine import eventually
from tests.lab.labs import TestLab, require_root

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

THREE = """\
nodes:
  m1: {role: manager, memory: 2g}
  w1: {labels: {zone: a}}
  w2:
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[TestLab]:
    require_root()
    with TestLab(THREE) as three:
        three.import_busybox()
        yield three


def test_containers_run_on_every_node(lab: TestLab) -> None:
    for node in ("m1", "w1", "w2"):
        label = () if node == "m1" else ("--label", f"davit.node={node}")
        assert lab.docker("run", "--rm", "--pull", "never", *label, "busybox", "echo", node).stdout == f"{node}\n"


def test_each_node_is_a_machine_of_its_own(lab: TestLab) -> None:
    spaces = {}
    for node in ("m1", "w1", "w2"):
        assert lab.exec(node, "uname", "-n").stdout.strip() == node
        kinds = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("net", "mnt", "uts", "cgroup")]
        there = lab.exec(node, "readlink", *(f"/proc/self/ns/{kind}" for kind in ("net", "mnt", "uts", "cgroup")))
        spaces[node] = set(there.stdout.split())
        assert not spaces[node] & set(kinds)
    assert len(set.union(*spaces.values())) == 12
    assert "/engine" in lab.exec("w1", "cat", "/proc/self/cgroup").stdout
    devices = set(lab.exec("w1", "ls", "/sys/class/net").stdout.split())
    assert {"lo", "eth0"} <= devices


def test_a_limit_holds_for_the_whole_node(lab: TestLab) -> None:
    files = ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory.max")
    (file,) = [file for file in files if lab.exec("m1", "test", "-e", file, check=False).returncode == 0]
    assert lab.exec("m1", "cat", file).stdout.strip() == str(2 << 30)
    assert lab.exec("w1", "cat", file).stdout.strip() != str(2 << 30)


def test_a_killed_node_says_no_goodbye_and_has_its_wires_again(lab: TestLab) -> None:
    lab.docker("run", "-d", "--name", "far", "--pull", "never", "--label", "davit.node=w1", "busybox", "sleep", "1000")
    lab.davit("kill", "w1")
    status = lab.status()
    assert (status["nodes"]["w1"]["state"], status["nodes"]["w1"]["processes"]) == ("off", 0)
    assert lab.ping("m1", "w1").answered == 0
    assert lab.davit("exec", "w1", "true", check=False).returncode == 1
    lab.davit("restart", "w1")
    assert lab.ping("m1", "w1").answered == 3
    assert lab.ping("w2", "w1").answered == 3
    eventually(lambda: "Exited" in lab.docker("ps", "-a", "--format", "{{.Status}}").stdout, 15, "the container's end")
    lab.docker("start", "far")
    lab.docker("rm", "-f", "far")


def test_a_paused_node_neither_answers_nor_forgets(lab: TestLab) -> None:
    lab.davit("pause", "w2")
    assert lab.status()["nodes"]["w2"]["state"] == "paused"
    assert lab.ping("m1", "w2").answered == 0
    refused = lab.davit("pause", "w2", check=False)
    assert (refused.returncode, "w2 is paused" in refused.stderr) == (1, True)
    lab.davit("resume", "w2")
    assert lab.ping("m1", "w2").answered == 3
    assert lab.docker("run", "--rm", "--pull", "never", "--label", "davit.node=w2", "busybox", "true").returncode == 0


def test_the_environment_of_a_node_points_to_it(lab: TestLab) -> None:
    assert lab.davit("env", "m1").stdout == f"export DOCKER_HOST=unix://{lab.root}/lab/m1/run/docker.sock\n"
    refused = lab.davit("env", "w1", check=False)
    assert refused.returncode == 1
    assert "w1 has no API of its own: ask a manager (m1)" in refused.stderr
    assert "level=info service=agent" in lab.davit("logs", "w1").stdout


def test_a_wrong_file_starts_nothing(lab: TestLab) -> None:
    wrong = lab.base / "wrong.yml"
    wrong.write_text("nodes:\n  m1:\n    role: king\n")
    refused = lab.davit("up", str(wrong), check=False)
    assert refused.returncode == 1
    assert "wrong.yml:3: nodes.m1.role: " in refused.stderr
    assert not (lab.root / "wrong").exists()


def test_nothing_is_left_also_after_a_kill_of_all_that_the_lab_runs() -> None:
    require_root()
    with TestLab("nodes: {m1: {role: manager}}\n") as lab:
        groups = [path for path in Path("/sys/fs/cgroup").glob("**/davit-lab/lab-*") if path.is_dir()]
        ours = [path for path in groups if _pids(path) & _with(str(lab.root))]
        assert ours
        for pid in set.union(*(_pids(path) for path in ours)):
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: not any(_pids(path) for path in ours), 15, "the end of all processes")
        assert lab.status()["nodes"]["m1"]["state"] == "dead"
        lab.davit("down")
        assert not any(path.exists() for path in ours)
        assert not lab.root.exists()
        assert str(lab.root) not in Path("/proc/self/mountinfo").read_text()
        assert not _with(str(lab.root))


def _pids(group: Path) -> set[int]:
    return {int(line) for file in group.rglob("cgroup.procs") for line in file.read_text().split()}


def _with(text: str) -> set[int]:
    """Processes that have a text in their command line."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if text.encode() in (entry / "cmdline").read_bytes():
                    found.add(int(entry.name))
            except OSError:
                continue
    return found
