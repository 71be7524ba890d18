"""config-linux.md: namespaces, devices, control groups, sysctl, seccomp, paths."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.runtime.conftest import Bundle, Runtime, eventually

pytestmark = pytest.mark.root
MEGA = 1024 * 1024


class TestDefaultFilesystems:
    def test_links_and_devices_that_must_be_there(self, oci: Runtime, bundle: Bundle) -> None:
        script = "readlink /dev/fd /dev/stdin /dev/stdout /dev/stderr; readlink /dev/ptmx"
        script = "for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done"
        assert oci.output(bundle, script).split() == [
            "/proc/self/fd",
            "/proc/self/fd/0",
            "/proc/self/fd/1",
            "/proc/self/fd/2",
            "pts/ptmx",
        ]
        script = "for d in null zero full random urandom tty; do stat -c '%t:%T %a' /dev/$d; done"
        assert oci.output(bundle, script).splitlines() == [
            "1:3 666",
            "1:5 666",
            "1:7 666",
            "1:8 666",
            "1:9 666",
            "5:0 666",
        ]

    def test_proc_is_the_pid_namespaces(self, oci: Runtime, bundle: Bundle) -> None:
        assert oci.output(bundle, "echo $$; ls -d /proc/[0-9]*").split()[0] == "1"


class TestNamespaces:
    @pytest.mark.parametrize(
        ("kind", "file"),
        [("pid", "pid"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("mount", "mnt"), ("cgroup", "cgroup")],
    )
    def test_a_new_one_is_another_than_the_runtimes(self, oci: Runtime, bundle: Bundle, kind: str, file: str) -> None:
        bundle.add_namespace(kind)
        assert oci.output(bundle, f"readlink /proc/self/ns/{file}") != os.readlink(f"/proc/self/ns/{file}")

    @pytest.mark.parametrize(("kind", "file"), [("network", "net"), ("ipc", "ipc"), ("cgroup", "cgroup")])
    def test_without_one_it_is_the_runtimes(self, oci: Runtime, bundle: Bundle, kind: str, file: str) -> None:
        bundle.without_namespace(kind)
        if kind == "network":
            # sysfs of another's network namespace cannot be mounted, and is not needed here
            bundle.spec["mounts"] = [mount for mount in bundle.spec["mounts"] if mount["destination"] != "/sys"]
        assert oci.output(bundle, f"readlink /proc/self/ns/{file}") == os.readlink(f"/proc/self/ns/{file}")

    @pytest.mark.parametrize(("kind", "file"), [("pid", "pid"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts")])
    def test_one_by_path_is_joined(self, oci: Runtime, bundle: Bundle, kind: str, file: str) -> None:
        pid = oci.state(oci.running(bundle))["pid"]
        joining = oci.bundle()
        joining.add_namespace(kind, f"/proc/{pid}/ns/{file}")
        if kind == "uts":
            del joining.spec["hostname"]
        expected = os.readlink(f"/proc/{pid}/ns/{file}")
        assert oci.output(joining, f"readlink /proc/self/ns/{file}") == expected

    def test_a_path_of_another_kind_must_be_an_error(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.add_namespace("network", "/proc/self/ns/uts")
        oci.refuses(bundle)

    def test_a_path_that_is_not_there_must_be_an_error(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.add_namespace("network", "/no/such/namespace")
        oci.refuses(bundle)

    def test_duplicates_must_be_an_error(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.linux["namespaces"].append({"type": "pid"})
        oci.refuses(bundle)


class TestUserNamespaceMappings:
    def test_ids_are_mapped(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.add_namespace("user")
        mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
        bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = mapping
        for path in [bundle.directory, *bundle.directory.parents]:
            if path.owner() == "root" and str(path).startswith("/tmp/pytest"):
                path.chmod(0o755)
        for path in [bundle.rootfs, *bundle.rootfs.rglob("*")]:
            os.lchown(path, 100000, 100000)
        found = oci.output(bundle, "id -u; awk '{print $1, $2, $3}' /proc/self/uid_map; stat -c %u /bin")
        assert found.splitlines() == ["0", "0 100000 65536", "0"]

    def test_without_mappings_the_process_has_our_id_and_no_other(self, oci: Runtime, bundle: Bundle) -> None:
        if not oci.is_ours:
            pytest.skip("runc wants mappings; crun does this")
        bundle.add_namespace("user")
        bundle.process["user"] = {"uid": 7, "gid": 8}
        bundle.spec["mounts"] = [mount for mount in bundle.spec["mounts"] if mount["type"] != "devpts"]  # of group 5
        found = oci.output(bundle, "id; awk '{print $1, $2, $3}' /proc/self/uid_map /proc/self/gid_map")
        assert found.splitlines() == ["uid=7 gid=8", "7 0 1", "8 0 1"]

    def test_all_ids_can_be_mapped(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.add_namespace("user")
        bundle.linux["uidMappings"] = [{"containerID": 0, "hostID": 0, "size": 4294967295}]
        bundle.linux["gidMappings"] = bundle.linux["uidMappings"]
        assert oci.output(bundle, "awk '{print $1, $2, $3}' /proc/self/uid_map") == "0 0 4294967295"

    def test_mappings_without_the_namespace_are_an_error(self, oci: Runtime, bundle: Bundle) -> None:
        if not oci.is_ours:
            pytest.skip("runc 1.1 takes and ignores them; nothing is accepted and ignored here")
        bundle.linux["uidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 10}]
        oci.refuses(bundle)


class TestTimeOffsets:
    def test_clocks_are_moved(self, oci: Runtime, bundle: Bundle) -> None:
        if not oci.is_ours:
            pytest.skip("runc 1.1 has no time namespaces")
        bundle.add_namespace("time")
        bundle.linux["timeOffsets"] = {"boottime": {"secs": 1_000_000}}
        assert float(oci.output(bundle, "cat /proc/uptime").split()[0]) > 1_000_000


class TestDevices:
    def test_they_are_made_as_asked(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.linux["devices"] = [
            {"path": "/dev/test", "type": "c", "major": 1, "minor": 11, "fileMode": 0o640, "uid": 5, "gid": 6},
            {"path": "/dev/deep/block", "type": "b", "major": 7, "minor": 99, "fileMode": 0o600},
            {"path": "/dev/fifo", "type": "p", "fileMode": 0o622},
        ]
        script = "stat -c '%F %t:%T %a %u:%g' /dev/test /dev/deep/block; stat -c '%F %a' /dev/fifo"
        assert oci.output(bundle, script).splitlines() == [
            "character special file 1:b 640 5:6",
            "block special file 7:63 600 0:0",
            "fifo 622",
        ]

    def test_another_file_in_the_place_must_be_an_error(self, oci: Runtime, bundle: Bundle) -> None:
        if not oci.is_ours:
            pytest.skip("runc leaves the file there and says nothing")
        bundle.linux["devices"] = [{"path": "/etc/passwd", "type": "c", "major": 1, "minor": 3}]
        assert "/etc/passwd exists, and is not the device asked for" in oci.refuses(bundle).err
        assert (bundle.rootfs / "etc/passwd").is_file()

    def test_the_device_itself_may_be_there(self, oci: Runtime, bundle: Bundle) -> None:
        os.mknod(bundle.rootfs / "etc" / "zero", stat.S_IFCHR | 0o600, os.makedev(1, 5))
        bundle.linux["devices"] = [{"path": "/etc/zero", "type": "c", "major": 1, "minor": 5}]
        assert oci.output(bundle, "stat -c '%F %t:%T' /etc/zero") == "character special file 1:5"


def hierarchy(controller: str) -> Path:
    """Mount point of a v1 controller; skips on version 2, where files are other ones."""
    path = Path("/sys/fs/cgroup") / controller
    if not path.is_dir():
        pytest.skip(f"there is no version 1 hierarchy of {controller}")
    return path


class TestControlGroups:
    @pytest.fixture
    def group(self, bundle: Bundle, request: pytest.FixtureRequest) -> Any:
        parent = f"/conformance-{os.getpid()}"
        bundle.linux["cgroupsPath"] = f"{parent}/container"
        yield lambda controller: hierarchy(controller) / parent[1:] / "container"
        for base in Path("/sys/fs/cgroup").iterdir():
            for path in (base / parent[1:] / "container", base / parent[1:]):
                if path.is_dir():
                    path.rmdir()

    @pytest.fixture(autouse=True)
    def cleaned_in_order(self, group: Any, oci: Runtime) -> Any:
        """Containers go before their groups' parents."""
        yield
        oci.clean()

    @pytest.mark.parametrize(
        ("resources", "controller", "file", "expected"),
        [
            ({"memory": {"limit": 64 * MEGA}}, "memory", "memory.limit_in_bytes", str(64 * MEGA)),
            (
                {"memory": {"limit": 64 * MEGA, "swap": 128 * MEGA}},
                "memory",
                "memory.memsw.limit_in_bytes",
                str(128 * MEGA),
            ),
            ({"memory": {"reservation": 32 * MEGA}}, "memory", "memory.soft_limit_in_bytes", str(32 * MEGA)),
            ({"memory": {"swappiness": 42}}, "memory", "memory.swappiness", "42"),
            ({"memory": {"disableOOMKiller": True}}, "memory", "memory.oom_control", "oom_kill_disable 1"),
            ({"cpu": {"shares": 512}}, "cpu", "cpu.shares", "512"),
            ({"cpu": {"quota": 30000, "period": 60000}}, "cpu", "cpu.cfs_quota_us", "30000"),
            ({"cpu": {"quota": 30000, "period": 60000}}, "cpu", "cpu.cfs_period_us", "60000"),
            ({"cpu": {"cpus": "0"}}, "cpuset", "cpuset.cpus", "0"),
            ({"cpu": {"mems": "0"}}, "cpuset", "cpuset.mems", "0"),
            ({"pids": {"limit": 123}}, "pids", "pids.max", "123"),
            ({"pids": {"limit": -1}}, "pids", "pids.max", "max"),
        ],
    )
    def test_limits_are_written(
        self,
        oci: Runtime,
        bundle: Bundle,
        group: Any,
        resources: dict[str, Any],
        controller: str,
        file: str,
        expected: str,
    ) -> None:
        hierarchy(controller)
        bundle.linux["resources"].update(resources)
        oci.running(bundle)
        assert (group(controller) / file).read_text().splitlines()[0] == expected

    def test_the_process_is_in_every_hierarchy(self, oci: Runtime, bundle: Bundle, group: Any) -> None:
        pid = oci.state(oci.running(bundle))["pid"]
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            assert line.endswith("/container"), line
        assert str(pid) in (group("pids") / "cgroup.procs").read_text().split()

    def test_device_rules(self, oci: Runtime, bundle: Bundle) -> None:
        rules = bundle.linux["resources"]["devices"]
        # loop-control: there without hardware, and open to whoever the rules let
        bundle.linux["devices"] = [{"path": "/dev/lc", "type": "c", "major": 10, "minor": 237, "fileMode": 0o666}]
        script = "dd if=/dev/lc count=0 2>/dev/null && echo allowed || echo denied; cat /dev/null && echo null"
        assert oci.output(bundle, script).split() == ["denied", "null"]
        rules.append({"allow": True, "type": "c", "major": 10, "minor": 237, "access": "r"})
        assert oci.output(bundle, script).split() == ["allowed", "null"]

    @pytest.mark.parametrize(
        "resources", [{"cpu": {"cpus": "4000"}}, {"memory": {"limit": "lots"}}, {"memory": {"swappiness": 300}}]
    )
    def test_what_cannot_be_applied_must_be_an_error(
        self, oci: Runtime, bundle: Bundle, group: Any, resources: dict[str, Any]
    ) -> None:
        bundle.linux["resources"].update(resources)
        oci.refuses(bundle)
        assert not group("pids").exists()

    def test_update_changes_a_running_container(self, oci: Runtime, bundle: Bundle, group: Any) -> None:
        container = oci.running(bundle)
        assert oci.call("update", "--memory", str(48 * MEGA), "--pids-limit", "77", container).code == 0
        assert (group("memory") / "memory.limit_in_bytes").read_text().strip() == str(48 * MEGA)
        assert (group("pids") / "pids.max").read_text().strip() == "77"
        result = oci.call("update", "-r", "-", container, stdin='{"cpu": {"shares": 333}}')
        assert result.code == 0, result
        assert (group("cpu") / "cpu.shares").read_text().strip() == "333"

    def test_events_have_the_statistics(self, oci: Runtime, bundle: Bundle, group: Any) -> None:
        import json

        container = oci.running(bundle)

        def told() -> Any:
            return json.loads(oci.call("events", "--stats", container).out)

        # runc's start returns while its init still has threads
        eventually(lambda: told()["data"]["pids"]["current"] == 1)
        event = told()
        assert (event["type"], event["id"]) == ("stats", container)
        assert event["data"]["memory"]["usage"]["usage"] > 0
        assert event["data"]["cpu"]["usage"]["total"] > 0


