"""Namespaces in combinations, and what remains without one: config-linux.md "Namespaces", config.md "Root"."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.conformance.runtime.conftest import Bundle, Runtime

pytestmark = pytest.mark.root


def in_user_namespace(bundle: Bundle, first: int = 0, size: int = 65536) -> None:
    """One whose id `first` is 100000 outside, with a rootfs that belongs to it."""
    bundle.add_namespace("user")
    mapping = [{"containerID": first, "hostID": 100000, "size": size}]
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = mapping
    for path in [bundle.directory, *bundle.directory.parents]:
        if path.owner() == "root" and str(path).startswith("/tmp/pytest"):
            path.chmod(0o755)
    for path in [bundle.rootfs, *bundle.rootfs.rglob("*")]:
        os.lchown(path, 100000, 100000)


class TestUserNamespace:
    def test_one_without_root(self, oci: Runtime, bundle: Bundle) -> None:
        if not oci.is_ours:
            pytest.skip("runc 1.1 wants root to be mapped")
        in_user_namespace(bundle, first=1000, size=1)
        bundle.process["user"] = {"uid": 1000, "gid": 1000}
        pts = next(mount for mount in bundle.spec["mounts"] if mount["destination"] == "/dev/pts")
        pts["options"].remove("gid=5")
        assert oci.output(bundle, "id -u; id -g").split() == ["1000", "1000"]
        container = oci.running(bundle)
        assert oci.call("exec", container, "id", "-u").out == "1000\n"

    def test_with_a_time_namespace(self, oci: Runtime, bundle: Bundle) -> None:
        if not oci.is_ours:
            pytest.skip("runc 1.1 has no time namespaces")
        in_user_namespace(bundle)
        bundle.add_namespace("time")
        bundle.linux["timeOffsets"] = {"monotonic": {"secs": 7881, "nanosecs": 2718281}}
        assert "monotonic 7881 2718281" in " ".join(oci.output(bundle, "cat /proc/self/timens_offsets").split())
        container = oci.running(bundle)
        assert oci.call("exec", container, "cat", "/proc/self/timens_offsets").lines[0].split()[1] == "7881"

    def test_sources_that_its_root_cannot_reach(self, oci: Runtime, bundle: Bundle) -> None:
        in_user_namespace(bundle)
        source = bundle.directory / "private" / "inside"
        source.mkdir(parents=True)
        (source / "file").write_text("seen")
        source.parent.chmod(0o700)
        bundle.spec["mounts"].append({"destination": "/mnt/x", "source": str(source), "options": ["bind"]})
        assert oci.output(bundle, "cat /mnt/x/file") == "seen"

    def test_groups_are_mounted_after_a_sys_of_the_hosts(self, oci: Runtime, bundle: Bundle) -> None:
        if not oci.is_ours:
            pytest.skip("runc 1.1 looks for the hierarchies in what it has just mounted")
        in_user_namespace(bundle)
        for mount in bundle.spec["mounts"]:
            if mount["destination"] == "/sys":
                mount.update(type="bind", source="/sys", options=["rbind"])
        bundle.spec["mounts"].append({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"})
        assert oci.run(bundle).code == 0


class TestNoMountNamespace:
    def test_the_root_is_the_rootfs_all_the_same(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.without_namespace("mount")
        bundle.linux["maskedPaths"] = bundle.linux["readonlyPaths"] = []
        (bundle.rootfs / "mark").write_text("here")
        bundle.shell("cat /mark; ls -d /proc/self /dev/pts/ptmx")
        bundle.spec["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "echo x >> hook"]}]}
        try:
            assert oci.run(bundle).out.startswith("here")
            if oci.is_ours:  # runc 1.1 runs it twice
                assert (bundle.directory / "hook").read_text() == "x\n"
        finally:
            subprocess.run(["umount", "-R", "-l", str(bundle.rootfs)], check=True)


class TestNoPivot:
    def test_a_user_namespace_inside_cannot_mount_what_was_masked(self, oci: Runtime, bundle: Bundle) -> None:
        os.symlink("busybox", bundle.rootfs / "bin" / "unshare")
        for name in ("bounding", "permitted"):
            bundle.process["capabilities"][name] = [*bundle.process["capabilities"][name], "CAP_SETFCAP"]
        bundle.process["args"] = ["unshare", "-mrpf", "sh", "-c", "mount -t proc none /proc && echo mounted"]
        result = oci.run(bundle, "--no-pivot")
        assert (result.code, result.out) == (1, ""), result
        assert "mount: permission denied" in result.err

    def test_the_root_is_the_rootfs(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.shell("cd /; while cd .. && test $(stat -c %i .) != $(stat -c %i /); do :; done; ls bin/busybox")
        assert oci.run(bundle, "--no-pivot").out == "bin/busybox\n"


class TestMountTargets:
    def test_proc_is_guarded_in_a_bundle_reached_by_a_link(self, oci: Runtime, bundle: Bundle) -> None:
        if not oci.is_ours:
            pytest.skip("runc 1.1 looks at the path as it is given")
        link = oci.directory / "link"
        link.symlink_to(bundle.directory)
        bundle.spec["mounts"].append({"destination": "/proc/sys", "type": "tmpfs", "source": "x"})
        bundle.write()
        result = oci.call("run", "-b", str(link), oci.new_id())
        assert result.code == 1


class TestScheduler:
    def test_an_exec_has_the_containers(self, oci: Runtime, bundle: Bundle) -> None:
        if not oci.is_ours:
            pytest.skip("runc 1.1 is older than the field")
        bundle.process["scheduler"] = {"policy": "SCHED_BATCH", "nice": 19}
        container = oci.running(bundle)
        found = oci.call("exec", container, "sh", "-c", "cut -d' ' -f19,41 /proc/self/stat").out
        assert found.split() == ["19", "3"]

    def test_a_deadline_needs_all_processors(self, oci: Runtime, bundle: Bundle) -> None:
        if not oci.is_ours or (os.cpu_count() or 1) < 2:
            pytest.skip("runc 1.1 is older than the field")
        bundle.linux["resources"]["cpu"] = {"cpus": "0"}
        bundle.process["scheduler"] = {
            "policy": "SCHED_DEADLINE",
            "runtime": 42000,
            "deadline": 1000000,
            "period": 1000000,
        }
        assert "process scheduler can't be used together with AllowedCPUs" in oci.refuses(bundle).err


class TestMemoryPolicy:
    def test_run_and_exec_have_it(self, oci: Runtime, bundle: Bundle) -> None:
        if not oci.is_ours:
            pytest.skip("runc has it from 1.4 on")
        bundle.linux["memoryPolicy"] = {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}
        script = "head -n 1 /proc/self/numa_maps"
        assert oci.output(bundle, script).split()[1] == "bind=static:0"
        container = oci.running(bundle)
        assert oci.call("exec", container, "sh", "-c", script).out.split()[1] == "bind=static:0"

    def test_what_the_kernel_refuses(self, oci: Runtime, bundle: Bundle) -> None:
        if not oci.is_ours:
            pytest.skip("runc has it from 1.4 on")
        flags = ["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"]
        bundle.linux["memoryPolicy"] = {"mode": "MPOL_BIND", "nodes": "0", "flags": flags}
        assert "set_mempolicy" in oci.refuses(bundle).err
