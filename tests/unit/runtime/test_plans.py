"""config.json read into plans: what it means, and what is refused with the field's name."""

from __future__ import annotations

from typing import Any

import pytest

from services.executor.runtime.commands.info import example
from services.executor.runtime.errors import InvalidSpec
from services.executor.runtime.kernel import calls as kernel
from services.executor.runtime.kernel import mountcalls as m
from services.executor.runtime.launch import zygote
from services.executor.runtime.spec import mountplan
from services.executor.runtime.spec.mountoptions import MountOptions
from services.executor.runtime.spec.plan import ContainerPlan, ProcessPlan
from services.executor.runtime.steps import devices, memorypolicy, mounts, rlimits, sysctl
from services.executor.runtime.steps.namespaces import Namespaces
from services.executor.runtime.steps.rootfs import Overlay


def test_mount_options() -> None:
    options = MountOptions(["rbind", "ro", "nosuid", "suid", "rshared", "rnoexec", "size=1k", "mode=700", "noatime"])
    assert options.is_bind
    assert options.flags == m.MS_BIND | m.MS_REC | m.MS_RDONLY | m.MS_NOATIME
    assert options.cleared == m.MS_NOSUID
    assert options.propagation == [(m.MS_SHARED, True)]
    assert options.recursive == (m.MOUNT_ATTR_NOEXEC, 0)
    assert options.data == "size=1k,mode=700"
    added, removed = options.attributes()
    assert added == m.MOUNT_ATTR_RDONLY | m.MOUNT_ATTR_NOATIME
    assert removed == m.MOUNT_ATTR_NOSUID | m.MOUNT_ATTR_ATIME_MASK


def test_the_last_option_decides() -> None:
    options = MountOptions(["ro", "rw", "rro", "rrw"])
    assert options.flags == 0
    assert options.recursive == (0, m.MOUNT_ATTR_RDONLY)


def test_relative_bind_sources_start_at_the_bundle() -> None:
    (mount,) = mountplan.plan({"mounts": [{"destination": "x/../y", "type": "bind", "source": "data"}]}, "/bundle")
    assert (mount.destination, mount.source, mount.kind) == ("/y", "/bundle/data", "bind")


