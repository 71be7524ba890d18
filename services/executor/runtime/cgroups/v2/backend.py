"""Version 2: one directory for each container."""

from __future__ import annotations

import os
import time

from services.executor.runtime.cgroups import directories, files
from services.executor.runtime.cgroups.controllers import Controllers
from services.executor.runtime.cgroups.paths import DEFAULT_PARENT
from services.executor.runtime.cgroups.v2 import freezer, tree, unified
from services.executor.runtime.errors import KernelFailure, NotSupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from services.executor.runtime.cgroups.interface import Cgroup, CgroupBackend, Resources, Stats

_CONTROLLERS = Controllers(
    "services.executor.runtime.cgroups.v2",
    (
        ("cpuset", "cpu"),
        ("cpu", "cpu"),
        ("memory", "memory"),
        ("pids", "pids"),
        ("io", "blockIO"),
        ("hugetlb", "hugepageLimits"),
        ("rdma", "rdma"),
        ("devices", "devices"),
    ),
)
# Part of the hierarchy itself rather than a controller to be switched on.
_BUILT_IN = frozenset({"devices"})
# What statistics and limits need; others are switched on when a container asks for them.
_USUAL = ("cpu", "cpuset", "io", "memory", "pids")


class V2Cgroup:
    """Implements `Cgroup`; contracts are there."""

    def __init__(self, root: str, path: str) -> None:
        self.path = path
        self.directory = root + path
        self.paths = {"unified": self.directory}

    def exists(self) -> bool:
        return os.path.isdir(self.directory)

    def add(self, pid: int) -> None:
        directories.join(self.directory, pid)

    def directory_fd(self) -> int | None:
        return directories.open_directory(self.directory)

    def leaf_fd(self, pid: int) -> int:
        return directories.open_where(self.directory.removesuffix(self.path), pid)

    def apply(self, resources: Resources) -> None:
        for controller, field in _CONTROLLERS.wanted(resources):
            self._need(controller.NAME, field)
            controller.apply(self.directory, resources)
        unified.apply(self.directory, resources)

    def _need(self, name: str, field: str) -> None:
        if name not in _BUILT_IN and name not in tree.available(self.directory):
            raise NotSupported(field, f"the {name} controller is not available to {self.path}")

    def freeze(self) -> None:
        freezer.freeze(self.directory)

    def thaw(self) -> None:
        freezer.thaw(self.directory)

    def frozen(self) -> bool:
        return freezer.frozen(self.directory)

    def pids(self, recursive: bool = True) -> list[int]:
        return directories.pids(self.directory, recursive)

    def kill(self, signal_number: int = 9) -> None:
        if signal_number == 9:
            try:
                files.write_raw(self.directory, "cgroup.kill", 1)
                return
            except FileNotFoundError:
                if not self.exists():
                    return
            except OSError as error:
                raise KernelFailure("write", f"{self.directory}/cgroup.kill", error.errno or 0) from error
        if not self.exists():
            return
        # Before Linux 5.14, and for other signals: frozen, nobody can fork away from the list. A kill wakes the frozen.
        was_frozen = self.frozen()
        if not was_frozen:
            self.freeze()
        try:
            directories.signal_all(self.directory, signal_number)
        finally:
            if not was_frozen:
                self.thaw()

    def remove(self, timeout_s: float = 2.0) -> None:
        directories.remove(self.directory, time.monotonic() + timeout_s)

    def stats(self) -> Stats:
        into: Stats = {"cpu": {}, "cpuset": {}, "memory": {}, "pids": {}, "blkio": {}, "hugetlb": {}}
        here = tree.available(self.directory)
        for controller in _CONTROLLERS.all():
            # Processor time is counted everywhere, with or without the controller.
            if controller.NAME in here or controller.NAME == "cpu":
                controller.stats(self.directory, into)
        return into

    def oom_kill_count(self) -> int:
        from services.executor.runtime.cgroups.v2 import memory

        return memory.oom_kill_count(self.directory)

    def oom_notify_fd(self) -> int:
        from services.executor.runtime.cgroups.v2 import memory

        self._need("memory", "linux.resources.memory")
        return memory.oom_notify_fd(self.directory)


class V2Backend:
    """Implements `CgroupBackend`; contracts are there.

    Args:
        root: the mount point.
    """

    def __init__(self, root: str) -> None:
        self.kind = "v2"
        self.root = root
        self.roots = {"unified": root}
        self.controllers = tree.available(root) | _BUILT_IN

    def validate(self, resources: Resources) -> None:
        from services.executor.runtime.cgroups import checks  # a container that is there needs none

        checks.check_resources(resources)
        network = files.section(resources, "network")
        for key in ("classID", "priorities"):
            if network.get(key):
                raise NotSupported(f"linux.resources.network.{key}", "cgroup v2 has no such controller")
        for name, key in unified.controllers(resources).items():
            self._need(name, key)
        for controller, field in _CONTROLLERS.wanted(resources):
            controller.validate(self.root, resources)
            self._need(controller.NAME, field)

    def _need(self, name: str, field: str) -> None:
        if name not in self.controllers:
            raise NotSupported(field, f"this kernel has no {name} controller, or not in this hierarchy")

    def create(self, path: str, resources: Resources) -> Cgroup:
        asked = [controller.NAME for controller, _ in _CONTROLLERS.wanted(resources)]
        made: list[str] = []
        cgroup = V2Cgroup(self.root, path)
        try:
            made = tree.make(self.root, path, {*_USUAL, *asked, *unified.controllers(resources)} - _BUILT_IN)
            cgroup.apply(resources)
        except BaseException:
            for directory in reversed(made):
                directories.prune(directory)
            raise
        return cgroup

    def open(self, path: str) -> Cgroup:
        return V2Cgroup(self.root, path)

    def preload(self) -> None:
        import services.executor.runtime.cgroups.checks  # noqa: F401

        _CONTROLLERS.all()

    def prune(self, path: str) -> None:
        directories.prune(self.root + path)

    def tidy(self) -> None:
        directories.remove_if_empty(self.root + DEFAULT_PARENT)


if TYPE_CHECKING:
    _backend: CgroupBackend = V2Backend("")
