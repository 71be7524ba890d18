"""Version 1: a directory in every hierarchy that is mounted, and in the v2 tree beside them when there is one."""

from __future__ import annotations

import errno
import os
import time

from services.executor.runtime.cgroups import directories, files
from services.executor.runtime.cgroups.controllers import Controllers
from services.executor.runtime.cgroups.paths import DEFAULT_PARENT
from services.executor.runtime.errors import KernelFailure, NotSupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from services.executor.runtime.cgroups.interface import Cgroup, CgroupBackend, Resources, Stats

_CONTROLLERS = Controllers(
    "services.executor.runtime.cgroups.v1",
    (
        ("cpuset", "cpu"),
        ("cpu", "cpu"),
        ("cpuacct", None),
        ("memory", "memory"),
        ("pids", "pids"),
        ("blkio", "blockIO"),
        ("hugetlb", "hugepageLimits"),
        ("net_cls", "network"),
        ("net_prio", "network"),
        ("rdma", "rdma"),
        ("devices", "devices"),
    ),
)
UNIFIED = "unified"
# Hierarchies to ask for processes, best first.
_LISTING = (UNIFIED, "pids", "freezer", "devices", "memory", "cpu")


class V1Cgroup:
    """Implements `Cgroup`; contracts are there."""

    def __init__(self, backend: V1Backend, path: str) -> None:
        self.path = path
        self.paths = {name: root + path for name, root in backend.roots.items()}
        self._directories = [root + path for root in backend.unique_roots]

    def exists(self) -> bool:
        return any(os.path.isdir(directory) for directory in self._directories)

    def add(self, pid: int) -> None:
        for directory in self._directories:
            directories.join(directory, pid)

    def directory_fd(self) -> int | None:
        if UNIFIED not in self.paths:
            return None
        return directories.open_directory(self.paths[UNIFIED])

    def leaf_fd(self, pid: int) -> int:
        return directories.open_where(self.paths[UNIFIED].removesuffix(self.path), pid)

    def apply(self, resources: Resources) -> None:
        for controller, field in _CONTROLLERS.wanted(resources):
            controller.apply(self._needed(controller.NAME, field), resources)

    def _needed(self, name: str, field: str) -> str:
        if name not in self.paths:
            raise NotSupported(field, f"the {name} controller is not mounted")
        return self.paths[name]

    def freeze(self) -> None:
        from services.executor.runtime.cgroups.v1 import freezer

        freezer.freeze(self._needed("freezer", "linux.resources"))

    def thaw(self) -> None:
        from services.executor.runtime.cgroups.v1 import freezer

        freezer.thaw(self._needed("freezer", "linux.resources"))

    def frozen(self) -> bool:
        from services.executor.runtime.cgroups.v1 import freezer

        return "freezer" in self.paths and freezer.frozen(self.paths["freezer"])

    def pids(self, recursive: bool = True) -> list[int]:
        return directories.pids(self._listing(), recursive)

    def _listing(self) -> str:
        """The first that is there: another runtime may not have made them all."""
        present = (self.paths[name] for name in _LISTING if name in self.paths)
        return next((directory for directory in present if os.path.isdir(directory)), self._directories[0])

    def kill(self, signal_number: int = 9) -> None:
        from services.executor.runtime.cgroups.v1 import freezer

        if not self.exists():
            return
        if signal_number == 9 and self._kill_at_once():
            return
        if "freezer" not in self.paths:
            directories.signal_all(self._listing(), signal_number)
            return
        # Frozen, nobody can fork away from the list while it is worked through.
        directory = self.paths["freezer"]
        was_frozen = signal_number != 9 and freezer.frozen(directory)
        try:
            freezer.freeze(directory)
        except KernelFailure as failure:
            if failure.errno != errno.ETIMEDOUT:
                raise
        try:
            directories.signal_all(directory, signal_number)
        finally:
            if not was_frozen:
                freezer.thaw(directory)

    def _kill_at_once(self) -> bool:
        """Use cgroup.kill of the v2 tree (Linux 5.14), unless somebody was moved out of there but not out of v1."""
        directory = self.paths.get(UNIFIED)
        if directory is None:
            return False
        here = directories.pids(directory, recursive=True)
        if "freezer" in self.paths and not set(directories.pids(self.paths["freezer"], recursive=True)) <= set(here):
            return False
        try:
            files.write_raw(directory, "cgroup.kill", 1)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise KernelFailure("write", f"{directory}/cgroup.kill", error.errno or 0, step="cgroups") from error
        # The killed wake up only where no freezer holds them.
        if self.frozen():
            self.thaw()
        return True

    def remove(self, timeout_s: float = 2.0) -> None:
        deadline = time.monotonic() + timeout_s
        failures: list[KernelFailure] = []
        for directory in self._directories:
            try:
                directories.remove(directory, deadline)
            except KernelFailure as failure:
                failures.append(failure)
        if failures:
            raise failures[0]

    def stats(self) -> Stats:
        into: Stats = {"cpu": {}, "cpuset": {}, "memory": {}, "pids": {}, "blkio": {}, "hugetlb": {}}
        for controller in _CONTROLLERS.all():
            if controller.NAME in self.paths:
                controller.stats(self.paths[controller.NAME], into)
        return into

    def oom_kill_count(self) -> int:
        from services.executor.runtime.cgroups.v1 import memory

        return memory.oom_kill_count(self.paths["memory"]) if "memory" in self.paths else 0

    def oom_notify_fd(self) -> int:
        from services.executor.runtime.cgroups.v1 import memory

        return memory.oom_notify_fd(self._needed("memory", "linux.resources.memory"))


