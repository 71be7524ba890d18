"""Directories of cgroupfs: finding processes in them, signalling those, removing them."""

from __future__ import annotations

import errno
import os
import time

from services.executor.runtime.cgroups import files
from services.executor.runtime.errors import KernelFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_JOIN_ATTEMPTS = 5


def make(root: str, path: str) -> list[str]:
    """Create `path` (absolute) below `root`; answers the directories that did not exist, outermost first."""
    try:
        os.mkdir(root + path, 0o755)
    except FileExistsError:
        return []
    except FileNotFoundError:
        # Somebody may prune the empty parent between its creation and ours: go round again.
        return [*make(root, os.path.dirname(path)), *make(root, path)]
    except OSError as error:
        raise KernelFailure("mkdir", root + path, error.errno or 0, step="cgroups") from error
    return [root + path]


def join(directory: str, pid: int) -> None:
    """Move a process in.

    Raises:
        KernelFailure: ESRCH, there is no such process; and what else cgroups(7) names.
    """
    for attempt in range(_JOIN_ATTEMPTS):
        try:
            files.write_raw(directory, "cgroup.procs", pid)
            return
        except OSError as error:
            # A process that has only just been forked may be refused with EINVAL for a moment.
            if error.errno != errno.EINVAL or attempt == _JOIN_ATTEMPTS - 1:
                raise KernelFailure(
                    "write", f"{pid} to {directory}/cgroup.procs", error.errno or 0, step="cgroups"
                ) from error
            time.sleep(0.01)


def open_directory(directory: str) -> int:
    """A descriptor of it, for CLONE_INTO_CGROUP.

    Raises:
        KernelFailure: ENOENT.
    """
    try:
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelFailure("open", directory, error.errno or 0, step="cgroups") from error


def open_where(root: str, pid: int) -> int:
    """A descriptor of the v2 group that a process is in; `root` is the mount point. Source: proc_pid_cgroup(5).

    Raises:
        KernelFailure: the process is gone.
    """
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as lines:
            path = next(line.rstrip("\n")[3:] for line in lines if line.startswith("0::"))
    except (OSError, StopIteration) as error:
        raise KernelFailure("read", f"/proc/{pid}/cgroup", errno.ESRCH, step="cgroups") from error
    return open_directory(root + path)


def walk(directory: str) -> Iterator[str]:
    """The directory and all below it, parents first; those that vanish meanwhile are left out."""
    yield directory
    try:
        with os.scandir(directory) as entries:
            children = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return
    for child in children:
        yield from walk(child)


def pids(directory: str, recursive: bool) -> list[int]:
    """Processes in it; none when the directory is gone. A process of another pid namespace reads as 0: left out."""
    found: set[int] = set()
    for each in walk(directory) if recursive else (directory,):
        try:
            text = files.read(each, "cgroup.procs")
        except KernelFailure as failure:
            if failure.errno in {errno.ENOENT, errno.ENODEV}:
                continue
            # In a threaded subtree the processes are listed by the threads' root alone.
            if failure.errno == errno.EOPNOTSUPP:
                text = "\n".join(_leader(line) for line in files.read(each, "cgroup.threads").split())
            else:
                raise
        found.update(int(line) for line in text.split() if line != "0")
    return sorted(found)


def _leader(thread: str) -> str:
    try:
        with open(f"/proc/{thread}/status", encoding="utf-8") as status:
            return next(line.split()[1] for line in status if line.startswith("Tgid:"))
    except (OSError, StopIteration):
        return thread


def signal_all(directory: str, number: int) -> None:
    """Send a signal to every process in it and below, once; those that are gone are gone."""
    for pid in pids(directory, recursive=True):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
        except OSError as error:
            raise KernelFailure("kill", f"{pid} with signal {number}", error.errno or 0) from error


def remove(directory: str, deadline: float) -> None:
    """Remove it and all below, children first.

    Args:
        deadline: `time.monotonic()` until which EBUSY is waited for: a process that was killed leaves its group only
            when it has gone through exit(2).

    Raises:
        KernelFailure: EBUSY at the deadline, or anything else that will not get better.
    """
    pause = 0.001
    while True:
        try:
            os.rmdir(directory)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in {errno.EBUSY, errno.ENOTEMPTY}:
                raise KernelFailure("rmdir", directory, error.errno or 0, step="cgroups") from error
            busy = error
        for child in _children(directory):
            remove(child, deadline)
        if time.monotonic() > deadline:
            raise KernelFailure("rmdir", directory, errno.EBUSY, step="cgroups") from busy
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def _children(directory: str) -> list[str]:
    return [each for each in walk(directory) if os.path.dirname(each) == directory]


def prune(directory: str) -> None:
    """Remove it and its subdirectories as far as they are empty of processes; leave the rest alone."""
    for each in reversed(list(walk(directory))):
        remove_if_empty(each)


def remove_if_empty(directory: str) -> None:
    """Remove it unless it has processes or subdirectories, or is somebody else's to remove."""
    try:
        os.rmdir(directory)
    except OSError as error:
        if error.errno not in {errno.EBUSY, errno.ENOTEMPTY, errno.ENOENT, errno.EACCES, errno.EPERM}:
            raise KernelFailure("rmdir", directory, error.errno or 0, step="cgroups") from error
