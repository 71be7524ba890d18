"""Namespaces bound to files, so that they last without a process; entering them, and letting go of them.

Source: namespaces(7), setns(2), unshare(1) (a mount namespace is bound only below a private mount).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from services.executor.runtime.errors import KernelFailure
from services.executor.runtime.kernel import calls
from services.executor.runtime.kernel.mountcalls import MS_BIND, MS_PRIVATE, mount, umount

# In the order in which they are entered: what comes after the mount namespace would have other paths.
KINDS = {
    "cgroup": calls.CLONE_NEWCGROUP,
    "uts": calls.CLONE_NEWUTS,
    "net": calls.CLONE_NEWNET,
    "mnt": calls.CLONE_NEWNS,
}


def mounted(path: Path) -> bool:
    """Whether something is mounted there; unlike `os.path.ismount` also when it is of the same file system."""
    return any(line.split()[4] == str(path) for line in Path("/proc/self/mountinfo").read_text().splitlines())


class Namespaces:
    """The files of a lab's namespaces, ``<node>.<kind>`` in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def prepare(self) -> None:
        """Make the directory a private mount."""
        self._directory.mkdir(parents=True, exist_ok=True)
        if not mounted(self._directory):
            mount(str(self._directory), str(self._directory), None, MS_BIND)
            mount(None, str(self._directory), None, MS_PRIVATE)

    def path(self, node: str, kind: str) -> Path:
        return self._directory / f"{node}.{kind}"

    def bound(self, node: str, kind: str = "net") -> bool:
        return mounted(self.path(node, kind))

    def bind(self, node: str, pid: int, kinds: Sequence[str]) -> None:
        """Bind the namespaces that a process is in."""
        for kind in kinds:
            file = self.path(node, kind)
            file.touch()
            mount(f"/proc/{pid}/ns/{kind}", str(file), None, MS_BIND)

    def release(self, node: str, kinds: Sequence[str] = tuple(KINDS)) -> None:
        """Let go of them; they end with the last process in them."""
        for kind in kinds:
            file = self.path(node, kind)
            if mounted(file):
                umount(str(file))
            file.unlink(missing_ok=True)

    def open(self, node: str, kind: str) -> int:
        """A descriptor of the namespace. Raises FileNotFoundError."""
        if not self.bound(node, kind):
            raise FileNotFoundError(f"{node} has no {kind} namespace")
        return os.open(self.path(node, kind), os.O_RDONLY | os.O_CLOEXEC)

    def enter(self, node: str, kinds: Sequence[str] = tuple(KINDS)) -> None:
        """Move the calling process, which must have one thread, into a node's namespaces."""
        descriptors = [(self.open(node, kind), kind) for kind in KINDS if kind in kinds]
        for descriptor, kind in descriptors:
            calls.setns(descriptor, KINDS[kind], f"{node}.{kind}")
            os.close(descriptor)

    @contextlib.contextmanager
    def inside(self, node: str) -> Iterator[None]:
        """The calling thread is in a node's network namespace meanwhile; what it opens there stays there."""
        with self.inside_of(self.path(node, "net")):
            yield

    @staticmethod
    @contextlib.contextmanager
    def inside_of(namespace: Path) -> Iterator[None]:
        """As `inside`, of a network namespace's file."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            there = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
            try:
                calls.setns(there, calls.CLONE_NEWNET, str(namespace))
            finally:
                os.close(there)
            try:
                yield
            finally:
                calls.setns(home, calls.CLONE_NEWNET, "home")
        finally:
            os.close(home)

    def close(self) -> None:
        """Release all that are left, and the directory."""
        for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
            target = line.split()[4]
            if Path(target).is_relative_to(self._directory):
                with contextlib.suppress(KernelFailure):
                    umount(target)


@contextlib.contextmanager
def elsewhere() -> Iterator[None]:
    """The calling thread is in a new, empty network namespace meanwhile."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        calls.unshare(calls.CLONE_NEWNET)
        try:
            yield
        finally:
            calls.setns(home, calls.CLONE_NEWNET, "home")
    finally:
        os.close(home)
