"""Flags of `docker build`: what commands see of them, and what is said of values that cannot be."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.build.conftest import BuildEngine
from tests.conformance.build.test_shapes import File, tar

LIMITS = (
    "--memory", "64m", "--memory-swap", "128m", "--cpu-shares", "512", "--cpu-quota", "50000",
    "--cpu-period", "90000", "--cpuset-cpus", "0", "--cpuset-mems", "0", "--ulimit", "nofile=100:200",
    "--shm-size", "8m", "--add-host", "db:10.1.2.3", "--network", "none",
)  # fmt: skip
SEEN = """\
FROM busybox
RUN cd /sys/fs/cgroup && for f in memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes cpu/cpu.shares \
 cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us cpuset/cpuset.cpus cpuset/cpuset.mems memory.max memory.swap.max cpu.max \
 cpu.weight cpuset.cpus cpuset.mems; do if test -e $f; then echo $f $(cat $f); fi; done
RUN ulimit -n; ulimit -Hn; df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2; grep db /etc/hosts; ls /sys/class/net
"""


@pytest.fixture(scope="module", autouse=True)
def _parent_group_goes() -> Iterator[None]:
    """A parent group that a user names is the user's to remove."""
    yield
    root = Path("/sys/fs/cgroup")
    for directory in (*root.glob("*/parent-of-builds"), *root.glob("parent-of-builds")):
        directory.rmdir()


def context(dockerfile: str) -> bytes:
    return tar({"Dockerfile": File(dockerfile.encode())})


def told(engine: BuildEngine, dockerfile: str, *arguments: str) -> list[str]:
    """What a build says, without what differs by nature: ids, and lines of metadata containers. The exit code first."""
    result = engine.run("build", *arguments, "-", data=context(dockerfile), check=False)
    errors = result.stderr.decode().rpartition("environment-variable.")[2]
    text = re.sub(r"(?:sha256:)?\b(?:[0-9a-f]{64}|[0-9a-f]{12})\b", "ID", result.stdout.decode() + errors)
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith(("Removing", "Sending"))]
    kept = [line for line in lines if line.strip() not in ("---> Running in ID", "---> ID")]
    return [f"exit code {result.returncode}", *kept]


def test_limits_and_networks(davit: BuildEngine, reference: BuildEngine) -> None:
    ours, theirs = (told(engine, SEEN, "--no-cache", *LIMITS) for engine in (davit, reference))
    assert theirs[0] == "exit code 0"
    assert ours == theirs


def test_cgroup_parent_and_host_network(davit: BuildEngine, reference: BuildEngine) -> None:
    dockerfile = (
        "FROM busybox\nRUN grep -E ':(memory:|:)' /proc/self/cgroup | grep -o /parent-of-builds | head -1\n"
        "RUN ls /sys/class/net | grep lo\n"
    )
    flags = ("--no-cache", "--cgroup-parent", "/parent-of-builds", "--network", "host")
    ours, theirs = (told(engine, dockerfile, *flags) for engine in (davit, reference))
    assert theirs[0] == "exit code 0"
    assert ours == theirs


@pytest.mark.parametrize(
    "arguments",
    [
        ("--squash",),
        ("--isolation", "hyperv"),
        ("--network", "absent"),
        ("--network", "container:absent"),
        ("--add-host", "no-address"),
        ("--memory", "1m"),
        ("--memory", "64m", "--memory-swap", "32m"),
        ("--cpuset-cpus", "999"),
        ("--cpuset-cpus", "x"),
        ("--ulimit", "nofile=300:200"),
        ("--target", "absent"),
        ("--tag", "UPPER"),
        ("--tag", f"x@sha256:{'0' * 64}"),
        ("--file", "Absent"),
        ("--label", "=x"),
    ],
)
def test_flags_that_cannot_be(davit: BuildEngine, reference: BuildEngine, arguments: tuple[str, ...]) -> None:
    dockerfile = "FROM busybox\nRUN true\n"
    ours, theirs = (told(engine, dockerfile, "--no-cache", *arguments) for engine in (davit, reference))
    assert theirs[0] != "exit code 0"
    assert ours == theirs


@pytest.mark.parametrize(
    "arguments",
    [
        ("--quiet",),
        ("--build-arg", "unused=1", "--build-arg", "b=2"),
        ("--label", "a=b", "--label", "c"),
        ("--tag", "conformance:one", "--tag", "conformance-two"),
        ("--isolation", "default"),
        ("--force-rm",),
    ],
)
def test_flags_that_change_what_is_told(davit: BuildEngine, reference: BuildEngine, arguments: tuple[str, ...]) -> None:
    dockerfile = "FROM busybox\nARG b=1\nRUN echo $b\n"
    ours, theirs = (told(engine, dockerfile, "--no-cache", *arguments) for engine in (davit, reference))
    assert theirs[0] == "exit code 0"
    assert ours == theirs
