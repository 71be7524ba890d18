"""Docker's defaults, as far as they can be judged without Docker."""

from __future__ import annotations

from services.executor.runtime.spec import defaults


def test_answers_are_fresh() -> None:
    defaults.mounts()[0]["options"].append("changed")
    defaults.masked_paths().clear()
    assert "changed" not in defaults.mounts()[0]["options"]
    assert "/proc/kcore" in defaults.masked_paths()


def test_privileged_sees_and_writes_everything() -> None:
    assert defaults.masked_paths(privileged=True) == defaults.readonly_paths(privileged=True) == []
    options = {mount["destination"]: mount["options"] for mount in defaults.mounts(privileged=True)}
    assert "rw" in options["/sys"]
    assert "rw" in options["/sys/fs/cgroup"]
    assert "ro" in {mount["destination"]: mount["options"] for mount in defaults.mounts()}["/sys"]


def test_shm_has_the_size_asked_for() -> None:
    (shm,) = [mount for mount in defaults.mounts(shm_bytes=1048576) if mount["destination"] == "/dev/shm"]
    assert "size=1048576" in shm["options"]


def test_sysctls_depend_on_the_namespaces() -> None:
    assert defaults.sysctls(network=False) == {}
    assert "net.ipv4.ping_group_range" not in defaults.sysctls(user_namespace=True)


def test_the_whole_spec() -> None:
    spec = defaults.default_spec()
    assert {entry["type"] for entry in spec["linux"]["namespaces"]} == {"mount", "network", "uts", "pid", "ipc"}
    assert len(spec["process"]["capabilities"]["bounding"]) == 14
    assert spec["linux"]["resources"]["devices"][0] == {"allow": False, "access": "rwm"}