def test_namespaces() -> None:
    names = Namespaces(
        {"linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "network", "path": "/x"}]}}
    )
    assert names.clone_flags(staged=False) == kernel.CLONE_NEWPID | kernel.CLONE_NEWNS
    assert names.paths == {"network": "/x"}
    assert not names.needs_stage


@pytest.mark.parametrize(
    ("linux", "field"),
    [
        ({"namespaces": [{"type": "pid"}, {"type": "pid"}]}, "linux.namespaces[1].type"),
        ({"namespaces": [{"type": "moon"}]}, "linux.namespaces[0].type"),
        ({"namespaces": [{"type": "pid", "path": "x"}]}, "linux.namespaces[0].path"),
        (
            {"namespaces": [{"type": "user"}], "gidMappings": [{"containerID": 0, "hostID": 0, "size": 1}]},
            "linux.uidMappings",
        ),
        ({"timeOffsets": {"monotonic": {"secs": 1}}}, "linux.timeOffsets"),
    ],
)
def test_namespaces_refused(linux: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        Namespaces({"linux": linux})
    assert caught.value.field == field


def test_devices_add_the_default_ones() -> None:
    planned = devices.plan({"linux": {"devices": [{"path": "/dev/null", "type": "c", "major": 9, "minor": 9}]}})
    by_path = {device.path: device for device in planned}
    assert by_path["/dev/null"].number != by_path["/dev/zero"].number
    assert len(planned) == 6


def test_rlimits() -> None:
    entries = [{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 2**64 - 1}]
    assert rlimits.plan({"rlimits": entries}) == [("RLIMIT_NOFILE", 7, 5, -1)]
    with pytest.raises(InvalidSpec, match="soft"):
        rlimits.plan({"rlimits": [{"type": "RLIMIT_NOFILE", "soft": 6, "hard": 5}]})


def test_sysctl_of_the_host_are_refused() -> None:
    sysctl.validate(
        {"net.ipv4.ip_forward": "1", "kernel/shmmax": "1", "net/ipv4/conf/eth0.1/rp_filter": "1"}, {"network", "ipc"}
    )
    for name, new in (("kernel.panic", {"ipc"}), ("net.ipv4.ip_forward", set()), ("fs.mqueue.msg_max", {"network"})):
        with pytest.raises(InvalidSpec):
            sysctl.validate({name: "1"}, new)


def test_overlay_needs_its_parts() -> None:
    with pytest.raises(InvalidSpec):
        Overlay({"lower": ["/a"], "upper": "/u"})


def test_process_needs_arguments_and_an_absolute_directory() -> None:
    with pytest.raises(InvalidSpec, match=r"process\.args"):
        ProcessPlan({"cwd": "/"})
    with pytest.raises(InvalidSpec, match=r"process\.cwd"):
        ProcessPlan({"args": ["x"], "cwd": "x"})
    assert ProcessPlan({"args": ["x"], "cwd": "/", "env": ["A=1", "B=", "A=2=3"]}).environment() == {
        "A": "2=3",
        "B": "",
    }


@pytest.mark.parametrize("entry", ["A", "=1", "", "A=1\0"])
def test_variables_have_names_and_values(entry: str) -> None:
    with pytest.raises(InvalidSpec, match="invalid environment variable"):
        ProcessPlan({"args": ["x"], "cwd": "/", "env": [entry]})


def test_exec_affinity() -> None:
    plan = ProcessPlan({"args": ["x"], "cwd": "/"})
    plan.take_exec_affinity({"execCPUAffinity": {"initial": "0,2-3"}})
    assert list(plan.affinity) == [[0, 2, 3], None]
    plan.take_exec_affinity({"execCPUAffinity": {"initial": "", "final": "1"}})
    assert list(plan.affinity) == [None, [1]]


@pytest.mark.parametrize("text", ["x", "1-", "-1", "3-2", "0,,1", "0-99999999999"])
def test_what_is_no_list_of_processors(text: str) -> None:
    with pytest.raises(InvalidSpec, match=r"process\.execCPUAffinity\.final"):
        ProcessPlan({"args": ["x"], "cwd": "/"}).take_exec_affinity({"execCPUAffinity": {"final": text}})


def test_memory_policy() -> None:
    policy = memorypolicy.plan({"mode": "MPOL_BIND", "nodes": "0,2-3", "flags": ["MPOL_F_STATIC_NODES"]})
    assert policy is not None
    assert (policy.mode, policy.nodes) == (2 | 1 << 15, 0b1101)
    assert memorypolicy.plan(None) is None


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        ({}, "linux.memoryPolicy.mode: invalid memory policy mode"),
        ({"nodes": "0"}, "linux.memoryPolicy.mode: invalid memory policy mode"),
        ({"mode": "INTERLEAVE"}, "linux.memoryPolicy.mode: invalid memory policy mode"),
        ({"mode": "MPOL_BIND", "flags": ["x"]}, "linux.memoryPolicy.flags: invalid memory policy flag"),
        ({"mode": "MPOL_BIND", "nodes": "0-9876543210"}, "linux.memoryPolicy.nodes: invalid memory policy node"),
        ({"mode": "MPOL_BIND", "nodes": "1-0"}, "linux.memoryPolicy.nodes: invalid memory policy nodes"),
        ({"mode": "MPOL_BIND", "nodes": "a"}, "linux.memoryPolicy.nodes: invalid memory policy nodes"),
        ({"mode": "MPOL_BIND", "nodes": "²"}, "linux.memoryPolicy.nodes: invalid memory policy nodes"),
    ],
)
def test_memory_policies_refused(policy: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        memorypolicy.plan(policy)
    assert caught.value.message.startswith(text)


def test_an_order_travels_in_two_parts() -> None:
    order = {"id": "a", "bundle": "/b", "spec": example(), "socket": "/s", "control_fd": 0}
    own, details = zygote.unpack_packet(zygote.pack_packet(*zygote.pack_order(order)), [])
    assert set(own) == {"id", "socket", "control_fd", "birth"}
    assert own["birth"]["cgroup"] == "/davit/a"
    assert b'"spec"' in details


def test_state_for_hooks() -> None:
    plan = ContainerPlan("a", example() | {"annotations": {"k": "v"}}, "/b")
    state = plan.state("creating", 5)
    assert (state["id"], state["status"], state["pid"], state["bundle"]) == ("a", "creating", 5, "/b")
    assert state["annotations"] == {"k": "v"}


def test_labels_of_new_filesystems() -> None:
    label = "system_u:object_r:container_file_t:s0:c344,c805"
    assert mounts.labelled("mode=755", label) == f'mode=755,context="{label}"'
    assert mounts.labelled("", label) == f'context="{label}"'
    assert mounts.labelled("mode=755", "") == "mode=755"
