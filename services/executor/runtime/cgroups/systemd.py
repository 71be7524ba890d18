"""Control groups that systemd makes: a transient scope for each container, in the slice that its spec names.

On a machine whose systemd owns the hierarchy, groups made behind its back may be cleared away by it. So it is asked for
a scope, delegated to us, with the limits that it knows as properties (it would write its own otherwise, at the next
reload); everything else is written to the files as ever.

Source: systemd "Control Group APIs and Delegation"; org.freedesktop.systemd1(5).
"""

from __future__ import annotations

import os
import signal

from services.executor.runtime.cgroups import files
from services.executor.runtime.cgroups.dbus import Connection, DBusFailure
from services.executor.runtime.cgroups.paths import slice_path, systemd_unit
from services.executor.runtime.cgroups.v2 import cpu, io, memory
from services.executor.runtime.errors import NotSupported, RuntimeFailure, WrongState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from services.executor.runtime.cgroups.interface import Cgroup, CgroupBackend, Resources

    Property = tuple[str, tuple[str, Any]]

_NAME, _OBJECT = "org.freedesktop.systemd1", "/org/freedesktop/systemd1"
_MANAGER = "org.freedesktop.systemd1.Manager"
_INFINITY = 2**64 - 1
_DEFAULT_PERIOD_US = 100_000


def running() -> bool:
    """Whether systemd is this machine's init. Source: sd_booted(3)."""
    return os.path.isdir("/run/systemd/system")


def unit_path(cgroups_path: str | None, container_id: str) -> str:
    """The path of the scope's group for `linux.cgroupsPath`, to be given to `SystemdBackend.create` and later `open`.

    Raises:
        InvalidSpec: not of the form `slice:prefix:name`.
    """
    parent, unit = systemd_unit(cgroups_path, container_id)
    return f"{slice_path(parent).rstrip('/')}/{unit}"


class SystemdBackend:
    """The backend below it, with creation and limits by way of systemd. Implements `CgroupBackend`.

    Raises:
        NotSupported: systemd is not running.
    """

    def __init__(self, inner: CgroupBackend) -> None:
        if not running():
            raise NotSupported("linux.cgroupsPath", "systemd is not running on this machine (--systemd-cgroup)")
        self.inner = inner

    @property
    def kind(self) -> str:
        return self.inner.kind

    @property
    def controllers(self) -> frozenset[str]:
        return self.inner.controllers

    def validate(self, resources: Resources) -> None:
        self.inner.validate(resources)

    def create(self, path: str, resources: Resources) -> Cgroup:
        placeholder = Placeholder()
        unit = os.path.basename(path)
        started = False
        try:
            properties = [
                ("Description", ("s", f"container {unit}")),
                ("Slice", ("s", os.path.basename(os.path.dirname(path)) or "-.slice")),
                ("Delegate", ("b", True)),
                ("DefaultDependencies", ("b", False)),
                ("PIDs", ("au", [placeholder.pid])),
                *limits(resources, self.kind),
            ]
            with Connection() as bus:
                start(bus, unit, properties)
            started = True
            group = self.inner.create(path, resources)
            # On v1 systemd moves it in its own hierarchy only.
            group.add(placeholder.pid)
        except BaseException:
            placeholder.end()
            if started:
                with Connection() as bus:
                    stop(bus, unit)
                self.inner.open(path).remove()
            raise
        return SystemdCgroup(group, unit, self.kind, placeholder)

    def open(self, path: str) -> Cgroup:
        return SystemdCgroup(self.inner.open(path), os.path.basename(path), self.kind, None)

    def preload(self) -> None:
        self.inner.preload()

    def prune(self, path: str) -> None:
        self.inner.prune(path)

    def tidy(self) -> None:
        self.inner.tidy()


class Placeholder:
    """A process that keeps a new scope alive until the container's first one is in: systemd wants one from the start.

    It ends by itself when the process that made it does.
    """

    def __init__(self) -> None:
        reader, self._writer = os.pipe2(os.O_CLOEXEC)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._writer)
                os.read(reader, 1)
            finally:
                os._exit(0)
        os.close(reader)

    def end(self) -> None:
        """Idempotent."""
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


