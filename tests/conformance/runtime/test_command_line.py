"""The command line: what other programs and people rely on of runc's options, outputs, exit codes and messages."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.runtime.conftest import Bundle, Runtime, eventually

pytestmark = pytest.mark.root


class TestHelp:
    def test_it_is_on_standard_output(self, oci: Runtime) -> None:
        for arguments in (["--help"], ["help"], []):
            result = oci.call(*arguments)
            assert result.code == 0
            assert result.lines[0] == "NAME:"
            assert result.lines[1].endswith("runc - Open Container Initiative runtime")
        for command in [
            "checkpoint",
            "create",
            "delete",
            "events",
            "exec",
            "kill",
            "list",
            "ps",
            "pause",
            "resume",
            "run",
            "spec",
            "start",
            "state",
        ]:
            result = oci.call(command, "-h")
            assert result.code == 0
            assert f"runc {command} - " in result.lines[1]

    def test_an_unknown_command_has_none(self, oci: Runtime) -> None:
        result = oci.call("foo", "-h")
        assert (result.code, "No help topic for 'foo'" in result.err) == (3, True)

    def test_the_version_names_commit_and_specification(self, oci: Runtime) -> None:
        name, commit, spec = oci.call("--version").lines[:3]
        assert re.match(r".*runc version \d+\.\d+\.\d+", name)
        assert commit.startswith("commit: ")
        assert re.match(r"spec: \d+\.\d+\.\d+", spec)

    @pytest.mark.parametrize("command", ["delete a b", "state", "kill", "pause", "update", "list x", "run --nope x"])
    def test_wrong_usage_shows_it(self, oci: Runtime, command: str) -> None:
        result = oci.call(*command.split())
        assert result.code == 1
        assert result.out.startswith("Incorrect Usage")
        assert "level=error" in result.err


class TestOptions:
    def test_they_may_follow_arguments(self, oci: Runtime, bundle: Bundle) -> None:
        container = oci.running(bundle)
        assert oci.call("update", container, "--pids-limit", "10").code == 0
        assert oci.call("kill", container, "KILL", "--all").code == 0
        oci.reaches(container, "stopped")
        assert oci.call("delete", container, "--force").code == 0

    def test_those_of_an_exec_are_its_commands(self, oci: Runtime, bundle: Bundle) -> None:
        container = oci.running(bundle)
        assert oci.call("exec", container, "echo", "--env", "-d").out == "--env -d\n"

    def test_a_log_that_cannot_be_written_is_an_error(self, oci: Runtime) -> None:
        result = oci.call("--log", "/nonexistent/log", "list")
        assert (result.code, "open /nonexistent/log: no such file or directory" in result.err) == (1, True)
        assert oci.call("--log-format", "xml", "list").code == 1

    def test_debug_says_what_is_being_done(self, oci: Runtime, bundle: Bundle) -> None:
        log = oci.directory / "log"
        bundle.write()
        arguments = ["--debug", "--log-format", "json", "run", "-b", str(bundle.directory), oci.new_id()]
        result = oci.call("--log", str(log), *arguments)
        assert (result.code, result.err) == (0, "")
        records = [json.loads(line) for line in log.read_text().splitlines()]
        assert {"debug"} == {record["level"] for record in records}
        assert any("child process in init()" in record["msg"] for record in records)

    def test_a_missing_preserved_descriptor_is_an_error(self, oci: Runtime, bundle: Bundle) -> None:
        if not oci.is_ours:
            pytest.skip("runc has it from 1.2.6 on; before, it passed on descriptors of its own")
        result = oci.run(bundle, "--preserve-fds", "1")
        assert (result.code, "preserved-fd 0" in result.err) == (1, True)


class TestOptionsOfOthers:
    """What crun has beside runc's options, so that its callers can have this runtime instead."""

    @pytest.fixture(autouse=True)
    def _only_ours(self, oci: Runtime) -> None:
        if not oci.is_ours:
            pytest.skip("runc has them not")

    def test_another_file_than_config_json(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.shell("echo other")
        bundle.write()
        (bundle.directory / "sub").mkdir()
        (bundle.directory / "config.json").rename(bundle.directory / "sub" / "other.json")
        for option in ("--config", "-f"):
            result = oci.call("run", option, "sub/other.json", oci.new_id(), cwd=bundle.directory)
            assert (result.code, result.out) == (0, "other\n"), result
        result = oci.call("run", "--config", "nosuch.json", oci.new_id(), cwd=bundle.directory)
        assert (result.code, "specification file nosuch.json not found" in result.err) == (1, True)

    @pytest.mark.parametrize(
        ("options", "script", "expected"),
        [
            (["bind", "dest-nofollow", "src-nofollow"], "readlink /target", "a-file"),
            (["bind", "dest-nofollow"], "cat /target; grep -c ' /target ' /proc/mounts", "inside1"),
            (["rbind", "copy-symlink"], "readlink /a/link", "a-file"),
        ],
    )
    @pytest.mark.parametrize("with_users", [False, True])
    def test_symbolic_links_as_sources_and_targets_of_mounts(
        self, oci: Runtime, bundle: Bundle, options: list[str], script: str, expected: str, with_users: bool
    ) -> None:
        (bundle.directory / "a-file").write_text("inside")
        (bundle.directory / "link").symlink_to("a-file")
        (bundle.rootfs / "target").symlink_to("nowhere")
        destination = "/a/link" if "copy-symlink" in options else "/target"
        bundle.spec["mounts"].append({"destination": destination, "source": "link", "options": options})
        if with_users:
            bundle.add_namespace("user")
            bundle.linux["uidMappings"] = [{"containerID": 0, "hostID": 0, "size": 100}]
            bundle.linux["gidMappings"] = bundle.linux["uidMappings"]
        assert oci.output(bundle, script) == expected
        assert (bundle.rootfs / "target").is_symlink()

    def test_who_makes_control_groups(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.write()
        arguments = ["run", "-b", str(bundle.directory)]
        assert oci.call("--cgroup-manager", "cgroupfs", *arguments, oci.new_id()).code == 0
        result = oci.call("--cgroup-manager=disabled", *arguments, oci.new_id())
        assert (result.code, "for --cgroup-manager: must be cgroupfs or systemd" in result.err) == (1, True)


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "code", "text"),
        [
            ("state x", 1, "container does not exist"),
            ("exec x true", 255, "exec failed: container does not exist"),
            ("delete x", 1, "container does not exist"),
            ("delete --force x", 0, ""),
            ("run a/b", 1, "run failed: invalid container ID format"),
            ("events --interval 0 x", 1, "container does not exist"),
            ("list -f xml", 1, "invalid format option"),
        ],
    )
    def test_in_words_that_engines_know(self, oci: Runtime, arguments: str, code: int, text: str) -> None:
        bundle = oci.bundle()
        bundle.write()
        result = oci.call(*arguments.split(), cwd=bundle.directory)
        assert (result.code, text in result.err) == (code, True), result

    @pytest.mark.parametrize(
        ("process", "text"),
        [
            ({"args": ["nope"]}, r"exec: \"nope\": executable file not found in $PATH"),
            ({"args": ["/nope"]}, r"exec: \"/nope\": stat /nope: no such file or directory"),
            ({"args": ["/etc"]}, r"exec: \"/etc\": permission denied"),
            ({"cwd": "relative"}, "must be an absolute path"),
            ({"env": ["NAME"]}, r"invalid environment variable: \"NAME\""),
        ],
    )
    def test_of_the_program(self, oci: Runtime, bundle: Bundle, process: dict[str, Any], text: str) -> None:
        bundle.process.update(process)
        result = oci.run(bundle)
        assert (result.code, text in result.err, len(result.err.splitlines())) == (1, True, 1), result

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"process": {"user": {"uid": 4294967295}}}, "uids and gids must be in range"),
            ({"process": {"user": {"additionalGids": [2**31]}}}, "uids and gids must be in range"),
            ({"process": {"user": {"uid": -1}}}, "process.user.uid"),
            ({"process": {"user": {"gid": "root"}}}, "process.user.gid"),
            ({"process": {"args": "true"}}, "process.args"),
            ({"process": {"rlimits": [{"type": "RLIMIT_CORE", "soft": "1", "hard": 1}]}}, "process.rlimits"),
            ({"process": {"terminal": 1}}, "process.terminal"),
            ({"mounts": [5]}, "mounts"),
            ({"linux": {"namespaces": "all"}}, "linux.namespaces"),
            ({"hooks": {"prestart": {"path": "/bin/true"}}}, "hooks"),
            ({"annotations": {"a": 1}}, "annotations"),
        ],
    )
    def test_of_values_of_another_kind(self, oci: Runtime, bundle: Bundle, change: dict[str, Any], field: str) -> None:
        for name, value in change.items():
            bundle.spec[name] = {**bundle.spec.get(name, {}), **value} if isinstance(value, dict) else value
        result = oci.run(bundle)
        assert (result.code, result.out, len(result.err.splitlines())) == (1, "", 1), result
        if oci.is_ours or "range" in field:  # runc's JSON reader has its own names for fields
            assert field in result.err

    def test_of_states(self, oci: Runtime, bundle: Bundle) -> None:
        container = oci.running(bundle)
        assert "cannot start an already running container" in oci.call("start", container).err
        assert "cannot delete container" in oci.call("delete", container).err
        assert "container not paused" in oci.call("resume", container).err
        assert 'unknown signal \\"FOO\\"' in oci.call("kill", container, "FOO").err
        assert oci.call("kill", container, "0").code == 0
        assert oci.call("kill", container, "99").code == 1
        oci.call("pause", container)
        assert "container not running" in oci.call("pause", container).err
        assert "cannot start a container in the paused state" in oci.call("start", container).err
        assert "cannot exec in a paused container" in oci.call("exec", container, "true").err
        oci.call("resume", container)
        oci.stop(container)
        for command in ("kill", "pause", "update"):
            assert "container not running" in oci.call(command, container).err
        assert oci.call("ps", container).code == 0
        assert "cannot exec in a stopped container" in oci.call("exec", container, "true").err


