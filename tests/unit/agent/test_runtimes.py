"""Other OCI runtimes on a node: what is found, what is told, and what the spec and its errors look like for them."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import Any

import pytest

from services.executor.agent.configuration.foreignspec import foreign_spec
from services.executor.agent.containers.failures import translate
from services.executor.agent.facts import with_runtimes
from services.executor.agent.shims.runtimes import Runtimes
from services.executor.runtime.errors import ForeignFailure, from_wire
from shared.config import RuntimeEntry
from shared.contracts.containers import NodeFacts
from shared.contracts.docker import ContainerConfig, HostConfig
from shared.contracts.node import ContainerOrder
from shared.errors import InvalidArgument


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def runtimes(tmp_path: Path, **configured: dict[str, Any]) -> Runtimes:
    entries = {name: RuntimeEntry.model_validate(entry) for name, entry in configured.items()}
    return Runtimes(tmp_path / "run", entries)


def test_names_without_configuration_are_davits_own(tmp_path: Path) -> None:
    found = runtimes(tmp_path)
    assert [found.find(name) for name in ("", "davit", "runc", "io.containerd.runc.v2")] == [None] * 4
    with pytest.raises(InvalidArgument, match="unknown or invalid runtime name: kata"):
        found.find("kata")


def test_a_configured_runtime_has_its_path_arguments_and_a_place_of_its_own(tmp_path: Path) -> None:
    path = script(tmp_path / "runc", "exit 0")
    found = runtimes(tmp_path, runc={"path": str(path), "runtimeArgs": ["--debug"]}).find("runc")
    assert found is not None
    assert found.order(Path("/c")) == {
        "path": str(path),
        "args": ["--debug"],
        "root": str(tmp_path / "run" / "runtimes" / "runc"),
        "directory": "/c",
    }


def test_an_executable_is_looked_for_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path / "other-runtime", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    found = runtimes(tmp_path, other={"path": "other-runtime"}).find("other")
    assert found is not None
    assert found.path == str(tmp_path / "other-runtime")


def test_what_is_missing_is_refused_and_warned_of(tmp_path: Path) -> None:
    there = script(tmp_path / "there", "exit 0")
    found = runtimes(tmp_path, gone={"path": "/nowhere/gone"}, there={"path": str(there), "runtimeArgs": ["-x"]})
    with pytest.raises(InvalidArgument, match="runtime gone: there is no executable /nowhere/gone"):
        found.find("gone")
    facts = with_runtimes(NodeFacts(node="n1", warnings=["WARNING: other"]), found, "there")
    assert facts.runtimes == {"davit": "", "io.containerd.runc.v2": "", "runc": "", "there": str(there)}
    assert facts.runtime_args == {"there": ["-x"]}
    assert facts.default_runtime == "there"
    assert facts.warnings == ["WARNING: other", "WARNING: runtime gone: there is no executable /nowhere/gone"]
    found.configure({})
    again = with_runtimes(facts, found, "")
    assert (again.default_runtime, again.warnings) == ("davit", ["WARNING: other"])


def test_a_sweep_deletes_what_does_not_run(tmp_path: Path) -> None:
    said = tmp_path / "said"
    path = script(tmp_path / "runtime", f'echo "$@" >> {said}')
    found = runtimes(tmp_path, other={"path": str(path), "runtimeArgs": ["--before"]}, unused={"path": str(path)})
    root = tmp_path / "run" / "runtimes" / "other"
    for name in ("runs", "left"):
        (root / name).mkdir(parents=True)
    asyncio.run(found.sweep({"runs"}))
    assert said.read_text() == f"--before --root {root} delete --force left\n"


def test_a_runtime_that_cannot_delete_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scripts = {"hangs": "exec sleep 60", "fails": "echo no way >&2; exit 1"}
    paths = {name: script(tmp_path / name, text) for name, text in scripts.items()}
    found = runtimes(tmp_path, **{name: {"path": str(path)} for name, path in paths.items()})
    monkeypatch.setattr("services.executor.agent.shims.runtimes.DELETE_S", 0.2)
    for name in scripts:
        runtime = found.find(name)
        assert runtime is not None
        (Path(runtime.root) / "c1").mkdir(parents=True)
        if name == "fails":
            asyncio.run(runtime.delete("c1"))
            paths[name].unlink()
        asyncio.run(runtime.delete("c1"))
    assert [text for text in ("did not end in time", "no way", "No such file") if text not in caplog.text] == []


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('create failed: exec: "prog": executable file not found in $PATH', 127),
        ('create failed: exec: "prog": stat prog: no such file or directory', 127),
        ("executable file `prog` not found in $PATH: No such file or directory", 127),
        ('create failed: exec: "prog": permission denied', 126),
        ('create failed: exec: "prog": is a directory', 126),
        ("error mounting /nowhere: no such file or directory", 128),
        ("create failed: prog: out of cheese", 128),
    ],
)
def test_whose_fault_it_is(text: str, code: int) -> None:
    error = translate(from_wire(ForeignFailure.of(text, "prog").to_wire()))
    assert (error.message, error.detail["exit_code"]) == (text, code)


def order(host: HostConfig, **more: Any) -> ContainerOrder:
    config = ContainerConfig()
    return ContainerOrder(
        id="c", name="c", generation=1, config=config, host_config=host, path="true", args=[], layers=[], **more
    )


SPEC: dict[str, Any] = {"domainname": "example", "linux": {"sysctl": {"net.a": "1"}}}


def test_the_filter_is_in_the_spec_and_the_domain_name_a_sysctl() -> None:
    made = foreign_spec(order(HostConfig()), SPEC)
    assert "domainname" not in made
    assert made["ociVersion"] == "1.0.2"
    assert made["linux"]["sysctl"] == {"net.a": "1", "kernel.domainname": "example"}
    seccomp = made["linux"]["seccomp"]
    assert seccomp["defaultAction"] == "SCMP_ACT_ERRNO"
    names = {name for rule in seccomp["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}
    assert "read" in names
    assert "reboot" not in names
    more = foreign_spec(order(HostConfig(cap_add=["SYS_BOOT"])), SPEC)["linux"]["seccomp"]["syscalls"]
    assert any("reboot" in rule["names"] for rule in more)
    assert SPEC["linux"] == {"sysctl": {"net.a": "1"}}, "the original is left alone"


@pytest.mark.parametrize("host", [HostConfig(privileged=True), HostConfig(security_opt=["seccomp=unconfined"])])
def test_no_filter_where_none_is_wanted(host: HostConfig) -> None:
    assert "seccomp" not in foreign_spec(order(host), SPEC)["linux"]


def test_a_profile_of_the_users_own_is_taken() -> None:
    profile = '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["chmod"], "action": "SCMP_ACT_ERRNO"}]}'
    made = foreign_spec(order(HostConfig(security_opt=[f"seccomp={profile}"])), SPEC)
    assert made["linux"]["seccomp"]["syscalls"] == [{"names": ["chmod"], "action": "SCMP_ACT_ERRNO"}]
    with pytest.raises(InvalidArgument, match="Decoding seccomp profile failed"):
        foreign_spec(order(HostConfig(security_opt=["seccomp={"])), SPEC)
