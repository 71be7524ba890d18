"""Control groups of a lab: one for each node, with all its processes and containers below, and the lab's own.

A node's processes are in ``<node>/engine``; ``<node>`` is the root of its cgroup namespace, so that the engine makes
its containers' groups below it, and what limits, freezes or kills the group does so to the whole machine.

Source: kernel, cgroup-v1/*.rst, cgroup-v2.rst; cgroup_namespaces(7).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from services.executor.runtime.cgroups.detect import parse
from shared.errors import Conflict, Unsupported

ENGINE = "engine"
_CPU_PERIOD_US = 100_000
_END_WITHIN_S = 10.0
_WANTED_V2 = ("cpu", "cpuset", "io", "memory", "pids")


@dataclass(frozen=True)
class Limits:
    """memory in bytes, cpus in processors; None for none."""

    memory: int | None = None
    cpus: float | None = None


class Hierarchies:
    """What control groups this machine has mounted: `v1` mount point by controller, `v2` or None."""

    @cached_property
    def _found(self) -> tuple[dict[str, str], str | None]:
        return parse(Path("/proc/self/mountinfo").read_text())

    @property
    def v1(self) -> dict[str, str]:
        return self._found[0]

    @property
    def v2(self) -> str | None:
        return self._found[1]

    @property
    def roots(self) -> list[Path]:
        """Each hierarchy once. Raises Unsupported when there is none."""
        found = [*dict.fromkeys(self.v1.values()), *([self.v2] if self.v2 else [])]
        if not found:
            raise Unsupported("no control group file system is mounted")
        return [Path(root) for root in found]


class Cgroup:
    """One group, in all hierarchies at once. `path` is relative to their roots."""

    def __init__(self, hierarchies: Hierarchies, path: str) -> None:
        self.hierarchies = hierarchies
        self.path = path

    @property
    def directories(self) -> list[Path]:
        return [root / self.path for root in self.hierarchies.roots]

    def child(self, name: str) -> Cgroup:
        return Cgroup(self.hierarchies, f"{self.path}/{name}")

    def create(self) -> None:
        """Make the group and what is above it, ready to have processes."""
        for root in self.hierarchies.roots:
            directory = root
            for part in self.path.split("/"):
                self._delegate(directory)
                directory = directory / part
                directory.mkdir(exist_ok=True)
                self._fill_cpuset(directory)

    def _delegate(self, directory: Path) -> None:
        """v2: let children have the controllers that there are."""
        control = directory / "cgroup.subtree_control"
        if self.hierarchies.v1 or not control.exists():
            return
        there = (directory / "cgroup.controllers").read_text().split()
        control.write_text(" ".join(f"+{name}" for name in _WANTED_V2 if name in there))

    @staticmethod
    def _fill_cpuset(directory: Path) -> None:
        """v1: a new cpuset is empty, and takes no process until it has processors and memory."""
        for name in ("cpuset.cpus", "cpuset.mems"):
            file = directory / name
            if file.exists() and not file.read_text().strip():
                text = (directory.parent / name).read_text()
                with contextlib.suppress(OSError):  # v2 leaves it empty for "as above"
                    file.write_text(text)

    def join(self) -> None:
        """Move the calling process into the group."""
        for directory in self.directories:
            (directory / "cgroup.procs").write_text("0")

    def limit(self, limits: Limits) -> None:
        """Set what all processes below may use together. Raises Unsupported without the controller."""
        quota = -1 if limits.cpus is None else int(limits.cpus * _CPU_PERIOD_US)
        if self.hierarchies.v1:
            self._write("memory", "memory.limit_in_bytes", -1 if limits.memory is None else limits.memory)
            self._write("cpu", "cpu.cfs_quota_us", quota)
            return
        self._write("", "memory.max", "max" if limits.memory is None else limits.memory)
        self._write("", "cpu.max", f"{'max' if quota < 0 else quota} {_CPU_PERIOD_US}")

    def _write(self, controller: str, name: str, value: int | str) -> None:
        root = self.hierarchies.v1.get(controller) if controller else self.hierarchies.v2
        file = Path(root or "/nonexistent") / self.path / name
        if not file.exists():
            if str(value).split()[0] in ("-1", "max"):
                return
            raise Unsupported(f"this machine's control groups have no {name}, which a node's limits need")
        file.write_text(str(value))

    def freeze(self, frozen: bool) -> None:
        """Stop all processes below, or let them go on; returns once it is so. Raises Unsupported, Conflict."""
        freezer = self.hierarchies.v1.get("freezer")
        if freezer:
            file, word = Path(freezer) / self.path / "freezer.state", "FROZEN" if frozen else "THAWED"
            if not file.parent.exists():
                return
            file.write_text(word)
            _await(lambda: file.read_text().strip() == word, f"{self.path} to be {word.lower()}")
        elif self.hierarchies.v2:
            directory = Path(self.hierarchies.v2) / self.path
            if not directory.exists():
                return
            (directory / "cgroup.freeze").write_text(str(int(frozen)))
            wanted = f"frozen {int(frozen)}"
            _await(lambda: wanted in (directory / "cgroup.events").read_text(), f"{self.path} to freeze or thaw")
        else:
            raise Unsupported("this machine has no freezer control group, which pause needs")

    def pids(self) -> set[int]:
        """All processes in the group and below, of any hierarchy."""
        found: set[int] = set()
        for directory in self.directories:
            for group, _, _ in os.walk(directory):
                with contextlib.suppress(OSError):
                    found.update(int(line) for line in Path(group, "cgroup.procs").read_text().split())
        return found

    def kill(self) -> None:
        """SIGKILL everything below at once, and wait until it is gone. Raises Conflict."""
        with contextlib.suppress(Unsupported, Conflict):
            self.freeze(True)  # so that none forks while the others are counted
        self._signal()
        self.freeze(False)
        _await(lambda: not self._signal(), f"the processes of {self.path} to end")

    def _signal(self) -> set[int]:
        """Those that are alive, after a SIGKILL; zombies wait for their parents and are no concern."""
        alive = set()
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                os.kill(pid, signal.SIGKILL)
                if Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX":
                    alive.add(pid)
        return alive

    def remove(self) -> None:
        """Remove the group and all below it. Raises Conflict when a process is in one of them."""
        for directory in self.directories:
            for group in _deepest_first(directory):
                _await(lambda group=group: _removed(group), f"{group} to be empty")  # type: ignore[misc]


def _deepest_first(directory: Path) -> Iterator[Path]:
    for group, _, _ in os.walk(directory, topdown=False):
        yield Path(group)


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _await(condition: Callable[[], bool], what: str) -> None:
    give_up_at = time.monotonic() + _END_WITHIN_S
    while not condition():
        if time.monotonic() > give_up_at:
            raise Conflict(f"waited {_END_WITHIN_S:g} s in vain for {what}")
        time.sleep(0.002)
