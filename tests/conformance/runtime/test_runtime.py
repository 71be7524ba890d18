"""runtime.md: state, life cycle, operations."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.runtime.conftest import Bundle, Runtime, eventually

pytestmark = pytest.mark.root


class TestState:
    def test_it_must_have_the_required_properties(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.spec["annotations"] = {"org.example.key": "value"}
        container = oci.running(bundle)
        state = oci.state(container)
        assert state["ociVersion"].startswith("1.")
        assert state["id"] == container
        assert state["status"] == "running"
        assert os.path.exists(f"/proc/{state['pid']}")
        assert state["bundle"] == str(bundle.directory)
        assert state["annotations"] == {"org.example.key": "value"}

    def test_status_goes_from_created_over_running_to_stopped(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.process["args"] = ["sleep", "300"]
        container = oci.create(bundle)
        assert oci.state(container)["status"] == "created"
        oci.call("start", container)
        assert oci.state(container)["status"] == "running"
        oci.stop(container)
        assert oci.state(container)["status"] == "stopped"


class TestQueryState:
    def test_a_container_that_does_not_exist_must_be_an_error(self, oci: Runtime) -> None:
        assert oci.call("state", "no-such-container").code != 0

    def test_no_id_must_be_an_error(self, oci: Runtime) -> None:
        assert oci.call("state").code != 0


class TestCreate:
    def test_an_id_must_be_unique(self, oci: Runtime, bundle: Bundle) -> None:
        container = oci.running(bundle)
        pid = oci.state(container)["pid"]
        assert oci.call("create", "-b", str(bundle.directory), container).code != 0
        assert oci.state(container)["pid"] == pid

    def test_no_id_or_bundle_must_be_an_error(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.write()
        assert oci.call("create", "-b", str(bundle.directory)).code != 0
        assert oci.call("create", "-b", str(bundle.directory / "nowhere"), oci.new_id()).code != 0

    @pytest.mark.parametrize("name", ["", "..", "a/b", "/", "x y"])
    def test_an_id_is_no_path(self, oci: Runtime, bundle: Bundle, name: str) -> None:
        bundle.write()
        assert oci.call("create", "-b", str(bundle.directory), name).code != 0

    def test_the_program_must_not_run_before_start(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.shell("touch /ran")
        container = oci.create(bundle)
        assert oci.state(container)["status"] == "created"
        assert not (bundle.rootfs / "ran").exists()
        oci.call("start", container)
        eventually((bundle.rootfs / "ran").exists)

    def test_changes_of_config_json_afterwards_must_have_no_effect(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.shell("touch /first")
        container = oci.create(bundle)
        bundle.shell("touch /second")
        bundle.write()
        oci.call("start", container)
        eventually((bundle.rootfs / "first").exists)
        assert not (bundle.rootfs / "second").exists()

    def test_what_the_runtime_cannot_do_must_be_an_error(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.linux["namespaces"].append({"type": "no-such-namespace"})
        oci.refuses(bundle)

    def test_the_pid_file_has_the_pid(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.process["args"] = ["sleep", "300"]
        file = bundle.directory / "pid"
        container = oci.create(bundle, "--pid-file", str(file))
        assert int(file.read_text()) == oci.state(container)["pid"]


class TestStart:
    def test_a_container_that_does_not_exist_must_be_an_error(self, oci: Runtime) -> None:
        assert oci.call("start", "no-such-container").code != 0

    def test_a_container_that_is_not_created_must_be_an_error_and_not_change(
        self, oci: Runtime, bundle: Bundle
    ) -> None:
        container = oci.running(bundle)
        assert oci.call("start", container).code != 0
        assert oci.state(container)["status"] == "running"
        oci.stop(container)
        assert oci.call("start", container).code != 0
        assert oci.state(container)["status"] == "stopped"

    def test_no_program_must_be_an_error(self, oci: Runtime, bundle: Bundle) -> None:
        del bundle.process["args"]
        bundle.write()
        container = oci.new_id()
        created = oci.call("create", "-b", str(bundle.directory), container)
        assert created.code != 0 or oci.call("start", container).code != 0


class TestKill:
    def test_a_container_that_does_not_exist_must_be_an_error(self, oci: Runtime) -> None:
        assert oci.call("kill", "no-such-container", "KILL").code != 0

    def test_a_stopped_container_must_be_an_error_and_not_change(self, oci: Runtime, bundle: Bundle) -> None:
        container = oci.running(bundle)
        oci.stop(container)
        assert oci.call("kill", container, "KILL").code != 0
        assert oci.state(container)["status"] == "stopped"

    @pytest.mark.parametrize("signal", ["TERM", "SIGTERM", "15", "sigterm"])
    def test_the_signal_must_be_sent(self, oci: Runtime, bundle: Bundle, signal: str) -> None:
        bundle.shell("trap 'touch /caught; exit 0' TERM; touch /ready; while true; do sleep 0.05; done")
        container = oci.create(bundle)
        oci.call("start", container)
        eventually((bundle.rootfs / "ready").exists)
        assert oci.call("kill", container, signal).code == 0
        eventually((bundle.rootfs / "caught").exists)
        oci.reaches(container, "stopped")

    def test_a_created_container_can_be_killed(self, oci: Runtime, bundle: Bundle) -> None:
        container = oci.create(bundle)
        oci.stop(container)

    @pytest.mark.parametrize("signal", ["TERM", "INT", "HUP"])
    def test_a_created_container_ends_by_what_ends_a_program(self, oci: Runtime, bundle: Bundle, signal: str) -> None:
        container = oci.create(bundle)
        assert oci.call("kill", container, signal).code == 0
        oci.reaches(container, "stopped")

    def test_an_unknown_signal_is_an_error(self, oci: Runtime, bundle: Bundle) -> None:
        container = oci.running(bundle)
        assert oci.call("kill", container, "SIGNOTHING").code != 0
        failed = oci.call("kill", container, "99999999999")
        assert (failed.code, "unable to signal init: invalid argument" in failed.err) == (1, True), failed
        assert oci.state(container)["status"] == "running"


class TestDelete:
    def test_a_container_that_does_not_exist_must_be_an_error(self, oci: Runtime) -> None:
        assert oci.call("delete", "no-such-container").code != 0

    def test_a_container_that_is_not_stopped_must_be_an_error_and_not_change(
        self, oci: Runtime, bundle: Bundle
    ) -> None:
        container = oci.running(bundle)
        assert oci.call("delete", container).code != 0
        assert oci.state(container)["status"] == "running"

    def test_what_create_made_must_be_removed_and_nothing_else(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.linux["cgroupsPath"] = "/conformance-delete/one"
        roots = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()]
        parents = [root / "conformance-delete" for root in roots if (root / "cgroup.procs").exists()]
        parents[0].mkdir()
        (bundle.rootfs / "kept").touch()
        try:
            container = oci.running(bundle)
            assert (parents[0] / "one").is_dir()
            oci.stop(container)
            assert oci.call("delete", container).code == 0
            assert not (parents[0] / "one").exists()
            assert parents[0].exists()
            assert (bundle.rootfs / "kept").exists()
        finally:
            oci.clean()
            for parent in parents:
                if parent.is_dir():
                    parent.rmdir()

    def test_the_id_can_be_used_again(self, oci: Runtime, bundle: Bundle) -> None:
        container = oci.create(bundle)
        oci.stop(container)
        assert oci.call("delete", container).code == 0
        assert oci.call("state", container).code != 0
        assert oci.call("create", "-b", str(bundle.directory), container).code == 0

    def test_force_ends_a_running_one_and_takes_a_missing_one(self, oci: Runtime, bundle: Bundle) -> None:
        container = oci.running(bundle)
        assert oci.call("delete", "--force", container).code == 0
        assert oci.call("state", container).code != 0
        assert oci.call("delete", "--force", "no-such-container").code == 0


def test_list_has_what_state_has(oci: Runtime, bundle: Bundle) -> None:
    container = oci.running(bundle)
    entries: list[dict[str, Any]] = json.loads(oci.call("list", "--format", "json").out)
    (entry,) = entries
    state = oci.state(container)
    assert {key: entry[key] for key in ("id", "pid", "status", "bundle")} == {
        key: state[key] for key in ("id", "pid", "status", "bundle")
    }
    assert oci.call("list", "-q").lines == [container]


def test_pause_and_resume(oci: Runtime, bundle: Bundle) -> None:
    container = oci.running(bundle)
    assert oci.call("pause", container).code == 0
    assert oci.state(container)["status"] == "paused"
    assert oci.call("resume", container).code == 0
    assert oci.state(container)["status"] == "running"


def test_a_created_one_can_be_paused(oci: Runtime, bundle: Bundle) -> None:
    container = oci.create(bundle)
    assert oci.call("pause", container).code == 0
    assert oci.state(container)["status"] == "paused"
    assert "cannot start a container in the paused state" in oci.call("start", container).err
    assert oci.call("resume", container).code == 0
    assert oci.state(container)["status"] == "created"
    assert oci.call("start", container).code == 0


def test_exec_runs_beside_the_first_process(oci: Runtime, bundle: Bundle) -> None:
    container = oci.running(bundle)
    result = oci.call("exec", "--cwd", "/tmp", "--env", "X=y", container, "sh", "-c", "pwd; echo $X; hostname; exit 3")
    assert (result.code, result.lines) == (3, ["/tmp", "y", "conformance"])


def test_ps_lists_host_pids(oci: Runtime, bundle: Bundle) -> None:
    container = oci.running(bundle)
    result = oci.call("ps", "--format", "json", container)
    assert json.loads(result.out) == [oci.state(container)["pid"]]


def test_the_exit_code_of_run_is_the_programs(oci: Runtime, bundle: Bundle) -> None:
    bundle.shell("exit 42")
    assert oci.run(bundle).code == 42
    bundle.shell("kill -9 $$")
    bundle.without_namespace("pid")
    assert oci.run(bundle).code == 137