class SystemdCgroup:
    """A scope's group. Implements `Cgroup`; contracts are there."""

    def __init__(self, inner: Cgroup, unit: str, kind: str, placeholder: Placeholder | None) -> None:
        self._inner = inner
        self._unit = unit
        self._kind = kind
        self._placeholder = placeholder

    @property
    def path(self) -> str:
        return self._inner.path

    @property
    def paths(self) -> dict[str, str]:
        return self._inner.paths

    def exists(self) -> bool:
        return self._inner.exists()

    def add(self, pid: int) -> None:
        self._inner.add(pid)
        self._release()

    def _release(self) -> None:
        if self._placeholder is not None:
            self._placeholder.end()
            self._placeholder = None

    def directory_fd(self) -> int | None:
        return self._inner.directory_fd()

    def leaf_fd(self, pid: int) -> int:
        return self._inner.leaf_fd(pid)

    def apply(self, resources: Resources) -> None:
        properties = limits(resources, self._kind)
        if properties:
            with Connection() as bus:
                bus.call(_NAME, _OBJECT, _MANAGER, "SetUnitProperties", "sba(sv)", self._unit, True, properties)
        self._inner.apply(resources)

    def freeze(self) -> None:
        self._inner.freeze()

    def thaw(self) -> None:
        self._inner.thaw()

    def frozen(self) -> bool:
        return self._inner.frozen()

    def pids(self, recursive: bool = True) -> list[int]:
        ours = self._placeholder.pid if self._placeholder is not None else 0
        return [pid for pid in self._inner.pids(recursive) if pid != ours]

    def kill(self, signal_number: int = 9) -> None:
        self._release()
        self._inner.kill(signal_number)

    def remove(self, timeout_s: float = 2.0) -> None:
        self._release()
        with Connection() as bus:
            stop(bus, self._unit)
        self._inner.remove(timeout_s)

    def stats(self) -> dict[str, Any]:
        return self._inner.stats()

    def oom_kill_count(self) -> int:
        return self._inner.oom_kill_count()

    def oom_notify_fd(self) -> int:
        return self._inner.oom_notify_fd()


def start(bus: Connection, unit: str, properties: list[Property]) -> None:
    """Start a transient unit and wait until systemd is done with it.

    Raises:
        WrongState: there is one of that name.
        RuntimeFailure: systemd could not.
    """
    bus.call(_NAME, _OBJECT, _MANAGER, "Subscribe")
    rule = f"type='signal',sender='{_NAME}',interface='{_MANAGER}',member='JobRemoved'"
    bus.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "AddMatch", "s", rule)
    try:
        (job,) = bus.call(
            _NAME, _OBJECT, _MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail", properties, []
        )
    except DBusFailure as failure:
        if failure.name.endswith(".UnitExists"):
            raise WrongState(f"systemd already has a unit {unit}", step="cgroups") from failure
        raise
    while True:
        _, path, _, result = bus.signal("JobRemoved")
        if path == job:
            if result != "done":
                raise RuntimeFailure(f"systemd did not start {unit}: {result}", step="cgroups")
            return


def stop(bus: Connection, unit: str) -> None:
    """Stop a unit and forget that it failed. One that is gone is fine: a scope ends with its last process."""
    for member, signature, arguments in (("StopUnit", "ss", (unit, "replace")), ("ResetFailedUnit", "s", (unit,))):
        try:
            bus.call(_NAME, _OBJECT, _MANAGER, member, signature, *arguments)
        except DBusFailure as failure:
            if not failure.name.endswith(".NoSuchUnit"):
                raise


def limits(resources: Resources, kind: str) -> list[Property]:
    """The limits that systemd knows, as properties of a unit."""
    found = [*_memory(resources, kind), *_cpu(resources, kind)]
    pids = files.section(resources, "pids").get("limit")
    if pids:
        found.append(("TasksMax", ("t", _INFINITY if pids < 0 else pids)))
    weight = files.section(resources, "blockIO").get("weight")
    if weight and kind == "v2":
        found.append(("IOWeight", ("t", io.weight(weight))))
    elif weight:
        found.append(("BlockIOWeight", ("t", weight)))
    return found


def _memory(resources: Resources, kind: str) -> list[Property]:
    wanted = files.section(resources, "memory")
    limit, swap = wanted.get("limit") or 0, wanted.get("swap") or 0
    if kind != "v2":
        return [("MemoryLimit", ("t", _size(limit)))] if limit else []
    found: list[Property] = []
    if limit:
        found.append(("MemoryMax", ("t", _size(limit))))
    if wanted.get("reservation"):
        found.append(("MemoryLow", ("t", _size(wanted["reservation"]))))
    if swap == -1 or (swap and limit > 0):
        found.append(("MemorySwapMax", ("t", _size(memory.swap_limit(limit, swap)))))
    return found


def _cpu(resources: Resources, kind: str) -> list[Property]:
    wanted = files.section(resources, "cpu")
    found: list[Property] = []
    if wanted.get("shares"):
        if kind == "v2":
            found.append(("CPUWeight", ("t", cpu.weight(wanted["shares"]))))
        else:
            found.append(("CPUShares", ("t", wanted["shares"])))
    quota, period = wanted.get("quota") or 0, wanted.get("period") or _DEFAULT_PERIOD_US
    if quota:
        # Systemd takes microseconds in each second, and would refuse what is no multiple of 10 ms.
        per_second = quota * 1_000_000 // period
        per_second += -per_second % 10_000
        found.append(("CPUQuotaPerSecUSec", ("t", _INFINITY if quota < 0 else per_second)))
        found.append(("CPUQuotaPeriodUSec", ("t", period)))
    return found


def _size(value: int) -> int:
    return _INFINITY if value < 0 else value


if TYPE_CHECKING:

    def _conforms(inner: CgroupBackend) -> CgroupBackend:
        return SystemdBackend(inner)
