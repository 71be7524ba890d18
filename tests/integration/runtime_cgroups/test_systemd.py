"""Groups made by systemd, where it is the init."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from services.executor.runtime.cgroups import files, systemd
from services.executor.runtime.cgroups.dbus import Connection, DBusFailure
from services.executor.runtime.errors import NotSupported, RuntimeFailure, WrongState
from tests.integration.runtime_cgroups.conftest import eventually

pytestmark = pytest.mark.root

MEGA = 1024 * 1024


@pytest.fixture
def scopes(backend: Any) -> Iterator[Any]:
    if not systemd.running():
        with pytest.raises(NotSupported):
            systemd.SystemdBackend(backend)
        pytest.skip("systemd is not running here")
    made = []
    found = systemd.SystemdBackend(backend)

    def create(name: str, resources: dict[str, Any] | None = None) -> Any:
        path = systemd.unit_path(f"davit-test.slice:davit:{name}", "unused")
        group = found.create(path, resources or {})
        made.append(group)
        return group

    yield create
    for group in made:
        group.kill()
        group.remove()


def properties(unit: str, *names: str) -> list[Any]:
    """Of a unit, as systemd has them."""
    with Connection() as bus:
        manager, root = "org.freedesktop.systemd1", "/org/freedesktop/systemd1"
        (path,) = bus.call(manager, root, manager + ".Manager", "GetUnit", "s", unit)
        get = "org.freedesktop.DBus.Properties"
        return [bus.call(manager, path, get, "Get", "ss", manager + ".Scope", name)[0][1] for name in names]


def test_a_scope_has_the_limits_and_outlives_its_placeholder(scopes: Any, child: Any) -> None:
    group = scopes("one", {"memory": {"limit": 64 * MEGA}, "pids": {"limit": 20}, "cpu": {"quota": 50000}})
    assert group.path == "/davit.slice/davit-test.slice/davit-one.scope"
    assert group.pids() == []
    process = child(group=group)
    assert group.pids() == [process.pid]
    memory, tasks, cpu = properties("davit-one.scope", "MemoryMax", "TasksMax", "CPUQuotaPerSecUSec")
    assert (memory, tasks, cpu) == (64 * MEGA, 20, 500_000)
    assert files.read(group.paths["unified"], "memory.max") == str(64 * MEGA)
    group.apply({"memory": {"limit": 32 * MEGA}})
    assert properties("davit-one.scope", "MemoryMax") == [32 * MEGA]
    assert group.stats()["pids"] == {"current": 1, "limit": 20}


def test_a_scope_is_gone_when_it_is_removed(scopes: Any, child: Any) -> None:
    group = scopes("two")
    process = child(group=group)
    group.kill()
    assert process.wait() == -signal.SIGKILL
    group.remove()
    assert not group.exists()

    def forgotten() -> bool:
        try:
            properties("davit-two.scope", "MemoryMax")
        except DBusFailure as failure:
            return failure.name.endswith("NoSuchUnit")
        return False

    eventually(forgotten)


def test_a_name_is_taken_once(scopes: Any) -> None:
    group = scopes("three")
    with pytest.raises(WrongState):
        scopes("three")
    assert group.exists()


def test_what_systemd_refuses_is_an_error_and_leaves_nothing(scopes: Any) -> None:
    with pytest.raises(RuntimeFailure):
        scopes("four", {"cpu": {"quota": 1, "period": 1}})
    assert not os.path.exists("/sys/fs/cgroup/davit.slice/davit-test.slice/davit-four.scope")
