"""Where groups are: the meaning of cgroupsPath, and what is mounted."""

from __future__ import annotations

import pytest

from services.executor.runtime.cgroups import paths
from services.executor.runtime.cgroups.detect import parse
from services.executor.runtime.errors import InvalidSpec


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, "/davit/c1"),
        ("", "/davit/c1"),
        ("/docker/abc", "/docker/abc"),
        ("//docker/./abc/", "/docker/abc"),
        ("/../../etc", "/etc"),
        ("mine/abc", "/davit/mine/abc"),
        ("../../abc", "/davit/abc"),
    ],
)
def test_cgroup_path(given: str | None, expected: str) -> None:
    assert paths.cgroup_path(given, "c1") == expected


@pytest.mark.parametrize("given", ["/", "/..", ".", "x/.."])
def test_the_root_is_nobodys(given: str) -> None:
    with pytest.raises(InvalidSpec):
        paths.cgroup_path(given, "c1")


def test_systemd_names() -> None:
    assert paths.systemd_unit(None, "c1") == ("system.slice", "runc-c1.scope")
    assert paths.systemd_unit("user.slice:davit:c1", "x") == ("user.slice", "davit-c1.scope")
    assert paths.systemd_unit(":davit:c1", "x") == ("system.slice", "davit-c1.scope")
    assert paths.systemd_unit("a.slice::b.slice", "x") == ("a.slice", "b.slice")
    with pytest.raises(InvalidSpec):
        paths.systemd_unit("/davit/c1", "x")


def test_slices_nest_by_dashes() -> None:
    assert paths.slice_path("system.slice") == "/system.slice"
    assert paths.slice_path("a-b-c.slice") == "/a.slice/a-b.slice/a-b-c.slice"
    assert paths.slice_path("-.slice") == "/"
    for wrong in ("a", "a--b.slice", "-a.slice", "a/b.slice"):
        with pytest.raises(InvalidSpec):
            paths.slice_path(wrong)


V1 = """\
25 1 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw
26 25 0:23 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
27 25 0:24 / /sys/fs/cgroup/memory rw shared:3 - cgroup cgroup rw,memory
28 25 0:25 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
29 1 0:24 /x /mnt/again rw - cgroup cgroup rw,memory
"""
V2 = "30 25 0:26 / /sys/fs/cgroup/with\\040space rw - cgroup2 cgroup2 rw,nsdelegate\n"


def test_mounts_of_each_kind_are_found() -> None:
    expected = {
        "cpu": "/sys/fs/cgroup/cpu,cpuacct",
        "cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
        "memory": "/sys/fs/cgroup/memory",
        "name=systemd": "/sys/fs/cgroup/systemd",
    }
    assert parse(V1) == (expected, None)
    assert parse(V1 + V2) == (expected, "/sys/fs/cgroup/with space")
    assert parse(V2) == ({}, "/sys/fs/cgroup/with space")