class V1Backend:
    """Implements `CgroupBackend`; contracts are there.

    Args:
        mounts: mount point by controller or "name=…".
        unified: mount point of a v2 tree beside them.
    """

    def __init__(self, mounts: dict[str, str], unified: str | None) -> None:
        self.kind = "v1" if unified is None else "hybrid"
        self.roots = {**mounts, UNIFIED: unified} if unified is not None else dict(mounts)
        # Controllers can share a hierarchy ("cpu,cpuacct").
        self.unique_roots = list(dict.fromkeys(self.roots.values()))
        self.controllers = frozenset(name for name in mounts if not name.startswith("name="))
        self._cpuset_root = mounts.get("cpuset")

    def validate(self, resources: Resources) -> None:
        from services.executor.runtime.cgroups import checks  # a container that is there needs none

        checks.check_resources(resources)
        if resources.get("unified"):
            raise NotSupported("linux.resources.unified", "invalid configuration: needs cgroup v2; this machine has v1")
        for controller, field in _CONTROLLERS.wanted(resources):
            if controller.NAME not in self.roots:
                raise NotSupported(field, f"the {controller.NAME} controller is not mounted")
            controller.validate(self.roots[controller.NAME], resources)

    def create(self, path: str, resources: Resources) -> Cgroup:
        from services.executor.runtime.cgroups.v1 import cpuset

        cgroup = V1Cgroup(self, path)
        made: list[str] = []
        try:
            for root in self.unique_roots:
                make = cpuset.make if root == self._cpuset_root else directories.make
                made += make(root, path)
            cgroup.apply(resources)
        except BaseException:
            for directory in reversed(made):
                directories.prune(directory)
            raise
        return cgroup

    def open(self, path: str) -> Cgroup:
        return V1Cgroup(self, path)

    def preload(self) -> None:
        import services.executor.runtime.cgroups.checks  # noqa: F401

        _CONTROLLERS.all()
        _CONTROLLERS.get("freezer")

    def prune(self, path: str) -> None:
        for root in self.unique_roots:
            directories.prune(root + path)

    def tidy(self) -> None:
        for root in self.unique_roots:
            directories.remove_if_empty(root + DEFAULT_PARENT)


if TYPE_CHECKING:
    _backend: CgroupBackend = V1Backend({}, None)
