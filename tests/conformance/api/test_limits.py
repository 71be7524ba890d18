"""Limits that change, statistics and health: what both engines say and do, compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.lab.engine import eventually

from .conftest import Asked, Question

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]


def run(asked: Asked, name: str, *arguments: str) -> str:
    asked.engine.docker("rm", "-f", name, check=False)
    return asked.engine.docker("run", "-d", "--name", name, *arguments).stdout.strip()


def inspect(asked: Asked, name: str) -> dict[str, Any]:
    return dict(asked.ask(Question("GET", f"/containers/{name}/json")).json)


def update(asked: Asked, name: str, **fields: Any) -> int:
    return asked.ask(Question("POST", f"/containers/{name}/update", json.dumps(fields))).status


def pids_max(container_id: str) -> str:
    """Of the container's group, wherever an engine has it."""
    found = [*Path("/sys/fs/cgroup").glob(f"pids/*/{container_id}/pids.max")]
    found += Path("/sys/fs/cgroup").glob(f"**/*{container_id}*/pids.max") if not found else []
    return found[0].read_text().strip()


def limits(asked: Asked) -> list[Any]:
    container_id = run(asked, "limited", "--pids-limit", "50", "busybox", "sleep", "1000")
    seen: list[Any] = []
    for value in (70, 0, 60, -1, 60, -2):
        status = update(asked, "limited", PidsLimit=value)
        seen.append((value, status, inspect(asked, "limited")["HostConfig"]["PidsLimit"], pids_max(container_id)))
    return seen


def test_numbers_of_processes(davit: Asked, reference: Asked) -> None:
    assert limits(davit) == limits(reference)


def test_a_number_that_the_kernel_refuses_changes_nothing(davit: Asked) -> None:
    """The reference engine answers 500 for those that it hands to its runtime."""
    container_id = run(davit, "limited", "--pids-limit", "50", "busybox", "sleep", "1000")
    for fields in (
        {"PidsLimit": 2**63 - 1},
        {"CpuQuota": 2**63 - 1},
        {"PidsLimit": 99, "CpuQuota": 2**63 - 1},
        {"CpusetMems": "5"},
        {"CpusetCpus": "77"},
    ):
        answer = davit.ask(Question("POST", "/containers/limited/update", json.dumps(fields)))
        assert answer.status == 400, (fields, answer.body)
        assert list(fields)[-1].lower().removeprefix("cpuset") in answer.message.lower(), answer.message
        assert "create failed" not in answer.message
    assert inspect(davit, "limited")["HostConfig"]["PidsLimit"] == 50
    assert pids_max(container_id) == "50"
    assert update(davit, "limited", CpuShares=512) == 200  # what was refused is not tried again


def interfaces(asked: Asked) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    run(asked, "first", "--network", "host", "busybox", "sleep", "1000")
    for mode in ("host", "none", "bridge", "container:probe", "container:first"):
        run(asked, "counted", "--network", mode, "busybox", "sleep", "1000")
        stats = asked.ask(Question("GET", "/containers/counted/stats?stream=0&one-shot=1")).json
        seen[mode] = sorted(stats.get("networks", {"absent": {}}))
    return seen


def test_interfaces_that_are_counted(davit: Asked, reference: Asked) -> None:
    assert interfaces(davit) == interfaces(reference)


PROBES = {
    "says something and goes on": "echo hi; sleep 60",
    "says nothing": "sleep 60",
    "says too much": "head -c 5000 /dev/zero | tr '\\0' x",
    "fails": "echo no; exit 3",
}


def health(asked: Asked) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    timing = ("--health-interval", "50ms", "--health-timeout", "1500ms", "--health-retries", "1")
    for name, command in PROBES.items():
        run(asked, name.replace(" ", "-"), "--health-cmd", command, *timing, "busybox", "sleep", "1000")
    for name in PROBES:
        container = name.replace(" ", "-")

        def log(container: str = container) -> Any:
            return inspect(asked, container)["State"]["Health"]["Log"]

        eventually(log, 30, f"a probe of {name}")
        seen[name] = (log()[0]["ExitCode"], log()[0]["Output"])
        asked.engine.docker("restart", "-t", "0", container)
        state = inspect(asked, container)["State"]["Health"]
        seen[name] += (state["Log"][0]["Output"] == seen[name][1],)
        asked.engine.docker("rm", "-f", container)
    return seen


def test_what_probes_said_outlives_a_restart(davit: Asked, reference: Asked) -> None:
    ours, theirs = health(davit), health(reference)
    # later engines tell what the probe had said
    said = "says something and goes on"
    assert (ours.pop(said), theirs.pop(said)) == (
        (-1, "Health check exceeded timeout (1.5s): hi\n", True),
        (-1, "Health check exceeded timeout (1.5s)", True),
    )
    assert ours == theirs