class TestRun:
    def test_the_program_waits_for_the_pid_file(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.spec["root"]["readonly"] = False
        bundle.shell("echo ran > /ran")
        assert oci.run(bundle, "--pid-file", "/nonexistent/pid").code == 1
        assert not (bundle.rootfs / "ran").exists()

    def test_socket_activation_is_for_the_process_it_names(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.process["args"] = ["ls", "/proc/self/fd"]
        bundle.write()
        environment = {**os.environ, "LISTEN_FDS": "1", "LISTEN_PID": "1"}
        with open(os.devnull) as null:
            command = [*oci.command, "run", "-b", str(bundle.directory), oci.new_id()]
            done = subprocess.run(
                ["sh", "-c", 'exec 3<&0; exec "$@"', "sh", *command],
                stdin=null,
                capture_output=True,
                text=True,
                env=environment,
                timeout=30,
                check=True,
            )
        assert done.stdout.split() == ["0", "1", "2", "3"]  # the last is the directory that ls reads

    def test_unknown_capabilities_are_left_out_with_a_warning(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.process["capabilities"]["bounding"] = ["CAP_UNKNOWN", "UNKNOWN_CAP", "CAP_KILL"]
        bundle.shell("grep CapBnd /proc/self/status")
        result = oci.run(bundle)
        assert result.out.split() == ["CapBnd:", f"{1 << 5:016x}"]
        assert "level=warning" in result.err

    def test_state_complies_with_the_runtimes_specification(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.spec["ociVersion"] = "1.0.0"
        container = oci.running(bundle)
        version = next(line for line in oci.call("--version").lines if line.startswith("spec: "))
        assert oci.state(container)["ociVersion"] == version.removeprefix("spec: ")

    def test_affinity_of_the_caller_is_not_the_containers(self, oci: Runtime, bundle: Bundle) -> None:
        if not oci.is_ours:
            pytest.skip("runc has it from 1.3 on")
        everywhere = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(everywhere)})
        try:
            allowed = oci.output(bundle, "grep Cpus_allowed_list /proc/self/status")
        finally:
            os.sched_setaffinity(0, everywhere)
        here = Path("/proc/self/status").read_text().partition("Cpus_allowed_list:")[2].split()[0]
        assert allowed.split()[-1] == here


class TestKill:
    def test_without_a_pid_namespace_it_reaches_those_that_outlive_the_first(
        self, oci: Runtime, bundle: Bundle
    ) -> None:
        bundle.without_namespace("pid")
        container = oci.running(bundle)
        other = oci.directory / "other"
        assert oci.call("exec", "-d", "--pid-file", str(other), container, "sleep", "300").code == 0
        os.kill(oci.state(container)["pid"], signal.SIGKILL)
        oci.reaches(container, "stopped")
        if not oci.is_ours:
            pytest.skip("runc has it from 1.2 on")
        assert oci.call("kill", container, "KILL").code == 0
        eventually(lambda: not running(int(other.read_text())))
        assert "container not running" in oci.call("kill", container, "KILL").err


def running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class TestExec:
    def test_nothing_to_execute(self, oci: Runtime, bundle: Bundle) -> None:
        result = oci.call("exec", oci.running(bundle))
        assert (result.code, result.out) == (255, ""), result
        assert "exec failed: process args cannot be empty" in result.err

    def test_a_pid_file_that_cannot_be_written_ends_it(self, oci: Runtime, bundle: Bundle) -> None:
        container = oci.running(bundle)
        before = oci.call("ps", "-f", "json", container).out
        assert oci.call("exec", "--pid-file", "/nonexistent/pid", container, "sleep", "300").code == 255
        eventually(lambda: oci.call("ps", "-f", "json", container).out == before)

    @pytest.mark.parametrize("text", ["{", "[]", '{"args": ["true"]}', '{"cwd": "/"}'])
    def test_a_process_that_is_none(self, oci: Runtime, bundle: Bundle, text: str) -> None:
        container = oci.running(bundle)
        path = oci.directory / "process.json"
        path.write_text(text)
        result = oci.call("exec", "--process", str(path), container)
        assert (result.code, "exec failed: " in result.err, len(result.err.splitlines())) == (255, True, 1), result

    def test_groups_that_it_may_join(self, oci: Runtime, bundle: Bundle) -> None:
        container = oci.running(bundle)
        for path, text in (
            ("..", "sub cgroup path"),
            ("nowhere", "no such file"),
            ("what:/", "unknown controller"),
        ):
            result = oci.call("exec", "--cgroup", path, container, "true")
            assert (result.code, text in result.err) == (255, True), result
        assert oci.call("exec", "--cgroup", "/", container, "true").code == 0

    def test_it_follows_the_first_process_to_a_group_below(self, oci: Runtime, bundle: Bundle) -> None:
        """Version 2: where controllers are switched on for groups below, the container's own takes no processes."""
        if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
            pytest.skip("this machine has version 1")
        bundle.spec["mounts"].append({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"})
        bundle.add_namespace("cgroup")
        container = oci.running(bundle)
        script = "mkdir /sys/fs/cgroup/below && echo 1 > /sys/fs/cgroup/below/cgroup.procs"
        assert oci.call("exec", container, "sh", "-c", script).code == 0
        assert oci.call("exec", container, "cat", "/proc/self/cgroup").out == "0::/\n"
        script = "echo $$ > /sys/fs/cgroup/below/cgroup.procs; echo +memory > /sys/fs/cgroup/cgroup.subtree_control"
        assert oci.call("exec", container, "sh", "-c", script).code == 0
        assert oci.call("exec", container, "cat", "/proc/self/cgroup").out == "0::/below\n"
        result = oci.call("exec", "--cgroup", "/", container, "true")
        assert (result.code, "resource busy" in result.err) == (255, True), result
        assert oci.call("exec", "--cgroup", "below", container, "cat", "/proc/self/cgroup").out == "0::/below\n"

    def test_affinity_of_its_own(self, oci: Runtime, bundle: Bundle) -> None:
        if not oci.is_ours:
            pytest.skip("runc has it from 1.3 on")
        container = oci.running(bundle)
        last = max(os.sched_getaffinity(0))
        process = {
            "args": ["grep", "Cpus_allowed_list", "/proc/self/status"],
            "cwd": "/",
            "env": ["PATH=/bin"],
            "execCPUAffinity": {"initial": "0", "final": str(last)},
        }
        path = oci.directory / "process.json"
        path.write_text(json.dumps(process))
        assert oci.call("exec", "--process", str(path), container).out.split()[-1] == str(last)


class TestHooks:
    @pytest.mark.parametrize(
        "kind", ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
    )
    def test_the_second_fails(self, oci: Runtime, bundle: Bundle, kind: str) -> None:
        bundle.spec["hooks"] = {kind: [{"path": "/bin/true"}, {"path": "/bin/false"}]}
        result = oci.run(bundle)
        assert result.code == (0 if kind == "poststop" else 1)
        assert "hook #1: " in result.err
        assert "exit status 1" in result.err
        assert oci.call("state", oci.ids[-1]).code != 0

    @pytest.mark.parametrize("kind", ["prestart", "createContainer", "startContainer", "poststart"])
    def test_those_of_the_end_are_run_whoever_fails(self, oci: Runtime, bundle: Bundle, kind: str) -> None:
        end = {"path": "/bin/sh", "args": ["sh", "-c", "cat > end"]}
        bundle.spec["hooks"] = {kind: [{"path": "/bin/false"}], "poststop": [{"path": "/bin/false"}, end]}
        if not oci.is_ours:  # runc 1.1 stops at the first that fails
            bundle.spec["hooks"]["poststop"].pop(0)
        assert oci.run(bundle).code == 1
        state = json.loads((bundle.directory / "end").read_text())
        assert (state["id"], state["status"], state.get("pid", 0)) == (oci.ids[-1], "stopped", 0)

    def test_a_start_whose_poststart_hook_fails_ends_the_container(self, oci: Runtime, bundle: Bundle) -> None:
        if not oci.is_ours:
            pytest.skip("runc 1.1 runs poststart hooks when it creates")
        bundle.spec["hooks"] = {"poststart": [{"path": "/bin/false"}]}
        bundle.process["args"] = ["sleep", "300"]
        container = oci.create(bundle)
        assert oci.call("start", container).code == 1
        assert oci.state(container)["status"] == "stopped"

    def test_what_it_says_is_told(self, oci: Runtime, bundle: Bundle) -> None:
        script = "echo out; echo err >&2; kill -SYS $$"
        bundle.spec["hooks"] = {"prestart": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}
        error = oci.run(bundle).err
        assert re.search(r"signal: bad system call.*stdout: out.*stderr: err", error), error

    def test_those_in_the_container_are_filtered_as_it_is(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.process["rlimits"] = [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]
        bundle.linux["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL"}],
        }
        bundle.spec["hooks"] = {"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "mkdir /dev/shm/x"]}]}
        result = oci.run(bundle)
        assert (result.code, "bad system call" in result.err) == (1, True), result


class TestSeccomp:
    def test_calls_that_the_runtime_itself_could_use_may_be_refused(self, oci: Runtime, bundle: Bundle) -> None:
        names = ["close_range", "fsopen", "fsconfig", "openat2", "open_tree", "move_mount", "pidfd_open"]
        rule = {"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": 38}
        bundle.process["noNewPrivileges"] = False
        bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}
        assert oci.run(bundle).code == 0

    def test_without_flags_speculation_is_allowed(self, oci: Runtime, bundle: Bundle) -> None:
        rule = {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}
        bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}
        with_filter = oci.output(bundle, "grep Speculation /proc/self/status")
        del bundle.linux["seccomp"]
        assert oci.output(bundle) == with_filter


class TestUpdate:
    @pytest.mark.parametrize("text", ["{", "[]", '{"pids": 5}', '{"memory": {"limit": "all"}}', '{"devices": {}}'])
    def test_a_file_that_makes_no_sense(self, oci: Runtime, bundle: Bundle, text: str) -> None:
        container = oci.running(bundle)
        result = oci.call("update", "-r", "-", container, stdin=text)
        if "devices" in text and not oci.is_ours:
            pytest.skip("runc 1.1 does not update them, and does not look")
        assert (result.code, len(result.err.splitlines())) == (1, 1), result


class TestEvents:
    def test_running_out_of_memory_is_told_at_once(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.linux["resources"]["memory"] = {"limit": 32 << 20, "swap": 32 << 20}
        container = oci.running(bundle)
        log = oci.directory / "events"
        with open(log, "wb") as out:
            listener = subprocess.Popen([*oci.command, "events", container], stdout=out, stderr=out)
        try:
            eventually(lambda: b'"stats"' in log.read_bytes())
            assert oci.call("exec", container, "dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1").code != 0
            line = json.dumps({"type": "oom", "id": container}, separators=(",", ":"))
            eventually(lambda: line in log.read_text().splitlines(), 20)
        finally:
            oci.call("delete", "--force", container)
            assert listener.wait(20) == 0
