"""The file with the pid of the engine's first process, for those who end it by that."""

from __future__ import annotations

import os
from pathlib import Path

from shared.errors import Conflict
from supervisor.process import Identity


def read(path: Path) -> int:
    """The pid in the file; 0 when there is none."""
    try:
        return int(path.read_text().strip() or 0)
    except (OSError, ValueError):
        return 0


def claim(path: Path) -> None:
    """Write this process's pid, which the guardian keeps.

    Raises:
        Conflict: The process that the file names runs, in dockerd's words; or the file cannot be written.
    """
    pid = read(path)
    if pid not in (0, os.getpid()) and Identity.of(pid) is not None:
        raise Conflict(
            f"failed to start daemon, ensure docker is not running or delete {path}: "
            f"process with PID {pid} is still running"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{os.getpid()}")
    except OSError as error:
        raise Conflict(f"pidfile {path} cannot be written: {error.strerror}") from error


def remove(path: Path, pid: int) -> None:
    """Take the file away, if it is about this process."""
    if read(path) == pid:
        path.unlink(missing_ok=True)
