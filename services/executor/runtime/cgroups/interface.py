"""What the rest of the runtime may ask of control groups, whichever version the kernel has mounted.

Imported by type checkers only: `typing` costs a short-lived runtime more than all of this package.
"""

from __future__ import annotations

from typing import Any, Protocol

Resources = dict[str, Any]
"""`linux.resources` of config.json. Source: runtime-spec, config-linux.md#control-groups."""

Stats = dict[str, Any]
"""The `data` object of `runc events --stats`: cpu, cpuset, memory, pids, blkio, hugetlb, rdma."""


class Controller(Protocol):
    """One file of `v1/` or `v2/`: a controller's own settings, checks and statistics."""

    NAME: str
    """The kernel's name of it, as in /proc/cgroups or cgroup.controllers."""

    def wanted(self, resources: Resources) -> str | None:
        """The first field set that needs this controller ("linux.resources.pids.limit"), or None."""

    def validate(self, directory: str, resources: Resources) -> None:
        """Refuse what makes no sense or what this kernel cannot do; `directory` is the root of the hierarchy."""

    def apply(self, directory: str, resources: Resources) -> None:
        """Write what is set; leave alone what is absent."""

    def stats(self, directory: str, into: Stats) -> None:
        """Add this controller's part."""


class Cgroup(Protocol):
    """One container's control group: on v1 a directory in every hierarchy."""

    @property
    def path(self) -> str:
        """Path below the hierarchy's root, absolute: "/davit/<id>"."""

    @property
    def paths(self) -> dict[str, str]:
        """Directory by controller; the v2 hierarchy is "unified". Also there when the directories are not."""

    def exists(self) -> bool:
        """Whether the kernel has it."""

    def add(self, pid: int) -> None:
        """Move a process in, in every hierarchy."""

    def directory_fd(self) -> int | None:
        """For CLONE_INTO_CGROUP: a descriptor of the v2 directory, to be closed by the caller; None on plain v1."""

    def leaf_fd(self, pid: int) -> int:
        """The same of the v2 group that `pid`, the container's first process, has moved to.

        A container that switched controllers on for groups of its own (its systemd, say) has no processes in its
        topmost group, nor may it have: a process that joins it from outside (EBUSY) goes where the first one is.
        """

    def apply(self, resources: Resources) -> None:
        """Write the fields that are set; a value of 0 means "unchanged" wherever it does for runc.

        Device rules replace those in force; `device_rules.ALWAYS_ALLOWED` come after them, as in runc.

        Raises:
            InvalidSpec, NotSupported, KernelFailure: the fields before it have been written.
        """

    def freeze(self) -> None:
        """Suspend every process; returns when the kernel says that all are.

        Raises:
            KernelFailure: they could not be frozen in time (ETIMEDOUT); they run on.
        """

    def thaw(self) -> None:
        """Let them run."""

    def frozen(self) -> bool:
        """Whether it is (or is being) frozen."""

    def pids(self, recursive: bool = True) -> list[int]:
        """Processes in it, in the reader's pid namespace; with those of its children by default."""

    def kill(self, signal_number: int = 9) -> None:
        """Send a signal to every process in it and below, none of which can dodge by forking (SIGKILL)."""

    def remove(self, timeout_s: float = 2.0) -> None:
        """Remove the directories, children first. What is gone already is fine.

        Raises:
            KernelFailure: EBUSY, there are still processes after `timeout_s`.
        """

    def stats(self) -> Stats:
        """Numbers now, in the shape of `runc events --stats`."""

    def oom_kill_count(self) -> int:
        """How many processes the kernel killed here for lack of memory; 0 without the memory controller."""

    def oom_notify_fd(self) -> int:
        """A descriptor that becomes readable when memory ran out (or, on v2, when any memory event was counted).

        Read it (up to 4096 bytes), then compare `oom_kill_count`. It also becomes readable when the cgroup is removed.
        The caller closes it.

        Raises:
            NotSupported: there is no memory controller.
        """


class CgroupBackend(Protocol):
    """The hierarchy or hierarchies found by `detect`."""

    @property
    def kind(self) -> str:
        """ "v1", "hybrid" (v1 with a v2 tree beside it) or "v2"."""

    @property
    def controllers(self) -> frozenset[str]:
        """Names of the controllers that can be used."""

    def validate(self, resources: Resources) -> None:
        """Refuse, before anything is created, what cannot be done. Raises `InvalidSpec` or `NotSupported`."""

    def create(self, path: str, resources: Resources) -> Cgroup:
        """Create the directories (existing ones are taken over, as runc does) and apply `resources`.

        On an error nothing that was created remains.
        """

    def open(self, path: str) -> Cgroup:
        """The control group at `path`, whether or not it exists."""

    def preload(self) -> None:
        """Import what is otherwise imported when it is needed: for processes that are about to fork."""

    def prune(self, path: str) -> None:
        """Remove the groups at and below `path` that have no processes: an engine's empty parent, when it goes."""

    def tidy(self) -> None:
        """Remove our own parent, `paths.DEFAULT_PARENT`, unless there is something in it. Creation makes it again."""
