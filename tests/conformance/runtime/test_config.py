"""config.md: version, root, mounts, process, host name, hooks, annotations."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.runtime.conftest import Bundle, Runtime, eventually, make_rootfs

pytestmark = pytest.mark.root


class TestSpecificationVersion:
    @pytest.mark.parametrize("version", ["1.0.0", "1.0.2", "1.1.0", "1.0.0-rc5"])
    def test_versions_one_are_taken(self, oci: Runtime, bundle: Bundle, version: str) -> None:
        bundle.spec["ociVersion"] = version
        assert oci.run(bundle).code == 0

    def test_an_unsupported_one_must_be_an_error(self, oci: Runtime, bundle: Bundle) -> None:
        if not oci.is_ours:
            pytest.skip("runc 1.1 does not look at the version")
        bundle.spec["ociVersion"] = "7.0.0"
        oci.refuses(bundle)


class TestRoot:
    def test_readonly_must_be_read_only(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.spec["root"]["readonly"] = True
        assert oci.output(bundle, "touch /x 2>/dev/null && echo writable || echo read-only") == "read-only"

    def test_it_is_writable_otherwise(self, oci: Runtime, bundle: Bundle) -> None:
        oci.output(bundle, "echo hello > /x")
        assert (bundle.rootfs / "x").read_text() == "hello\n"

    def test_a_directory_must_exist(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.spec["root"]["path"] = "nowhere"
        oci.refuses(bundle)

    def test_an_absolute_path_is_taken(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.spec["root"]["path"] = str(bundle.rootfs)
        assert oci.run(bundle).code == 0


class TestMounts:
    def test_they_must_be_mounted_in_the_order_listed(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.spec["mounts"] += [
            {"destination": "/mnt", "type": "tmpfs", "source": "one"},
            {"destination": "/mnt/deep/er", "type": "tmpfs", "source": "two"},
        ]
        lines = oci.output(bundle, "grep /mnt /proc/mounts").splitlines()
        assert [line.split()[:2] for line in lines] == [["one", "/mnt"], ["two", "/mnt/deep/er"]]

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            (["ro"], "ro"),
            (["nosuid", "noexec", "nodev"], "nosuid"),
            (["noexec"], "noexec"),
            (["nodev"], "nodev"),
            (["noatime"], "noatime"),
            (["nodiratime"], "nodiratime"),
            (["sync"], "sync"),
            (["mode=700"], "mode=700"),
        ],
    )
    def test_options(self, oci: Runtime, bundle: Bundle, options: list[str], expected: str) -> None:
        bundle.spec["mounts"].append({"destination": "/mnt", "type": "tmpfs", "source": "t", "options": options})
        found = oci.output(bundle, "grep ' /mnt ' /proc/mounts").split()[3].split(",")
        assert expected in found

    def test_a_tmpfs_has_the_mode_of_what_it_covers(self, oci: Runtime, bundle: Bundle) -> None:
        (bundle.rootfs / "covered").mkdir(mode=0o710)
        for name in ("covered", "new"):
            bundle.spec["mounts"].append({"destination": f"/{name}", "type": "tmpfs", "source": "t"})
        assert oci.output(bundle, "stat -c %a /covered /new").split() == ["710", "1777"]

    def test_bind_mounts_of_directories_and_files(self, oci: Runtime, bundle: Bundle) -> None:
        outside = bundle.directory / "outside"
        outside.mkdir()
        (outside / "file").write_text("from outside")
        bundle.spec["mounts"] += [
            {"destination": "/mnt/directory", "type": "bind", "source": str(outside), "options": ["rbind", "ro"]},
            {"destination": "/mnt/one/file", "type": "bind", "source": str(outside / "file"), "options": ["bind"]},
        ]
        script = "cat /mnt/directory/file /mnt/one/file; touch /mnt/directory/x 2>/dev/null || echo ' read-only'"
        assert oci.output(bundle, script) == "from outsidefrom outside read-only"

    def test_a_relative_bind_source_is_relative_to_the_bundle(self, oci: Runtime, bundle: Bundle) -> None:
        (bundle.directory / "beside").mkdir()
        (bundle.directory / "beside" / "f").write_text("x")
        bundle.spec["mounts"].append({"destination": "/mnt", "source": "beside", "options": ["bind"]})
        assert oci.output(bundle, "cat /mnt/f") == "x"

    @pytest.mark.parametrize(
        ("option", "expected"), [("private", ""), ("slave", "master:"), ("shared", "shared:"), ("rslave", "master:")]
    )
    def test_propagation(self, oci: Runtime, bundle: Bundle, option: str, expected: str) -> None:
        bundle.linux["rootfsPropagation"] = "rslave"
        bundle.spec["mounts"].append(
            {"destination": "/mnt", "type": "bind", "source": str(bundle.directory), "options": ["rbind", option]}
        )
        (line,) = oci.output(bundle, "grep ' /mnt ' /proc/self/mountinfo").splitlines()
        if expected and "master:" in expected and "master:" not in line:
            pytest.skip("the file system of the tests is not shared, so nothing can be its slave")
        assert expected in line
        if not expected:
            assert "shared:" not in line
            assert "master:" not in line

    def test_a_missing_bind_source_must_be_an_error(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.spec["mounts"].append(
            {"destination": "/mnt", "type": "bind", "source": "/no/such/source", "options": ["bind"]}
        )
        oci.refuses(bundle)

    def test_an_unknown_type_must_be_an_error(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.spec["mounts"].append({"destination": "/mnt", "type": "nosuchfs", "source": "x"})
        oci.refuses(bundle)

    def test_tmpcopyup_leaves_the_mounts_own_mode(self, oci: Runtime, bundle: Bundle) -> None:
        (bundle.rootfs / "mnt").chmod(0o750)
        (bundle.rootfs / "mnt" / "file").write_text("kept")
        for destination in ("/mnt", "/new"):
            mount = {"destination": destination, "type": "tmpfs", "source": "t", "options": ["tmpcopyup"]}
            bundle.spec["mounts"].append(mount)
        assert oci.output(bundle, "stat -c %a /mnt /new; cat /mnt/file").split() == ["750", "1777", "kept"]

    def test_tmpcopyup_copies_what_is_there(self, oci: Runtime, bundle: Bundle) -> None:
        (bundle.rootfs / "mnt" / "kept").write_text("kept")
        bundle.spec["mounts"].append(
            {"destination": "/mnt", "type": "tmpfs", "source": "t", "options": ["tmpcopyup", "rw"]}
        )
        assert oci.output(bundle, "cat /mnt/kept") == "kept"

    def test_the_root_itself_can_be_mounted_on(self, oci: Runtime, bundle: Bundle, tmp_path: Path) -> None:
        other = tmp_path / "other"
        make_rootfs(other)
        (other / "here").write_text("other")
        bundle.spec["mounts"].insert(0, {"destination": "/", "type": "bind", "source": str(other), "options": ["bind"]})
        assert oci.output(bundle, "cat /here; test -d /proc/self && echo proc").split() == ["otherproc"]
        bundle.spec["mounts"][0] = {"destination": "/", "type": "tmpfs", "source": "t", "options": ["tmpcopyup"]}
        assert oci.output(bundle, "awk '$2 == \"/\" {print $3}' /proc/mounts; ls /etc/passwd").split() == [
            "tmpfs",
            "/etc/passwd",
        ]


class TestProcess:
    def test_args_and_environment(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.process["env"] += ["GREETING=a b", "EMPTY="]
        bundle.process["args"] = ["sh", "-c", 'echo "$0|$1|$GREETING|${EMPTY-unset}"', "zero", "one two"]
        assert oci.output(bundle) == "zero|one two|a b|"

    def test_the_path_of_the_environment_finds_the_program(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.process["env"] = ["PATH=/nowhere:/bin"]
        bundle.process["args"] = ["pwd"]
        assert oci.output(bundle) == "/"

    @pytest.mark.parametrize("args", [["no-such-program"], ["/etc/passwd"], ["/bin/"], ["/bin"]])
    def test_what_cannot_be_executed_must_be_an_error(self, oci: Runtime, bundle: Bundle, args: list[str]) -> None:
        bundle.process["args"] = args
        assert oci.run(bundle).code != 0

    def test_cwd_must_be_absolute(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.process["cwd"] = "tmp"
        oci.refuses(bundle)

    def test_cwd(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.process["cwd"] = "/tmp"
        assert oci.output(bundle, "pwd") == "/tmp"

    def test_a_cwd_that_does_not_exist_is_made(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.process["cwd"] = "/new/directory"
        assert oci.output(bundle, "pwd") == "/new/directory"

    def test_user_groups_and_umask(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.process["user"] = {"uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 0o027}
        assert oci.output(bundle, "id -u; id -g; id -G; umask").split() == ["1000", "1001", "1001", "5", "6", "0027"]

    def test_rlimits(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.process["rlimits"] = [
            {"type": "RLIMIT_NOFILE", "soft": 500, "hard": 600},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        ]
        assert oci.output(bundle, "ulimit -Sn; ulimit -Hn; ulimit -c").split() == ["500", "600", "0"]

    @pytest.mark.parametrize(
        "rlimits",
        [
            [{"type": "RLIMIT_NONSENSE", "soft": 1, "hard": 1}],
            [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 10}],
            [{"type": "RLIMIT_NOFILE", "soft": 9, "hard": 9}, {"type": "RLIMIT_NOFILE", "soft": 8, "hard": 8}],
        ],
        ids=["unknown", "soft-above-hard", "duplicate"],
    )
    def test_wrong_rlimits_must_be_an_error(self, oci: Runtime, bundle: Bundle, rlimits: list[Any]) -> None:
        if not oci.is_ours and len(rlimits) == 2:
            pytest.skip("runc 1.1 takes duplicates, the last one counts; the specification says MUST")
        bundle.process["rlimits"] = rlimits
        oci.refuses(bundle)

    def test_no_new_privileges(self, oci: Runtime, bundle: Bundle) -> None:
        for wanted in (True, False):
            bundle.process["noNewPrivileges"] = wanted
            assert oci.output(bundle, "grep NoNewPrivs /proc/self/status").split()[1] == str(int(wanted))

    def test_oom_score(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.process["oomScoreAdj"] = 500
        assert oci.output(bundle, "cat /proc/self/oom_score_adj") == "500"

    def test_an_absent_oom_score_is_left_alone(self, oci: Runtime, bundle: Bundle) -> None:
        own = Path("/proc/self/oom_score_adj").read_text().strip()
        assert oci.output(bundle, "cat /proc/self/oom_score_adj") == own

    def test_every_capability_set(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.process["capabilities"] = {
            "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
            "permitted": ["CAP_CHOWN", "CAP_KILL"],
            "inheritable": ["CAP_KILL"],
            "effective": ["CAP_CHOWN"],
            "ambient": ["CAP_KILL"],
        }
        bundle.process["user"] = {"uid": 1000, "gid": 1000}
        found = dict(line.split() for line in oci.output(bundle, "grep ^Cap /proc/self/status").splitlines())
        assert int(found["CapBnd:"], 16) == 1 << 0 | 1 << 5 | 1 << 13
        assert int(found["CapInh:"], 16) == 1 << 5
        assert int(found["CapAmb:"], 16) == 1 << 5
        # execve leaves an unprivileged user with the ambient set
        assert int(found["CapPrm:"], 16) == int(found["CapEff:"], 16) == 1 << 5

    def test_no_capabilities_means_none(self, oci: Runtime, bundle: Bundle) -> None:
        del bundle.process["capabilities"]
        found = dict(line.split() for line in oci.output(bundle, "grep ^Cap /proc/self/status").splitlines())
        assert {name: int(value, 16) for name, value in found.items()} == dict.fromkeys(found, 0)

    def test_unknown_capabilities_are_no_reason_to_fail(self, oci: Runtime, bundle: Bundle) -> None:
        for name in ("bounding", "effective", "permitted"):
            bundle.process["capabilities"][name] = ["CAP_FROM_THE_FUTURE", "CAP_KILL"]
        assert oci.run(bundle).code == 0

    def test_nothing_is_inherited_but_the_standard_streams(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.shell("ls /proc/self/fd")
        bundle.write()
        with open("/dev/null", "rb") as extra:
            os.set_inheritable(extra.fileno(), True)
            result = oci.call("run", "-b", str(bundle.directory), oci.new_id(), fds=(extra.fileno(),))
        # ls has the directory itself open as the fourth
        assert result.out.split() == ["0", "1", "2", "3"]

    def test_preserved_descriptors_arrive(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.shell("cat <&3")
        bundle.write()
        (bundle.directory / "given").write_text("given")
        with open(bundle.directory / "given") as given:
            saved = os.dup(3) if os.path.exists("/proc/self/fd/3") else -1
            try:
                os.dup2(given.fileno(), 3, inheritable=True)
                result = oci.call("run", "-b", str(bundle.directory), "--preserve-fds", "1", oci.new_id(), fds=(3,))
            finally:
                if saved >= 0:
                    os.dup2(saved, 3, inheritable=False)
                    os.close(saved)
        assert result.out == "given"

    def test_standard_input_arrives(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.shell("cat")
        assert oci.run(bundle, stdin="hello").out == "hello"


class TestHostname:
    def test_hostname(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.spec["hostname"] = "other-name"
        assert oci.output(bundle, "hostname") == "other-name"

    def test_it_needs_a_uts_namespace(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.without_namespace("uts")
        oci.refuses(bundle)

    def test_domainname(self, oci: Runtime, bundle: Bundle) -> None:
        if not oci.is_ours:
            pytest.skip("runc 1.1 is older than the field")
        bundle.spec["domainname"] = "example.org"
        assert oci.output(bundle, "cat /proc/sys/kernel/domainname") == "example.org"


def hook(path: str, *args: str, **more: Any) -> dict[str, Any]:
    return {"path": path, "args": [path, *args], "env": ["PATH=/bin:/usr/bin"], **more}


KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


class TestHooks:
    def test_they_must_be_called_in_order_with_the_state_on_stdin(self, oci: Runtime, bundle: Bundle) -> None:
        log = bundle.directory / "log"
        log.mkdir()
        bundle.spec["mounts"].append({"destination": "/log", "source": str(log), "options": ["bind"]})
        hooks: dict[str, Any] = {}
        for kind in KINDS:
            # createContainer runs in the container's namespaces before pivot_root, startContainer after it
            where = "/log" if kind == "startContainer" else str(log)
            script = f"echo {kind}$0 >> {where}/order; cat > {where}/{kind}$0"
            hooks[kind] = [
                {"path": "/bin/sh", "args": ["sh", "-c", script, number], "env": ["PATH=/bin:/usr/bin"]}
                for number in ("1", "2")
            ]
        if not oci.is_ours:
            # runc 1.1 runs these when it creates, long before the program.
            hooks["poststart"] = []
        bundle.spec["hooks"] = hooks
        bundle.spec["annotations"] = {"a": "b"}
        bundle.shell("echo program >> /log/order")
        container = oci.create(bundle)
        before = [f"{kind}{number}" for kind in KINDS[:3] for number in "12"]
        assert (log / "order").read_text().split() == before
        oci.call("start", container)
        oci.reaches(container, "stopped")
        oci.call("delete", container)
        order = (log / "order").read_text().split()
        after = ["poststart1", "poststart2"] if oci.is_ours else []
        assert order[:8] == [*before, "startContainer1", "startContainer2"]
        assert sorted(order[8:-2]) == [*after, "program"]
        assert order[-2:] == ["poststop1", "poststop2"]
        statuses = {kind: json.loads((log / f"{kind}1").read_text()) for kind in KINDS if hooks[kind]}
        for kind, state in statuses.items():
            assert state["id"] == container, kind
            assert state["bundle"] == str(bundle.directory), kind
            assert state["annotations"] == {"a": "b"}, kind
        assert statuses["createRuntime"]["status"] in {"creating", "created"}
        assert not after or statuses["poststart"]["status"] == "running"
        assert statuses["poststop"]["status"] == "stopped"

    @pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer"])
    def test_a_failure_before_start_must_undo_the_creation(self, oci: Runtime, bundle: Bundle, kind: str) -> None:
        bundle.spec["hooks"] = {kind: [hook("/bin/false")]}
        oci.refuses(bundle)

    def test_a_failing_start_container_hook_must_keep_the_program_from_running(
        self, oci: Runtime, bundle: Bundle
    ) -> None:
        bundle.spec["hooks"] = {"startContainer": [hook("/bin/false")]}
        bundle.shell("touch /ran")
        oci.run(bundle)
        assert not (bundle.rootfs / "ran").exists()

    def test_a_failing_poststop_hook_must_only_be_logged(self, oci: Runtime, bundle: Bundle) -> None:
        mark = bundle.directory / "mark"
        bundle.spec["hooks"] = {"poststop": [hook("/bin/false"), hook("/bin/touch", str(mark))]}
        container = oci.running(bundle)
        oci.stop(container)
        assert oci.call("delete", container).code == 0
        assert oci.call("state", container).code != 0
        # runc 1.1 leaves out those that follow the failed one
        assert mark.exists() or not oci.is_ours

    def test_a_hook_that_takes_too_long_must_be_ended(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.spec["hooks"] = {"createRuntime": [hook("/bin/sleep", "20", timeout=1)]}
        begin = time.monotonic()
        oci.refuses(bundle)
        assert time.monotonic() - begin < 10

    def test_the_path_must_be_absolute(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.spec["hooks"] = {"createRuntime": [{"path": "true"}]}
        oci.refuses(bundle)

    def test_environment_is_the_hooks_own(self, oci: Runtime, bundle: Bundle) -> None:
        out = bundle.directory / "out"
        bundle.spec["hooks"] = {
            "createRuntime": [
                {"path": "/usr/bin/env", "args": ["env"], "env": ["ONLY=this"]},
                {"path": "/bin/sh", "args": ["sh", "-c", f"echo $ONLY > {out}"], "env": ["ONLY=this"]},
            ]
        }
        assert oci.run(bundle).code == 0
        assert eventually(out.exists)
        assert out.read_text() == "this\n"

    def test_without_one_it_is_that_of_the_namespaces_it_runs_in(
        self, oci: Runtime, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WHOSE", "callers")
        out = bundle.rootfs / "tmp"
        bundle.process["env"].append("WHOSE=containers")
        shell = ("/bin/sh", "sh", "-c")
        outer = {kind: f"echo $WHOSE > {out}/{kind}" for kind in ("createRuntime", "createContainer", "poststop")}
        scripts = {**outer, "startContainer": "echo $WHOSE > /tmp/startContainer"}
        bundle.spec["hooks"] = {
            kind: [{"path": shell[0], "args": [*shell[1:], script]}] for kind, script in scripts.items()
        }
        assert oci.run(bundle).code == 0
        assert {kind: (out / kind).read_text().strip() for kind in scripts} == {
            "createRuntime": "callers",
            "createContainer": "containers",
            "startContainer": "containers",
            "poststop": "callers",
        }


class TestAnnotations:
    def test_unknown_properties_and_annotations_must_not_be_errors(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.spec["annotations"] = {"com.example.unknown": "", "x": "y"}
        bundle.spec["unknownProperty"] = {"a": 1}
        bundle.linux["unknownProperty"] = 1
        bundle.spec["hooks"] = {"unknownKind": [{"path": "relative"}]}
        assert oci.run(bundle).code == 0
