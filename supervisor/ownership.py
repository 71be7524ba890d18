"""Whether the engine's directories are still its own: somebody may delete or replace them while it runs.

The locks that an engine holds are files in its directories. A lock whose path does not lead to it any more says that
the directory is gone, moved, or another engine's by now. The kernel tells of it (inotify), so nothing is polled.

Source: inotify(7).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

# The lock file lost a name, was deleted, or was moved; the same of the directory it is in.
_IN_ATTRIB, _IN_DELETE_SELF, _IN_MOVE_SELF = 0x4, 0x400, 0x800
_IN_CLOEXEC, _IN_NONBLOCK = os.O_CLOEXEC, os.O_NONBLOCK
EXIT_LOST = 75  # EX_TEMPFAIL of sysexits.h; the guardian does not start a supervisor again after it


class Ownership:
    """The directories of some held locks.

    Args:
        locks: Descriptors of lock files that this process has open.
    """

    def __init__(self, locks: Iterable[int]) -> None:
        self._paths = {descriptor: os.readlink(f"/proc/self/fd/{descriptor}") for descriptor in locks}
        self.descriptor = self._watched()

    def _watched(self) -> int:
        libc = ctypes.CDLL(None, use_errno=True)
        descriptor: int = libc.inotify_init1(_IN_CLOEXEC | _IN_NONBLOCK)
        if descriptor < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        mask = _IN_ATTRIB | _IN_DELETE_SELF | _IN_MOVE_SELF
        for path in self._paths.values():
            for watched in (path, os.path.dirname(path)):
                libc.inotify_add_watch(descriptor, os.fsencode(watched), mask)  # one that is gone is lost already
        return descriptor

    def drain(self) -> None:
        """Take what the kernel announced."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.descriptor, 4096):
                pass

    def lost(self) -> Path | None:
        """A directory that is not this engine's any more; None while all are."""
        for descriptor, path in self._paths.items():
            try:
                same = os.path.samestat(os.fstat(descriptor), os.stat(path))
            except OSError:
                same = False
            if not same:
                return Path(path.removesuffix(" (deleted)")).parent
        return None


def containers_below(agent: int) -> list[str]:
    """The ids of containers whose shims belong to an agent (a pid), by the control groups of what they run."""
    import psutil

    found = set()
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(agent).children(recursive=True):
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{process.pid}/cgroup").read_text().splitlines()
                names = {part for line in lines for part in line.rpartition(":")[2].split("/")}
                found |= {name for name in names if len(name) == 64 and not set(name) - set("0123456789abcdef")}
    return sorted(found)
