"""A container's record as an OCI configuration."""

from __future__ import annotations

from typing import Any

import pytest

from services.executor.agent.configuration.oci import INIT_TARGET, SpecInput, exec_process, oci_spec
from services.executor.agent.configuration.resources import device_rule, oci_resources
from services.executor.runtime.spec import defaults
from shared.contracts.containers import ExecSpec
from shared.contracts.docker import ContainerConfig, HostConfig
from shared.contracts.node import ContainerOrder
from shared.errors import InvalidArgument


def order(host: dict[str, Any] | None = None, **fields: Any) -> ContainerOrder:
    config = fields.pop("config", {"Env": ["A=1", "=odd", "none"], "WorkingDir": "/w"})
    return ContainerOrder(
        id="c" * 64,
        name="web",
        generation=1,
        layers=[],
        config=ContainerConfig.model_validate(config),
        host_config=HostConfig.model_validate(host or {}),
        path=fields.pop("path", "sh"),
        args=fields.pop("args", ["-c", "x"]),
        **fields,
    )


def spec(host: dict[str, Any] | None = None, *, given: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    source = {"netns_path": "{fd:0}", "joined_pid": lambda _id, _kind: 42, "mounts": [], **(given or {})}
    return oci_spec(SpecInput(order(host, **fields), **source)).spec


ALL = {"mount": "", "network": "{fd:0}", "pid": "", "ipc": "", "uts": "", "cgroup": ""}


def kinds(found: dict[str, Any]) -> dict[str, str]:
    return {one["type"]: one.get("path", "") for one in found["linux"]["namespaces"]}


def test_the_process() -> None:
    process = spec({"OomScoreAdj": 7, "Ulimits": [{"Name": "nofile", "Soft": 5, "Hard": -1}]})["process"]
    assert (process["args"], process["cwd"], process["terminal"]) == (["sh", "-c", "x"], "/w", False)
    assert process["env"] == ["A=1"], "what has no value, or no name, is left out"
    assert process["rlimits"] == [{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 2**64 - 1}]
    assert process["oomScoreAdj"] == 7
    assert not process["noNewPrivileges"]
    for value, wanted in (("no-new-privileges", True), ("no-new-privileges=T", True), ("no-new-privileges:0", False)):
        assert spec({"SecurityOpt": [value]})["process"]["noNewPrivileges"] is wanted


def test_a_terminal_has_its_size_only_when_there_is_one() -> None:
    sized = {"ConsoleSize": [24, 80]}
    assert "consoleSize" not in spec(sized)["process"]
    assert spec(sized, config={"Tty": True})["process"]["consoleSize"] == {"height": 24, "width": 80}
    assert "consoleSize" not in spec({"ConsoleSize": [0, 80]}, config={"Tty": True})["process"]


def test_an_init_comes_first() -> None:
    found = spec(given={"init_path": "/host/tini"})
    assert found["process"]["args"] == [INIT_TARGET, "--", "sh", "-c", "x"]
    assert found["mounts"][-1]["destination"] == INIT_TARGET


@pytest.mark.parametrize(
    ("host", "fields", "given", "wanted"),
    [
        ({}, {}, {}, {"mount": "", "network": "{fd:0}", "pid": "", "ipc": "", "uts": ""}),
        ({}, {}, {"cgroup_v2": True}, ALL),
        ({"CgroupnsMode": "private"}, {}, {}, ALL),
        ({"PidMode": "host", "IpcMode": "host", "UTSMode": "host"}, {}, {"netns_path": None}, {"mount": ""}),
        (
            {"PidMode": "container:x", "IpcMode": "container:x"}, {"network_mode": "container:x"}, {"netns_path": None},
            {"mount": "", "network": "/proc/42/ns/net", "pid": "/proc/42/ns/pid", "ipc": "/proc/42/ns/ipc", "uts": ""},
        ),
    ],
)  # fmt: skip
def test_namespaces(
    host: dict[str, Any], fields: dict[str, Any], given: dict[str, Any], wanted: dict[str, str]
) -> None:
    assert kinds(spec(host, given=given, **fields)) == wanted


def test_paths_are_hidden_unless_that_is_unwanted() -> None:
    linux = spec()["linux"]
    assert (linux["maskedPaths"], linux["readonlyPaths"]) == (
        list(defaults.MASKED_PATHS),
        list(defaults.READONLY_PATHS),
    )
    for host in ({"Privileged": True}, {"SecurityOpt": ["systempaths=unconfined"]}):
        linux = spec(host)["linux"]
        assert (linux["maskedPaths"], linux["readonlyPaths"]) == ([], [])
    assert spec({"MaskedPaths": ["/x"], "ReadonlyPaths": []})["linux"]["maskedPaths"] == ["/x"]


def test_a_mount_takes_the_place_of_a_default_one() -> None:
    own = {"destination": "/dev/shm", "type": "bind", "source": "/x", "options": ["bind"]}
    found = spec({"Tmpfs": {"/run": "size=1m,exec", "/dev/shm/": ""}}, given={"mounts": [own]})["mounts"]
    assert [one for one in found if one["destination"].rstrip("/") == "/dev/shm"] == [own]
    [run] = [one for one in found if one["destination"] == "/run"]
    assert run["options"] == ["noexec", "nosuid", "nodev", "size=1m", "exec"]
    assert not [one for one in spec({"IpcMode": "none"})["mounts"] if one["destination"] == "/dev/shm"]


def test_names_are_the_hosts_in_its_namespace() -> None:
    named = spec(hostname="h", domainname="d")
    assert (named["hostname"], named["domainname"]) == ("h", "d")
    assert "hostname" not in spec({"UTSMode": "host"}, hostname="h")


def test_an_exec_has_the_containers_surroundings_and_its_own() -> None:
    given = ExecSpec(ref="web", cmd=["id"], env=["B=2", "A", "C="], user="7", tty=True, console_size=[5, 6])
    plan = exec_process(
        order({"GroupAdd": ["9"]}, config={"Env": ["A=1", "B=1"], "WorkingDir": "/w", "User": "1"}), given, []
    )
    assert plan.process["env"] == ["B=2", "TERM=xterm", "C="]
    assert (plan.process["cwd"], plan.process["consoleSize"]) == ("/w", {"height": 5, "width": 6})
    assert plan.user == {"user": "7", "groups": ["9"]}
    assert exec_process(order(), ExecSpec(ref="web", cmd=["id"]), []).user["user"] == "0"


@pytest.mark.parametrize(
    ("host", "wanted"),
    [
        ({"NanoCpus": 1_500_000_000}, {"cpu": {"period": 100_000, "quota": 150_000}}),
        ({"CpuPeriod": 5, "CpuQuota": -1}, {"cpu": {"period": 5, "quota": -1}}),
        ({"Memory": 10}, {"memory": {"limit": 10, "swap": 20}}),
        ({"Memory": 10, "MemorySwap": -1}, {"memory": {"limit": 10, "swap": -1}}),
        ({"MemorySwappiness": -1}, {}),
        ({"MemorySwappiness": 0}, {"memory": {"swappiness": 0}}),
        ({"PidsLimit": 0}, {"pids": {"limit": -1}}),
        ({"PidsLimit": 5}, {"pids": {"limit": 5}}),
        ({"BlkioWeight": 10}, {"blockIO": {"weight": 10}}),
    ],
)
def test_limits(host: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert oci_resources(HostConfig.model_validate(host), devices=False) == wanted


def test_devices() -> None:
    assert device_rule("c 42:* rmw") == {"allow": True, "type": "c", "access": "rmw", "major": 42}
    host = {"Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "r"}]}
    linux = spec(host)["linux"]
    assert [(one["path"], one["major"], one["minor"]) for one in linux["devices"]] == [("/dev/x", 1, 3)]
    assert {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "r"} in linux["resources"]["devices"]
    for path in ("/nosuch", "/etc/passwd"):
        with pytest.raises(InvalidArgument, match="error gathering device information") as refused:
            spec({"Devices": [{"PathOnHost": path}]})
        assert refused.value.detail["field"] == "HostConfig.Devices"
    with pytest.raises(InvalidArgument, match="stat /nosuch"):
        oci_resources(HostConfig.model_validate({"BlkioDeviceReadBps": [{"Path": "/nosuch", "Rate": 1}]}))
