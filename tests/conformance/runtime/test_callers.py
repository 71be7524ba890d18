"""What callers and specs may say in more than one way: paths of the caller's, groups that are there, odd values."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.executor.runtime import cgroups

from .conftest import Bundle, Runtime, eventually

pytestmark = pytest.mark.root


@pytest.fixture
def group(bundle: Bundle) -> Iterator[str]:
    """The path of a control group that exists before its container."""
    path = f"/conf-{os.getpid()}-{bundle.directory.parent.name[-12:]}"
    backend = cgroups.detect()
    made = backend.create(path, {})
    bundle.linux["cgroupsPath"] = path
    yield path
    if made.exists():  # the container's end may have been its end
        made.thaw()
        made.kill()
    made.remove()


class TestPaths:
    @pytest.mark.parametrize("filtered", [False, True])
    def test_they_are_the_callers(self, oci: Runtime, bundle: Bundle, filtered: bool) -> None:
        """A filter makes ours start itself once more; the arguments must mean the same then."""
        if filtered:
            rules = [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]
            bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}
            if not oci.is_ours:
                bundle.linux["seccomp"]["architectures"] = ["SCMP_ARCH_X86_64"]
        bundle.write()
        here = bundle.directory.parent / "here"
        here.mkdir()
        relative = os.path.relpath(bundle.directory, here)
        options = ("--log", "it.log", "--debug", "run", "-b", relative, "--pid-file", "it.pid")
        result = oci.call(*options, oci.new_id(), cwd=here)
        assert result.code == 0, (result, (here / "it.log").read_text())
        assert sorted(one.name for one in here.iterdir()) == ["it.log", "it.pid"]
        assert sorted(one.name for one in bundle.directory.iterdir()) == ["config.json", "rootfs"]
        assert int((here / "it.pid").read_text()) > 1

    def test_hooks_in_the_container_run_in_its_root(self, oci: Runtime, bundle: Bundle) -> None:
        told = bundle.directory / "told"
        script = f"pwd > {told}"
        bundle.spec["hooks"] = {"createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}
        assert oci.run(bundle).code == 0
        assert Path(told.read_text().strip()) == bundle.rootfs

    def test_a_destination_that_begins_with_the_root(self, oci: Runtime, bundle: Bundle) -> None:
        if not oci.is_ours:
            pytest.skip("runc 1.1 looks for it once more below the root")
        bundle.spec["mounts"].append({"destination": f"{bundle.rootfs}/mnt", "type": "tmpfs", "source": "tmpfs"})
        assert oci.output(bundle, "grep -c ' /mnt tmpfs' /proc/mounts") == "1"


class TestGroups:
    @pytest.mark.parametrize("command", ["run", "create"])
    def test_a_frozen_one_is_refused(self, oci: Runtime, bundle: Bundle, group: str, command: str) -> None:
        cgroups.detect().open(group).freeze()
        bundle.write()
        result = oci.call(command, "-b", str(bundle.directory), oci.new_id())
        assert (result.code, "container's cgroup unexpectedly frozen" in result.err) == (1, True), result
        assert oci.call("state", oci.ids[-1]).code != 0

    def test_one_that_is_not_empty_is_told_of(self, oci: Runtime, bundle: Bundle, group: str) -> None:
        child = os.fork()
        if child == 0:
            for directory in set(cgroups.detect().open(group).paths.values()):
                Path(directory, "cgroup.procs").write_text("0")
            os.execv("/bin/sleep", ["sleep", "300"])
        try:
            eventually(lambda: cgroups.detect().open(group).pids() == [child])
            eventually(lambda: Path(f"/proc/{child}/comm").read_text() == "sleep\n")
            result = oci.run(bundle)
            assert (result.code, "container's cgroup is not empty: 1 process(es) found" in result.err) == (0, True)
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)


class TestValues:
    @pytest.mark.parametrize("access", ["rwa", "rr", "rwmx"])
    def test_letters_of_device_access_that_mean_nothing(self, oci: Runtime, bundle: Bundle, access: str) -> None:
        rule = {"allow": True, "type": "c", "major": 1, "minor": 3, "access": access}
        bundle.linux["resources"]["devices"].append(rule)
        assert oci.run(bundle).code == 0

    def test_device_access_is_said(self, oci: Runtime, bundle: Bundle) -> None:
        rule = {"allow": True, "type": "c", "major": 1, "minor": 3, "access": ""}
        bundle.linux["resources"]["devices"].append(rule)
        assert "device access at 1 field cannot be empty" in oci.refuses(bundle).err

    def test_no_limit_of_processes_is_none(self, oci: Runtime, bundle: Bundle, group: str) -> None:
        bundle.linux["resources"]["pids"] = {"limit": 0}
        container = oci.running(bundle)
        assert (Path(cgroups.detect().open(group).paths["pids"]) / "pids.max").read_text() == "max\n"
        oci.stop(container)

    def test_ambient_capabilities_that_cannot_be(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.process["capabilities"]["ambient"] = ["CAP_KILL"]
        bundle.shell("grep CapAmb /proc/self/status")
        result = oci.run(bundle)
        assert result.out.split() == ["CapAmb:", f"{0:016x}"]
        if oci.is_ours:  # later versions of runc say so too
            assert "can't raise ambient capability CAP_KILL" in result.err

    def test_an_empty_memory_policy(self, oci: Runtime, bundle: Bundle) -> None:
        if not oci.is_ours:
            pytest.skip("runc 1.1 does not know it")
        bundle.linux["memoryPolicy"] = {}
        assert "linux.memoryPolicy.mode" in oci.refuses(bundle).err

    def test_realtime_without_a_group_of_its_own(self, oci: Runtime, bundle: Bundle) -> None:
        if not os.path.exists("/sys/fs/cgroup/cpu/cpu.rt_runtime_us"):
            pytest.skip("this kernel has no groups with realtime")
        bundle.linux.pop("cgroupsPath", None)
        bundle.linux["resources"]["cpu"] = {"realtimeRuntime": 1000, "realtimePeriod": 1_000_000}
        assert oci.run(bundle).code == 0

    @pytest.mark.parametrize("policy", ["SCHED_BATCH", "SCHED_DEADLINE"])
    @pytest.mark.parametrize("flags", [[], ["SCHED_FLAG_RESET_ON_FORK"]])
    def test_the_policy_of_an_exec(self, oci: Runtime, bundle: Bundle, policy: str, flags: list[str]) -> None:
        """A fork on its way to the program resets it, or is refused."""
        if not oci.is_ours:
            pytest.skip("runc 1.1 does not know it")
        container = oci.running(bundle)
        wanted = {"policy": policy, "flags": flags}
        if policy == "SCHED_DEADLINE":
            wanted |= {"runtime": 10_000_000, "deadline": 20_000_000, "period": 30_000_000}  # type: ignore[dict-item]
        process = bundle.process | {"args": ["sleep", "300"], "scheduler": wanted}
        file = bundle.directory / "process.json"
        file.write_text(json.dumps(process))
        pid_file = bundle.directory / "pid"
        result = oci.call("exec", "-d", "-p", str(file), "--pid-file", str(pid_file), container)
        assert result.code == 0, result
        found = os.sched_getscheduler(int(pid_file.read_text()))
        assert found == {"SCHED_BATCH": 3, "SCHED_DEADLINE": 6}[policy] | (os.SCHED_RESET_ON_FORK if flags else 0)
        oci.stop(container)