class TestSysctl:
    def test_they_are_set(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.linux["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.msgmax": "4096"}
        assert oci.output(bundle, "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax").split() == ["1", "4096"]

    @pytest.mark.parametrize("name", ["vm.swappiness", "kernel.hostname", "kernel.core_pattern"])
    def test_those_of_the_machine_must_be_refused(self, oci: Runtime, bundle: Bundle, name: str) -> None:
        bundle.linux["sysctl"] = {name: "1"}
        oci.refuses(bundle)

    def test_those_of_a_shared_namespace_must_be_refused(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.without_namespace("network")
        bundle.linux["sysctl"] = {"net.ipv4.ip_forward": "1"}
        oci.refuses(bundle)


class TestSeccomp:
    def rule(self, bundle: Bundle, action: str = "SCMP_ACT_ERRNO", **more: Any) -> None:
        bundle.linux["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64"],
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": action, **more}],
        }

    def test_a_call_is_refused(self, oci: Runtime, bundle: Bundle) -> None:
        self.rule(bundle)
        result = oci.output(bundle, "mkdir /tmp/x 2>&1 || true; grep Seccomp: /proc/self/status")
        assert os.strerror(errno.EPERM) in result
        assert result.split()[-1] == "2"

    def test_with_an_error_number(self, oci: Runtime, bundle: Bundle) -> None:
        self.rule(bundle, errnoRet=errno.EXDEV)
        assert "nvalid cross-device" in oci.output(bundle, "mkdir /tmp/x 2>&1 || true")

    def test_with_an_argument(self, oci: Runtime, bundle: Bundle) -> None:
        self.rule(bundle)
        bundle.linux["seccomp"]["syscalls"] = [
            {
                "names": ["kill"],
                "action": "SCMP_ACT_ERRNO",
                "errnoRet": errno.EXDEV,
                "args": [{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}],
            }
        ]
        script = "kill -12 2 2>/dev/null; kill -0 $$ && echo zero; kill -10 $$ 2>/dev/null || echo refused"
        assert oci.output(bundle, script).split() == ["zero", "refused"]

    def test_killing(self, oci: Runtime, bundle: Bundle) -> None:
        self.rule(bundle, action="SCMP_ACT_KILL_PROCESS")
        bundle.shell("mkdir /tmp/x; echo survived")
        assert "survived" in oci.run(bundle).out
        assert not (bundle.rootfs / "tmp" / "x").exists()

    def test_without_no_new_privileges(self, oci: Runtime, bundle: Bundle) -> None:
        self.rule(bundle)
        bundle.process["noNewPrivileges"] = False
        bundle.process["user"] = {"uid": 1000, "gid": 1000}
        assert "denied" not in oci.output(bundle, "grep Seccomp: /proc/self/status")
        assert oci.output(bundle, "grep Seccomp: /proc/self/status").split()[-1] == "2"

    @pytest.mark.parametrize(
        "broken",
        [{"defaultAction": "SCMP_ACT_NONE"}, {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_VAX"]}],
    )
    def test_what_is_not_known_must_be_an_error(self, oci: Runtime, bundle: Bundle, broken: dict[str, Any]) -> None:
        bundle.linux["seccomp"] = {**broken, "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}
        oci.refuses(bundle)

    def test_unknown_calls_are_no_reason_to_fail(self, oci: Runtime, bundle: Bundle) -> None:
        self.rule(bundle)
        bundle.linux["seccomp"]["syscalls"][0]["names"].append("call_of_tomorrow")
        assert oci.run(bundle).code == 0

    def test_exec_is_filtered_too(self, oci: Runtime, bundle: Bundle) -> None:
        self.rule(bundle)
        container = oci.running(bundle)
        result = oci.call("exec", container, "sh", "-c", "mkdir /tmp/x 2>&1; grep Seccomp: /proc/self/status")
        assert "not permitted" in result.out
        assert result.out.split()[-1] == "2"


class TestRootfsPropagation:
    @pytest.mark.parametrize("mode", ["private", "slave", "rprivate", "rslave"])
    def test_mounts_inside_stay_inside(self, oci: Runtime, bundle: Bundle, mode: str) -> None:
        bundle.linux["rootfsPropagation"] = mode
        line = oci.output(bundle, "grep ' / / ' /proc/self/mountinfo || grep '/rootfs / ' /proc/self/mountinfo")
        assert "shared:" not in line

    def test_an_unknown_mode_must_be_an_error(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.linux["rootfsPropagation"] = "sideways"
        oci.refuses(bundle)


class TestMaskedPaths:
    def test_they_must_not_be_readable(self, oci: Runtime, bundle: Bundle) -> None:
        (bundle.rootfs / "secret").write_text("secret")
        (bundle.rootfs / "secrets").mkdir()
        (bundle.rootfs / "secrets" / "one").write_text("secret")
        bundle.linux["maskedPaths"] = ["/secret", "/secrets", "/not/there", "/proc/kallsyms"]
        assert oci.output(bundle, "cat /secret; ls /secrets; wc -c < /proc/kallsyms") == "0"

    def test_the_paths_must_be_absolute(self, oci: Runtime, bundle: Bundle) -> None:
        if not oci.is_ours:
            pytest.skip("runc 1.1 takes them as they are; the specification says MUST be absolute")
        bundle.linux["maskedPaths"] = ["proc/kcore"]
        oci.refuses(bundle)


class TestReadonlyPaths:
    def test_they_must_not_be_writable(self, oci: Runtime, bundle: Bundle) -> None:
        (bundle.rootfs / "fixed").mkdir()
        bundle.linux["readonlyPaths"] = ["/fixed", "/not/there", "/proc/sys"]
        script = "touch /fixed/x 2>&1; echo x 2>/dev/null > /proc/sys/kernel/domainname || echo no"
        assert "Read-only file system" in oci.output(bundle, script)


class TestPersonality:
    def test_it_is_set(self, oci: Runtime, bundle: Bundle) -> None:
        if not oci.is_ours:
            pytest.skip("runc 1.1 is older than the field")
        bundle.linux["personality"] = {"domain": "LINUX32"}
        assert oci.output(bundle, "cat /proc/self/personality").endswith("8")


class TestSchedulingOfTheProcess:
    def test_io_priority(self, oci: Runtime, bundle: Bundle) -> None:
        if not oci.is_ours:
            pytest.skip("runc 1.1 is older than the field")
        bundle.process["ioPriority"] = {"class": "IOPRIO_CLASS_BE", "priority": 3}
        assert oci.output(bundle, "ionice -p $$") == "best-effort: prio 3"

    def test_scheduler(self, oci: Runtime, bundle: Bundle) -> None:
        if not oci.is_ours:
            pytest.skip("runc 1.1 is older than the field")
        bundle.process["scheduler"] = {"policy": "SCHED_BATCH", "nice": 5}
        # fields 19 and 41 of proc_pid_stat(5): nice, policy
        assert oci.output(bundle, "awk '{print $19, $41}' /proc/self/stat") == "5 3"
