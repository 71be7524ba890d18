"""`davit lab check`: says nothing of a lab that is well, and names what is not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from lab.nodes.cgroups import Cgroup, Hierarchies
from lab.places import Places
from tests.lab.labs import TestLab, require_root

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def lab() -> Iterator[TestLab]:
    require_root()
    with TestLab("nodes: {m1: {role: manager}, w1: }\n") as two:
        two.import_busybox()
        two.docker("network", "create", "net")
        run = ("run", "-d", "--pull", "never", "--network", "net")
        two.docker(*run, "--name", "web", "-p", "8080:80", "busybox", "sleep", "1000")
        two.docker(*run, "--name", "far", "--label", "davit.node=w1", "busybox", "sleep", "1000")
        two.docker(*run, "--name", "over", "busybox", "true")
        yield two


def problems(lab: TestLab, within: str = "0s") -> list[str]:
    done = lab.davit("check", "--json", "--within", within, check=False)
    found = [problem for some in json.loads(done.stdout).values() for problem in some]
    assert done.returncode == (1 if found else 0)
    return found


def test_a_lab_that_is_well(lab: TestLab) -> None:
    assert problems(lab, "10s") == []


def test_also_after_a_power_cut(lab: TestLab) -> None:
    lab.davit("kill", "w1")
    lab.davit("restart", "w1")
    assert problems(lab, "15s") == []
    lab.docker("start", "far")


def test_an_address_that_is_gone(lab: TestLab) -> None:
    pid = lab.docker("inspect", "-f", "{{.State.Pid}}", "web").stdout.strip()
    address = lab.docker("inspect", "-f", "{{.NetworkSettings.Networks.net.IPAddress}}", "web").stdout.strip()
    inside = ("nsenter", f"--net=/proc/{pid}/ns/net", "ip", "address")
    lab.exec("m1", *inside, "flush", "dev", "eth0")
    assert f"web: the records give it {address}, and no interface of it has that" in problems(lab)
    lab.exec("m1", *inside, "add", f"{address}/16", "dev", "eth0")
    assert problems(lab, "10s") == []


def test_a_process_that_nobody_knows(lab: TestLab) -> None:
    group = Cgroup(Hierarchies(), f"{Places(lab.root, 'lab').cgroup}/w1/davit/{'f' * 64}")
    group.create()
    stray = subprocess.Popen(["sleep", "1000"], preexec_fn=group.join)  # noqa: PLW1509  # no threads here
    try:
        assert problems(lab) == [f"w1 runs {'f' * 12}, which no record has"]
    finally:
        stray.kill()
        stray.wait()
        group.remove()


def test_an_engine_that_is_stopped(lab: TestLab) -> None:
    supervisor = json.loads((lab.root / "lab/w1/run/engine.json").read_text())["processes"]["supervisor"]["pid"]
    agent = json.loads((lab.root / "lab/w1/run/engine.json").read_text())["processes"]["agent"]["pid"]
    os.kill(supervisor, signal.SIGSTOP)
    os.kill(agent, signal.SIGKILL)
    try:
        assert any(problem.startswith("w1: agent is ") for problem in problems(lab))
    finally:
        os.kill(supervisor, signal.SIGCONT)
    assert problems(lab, "15s") == []
