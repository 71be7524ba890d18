"""What is known of a container's process beyond its own life: ids that cannot be taken for another process's."""

from __future__ import annotations

import os

from services.executor.runtime import jsonlite

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def start_time(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 when it is gone. With the id, it names a process for good.

    Source: proc_pid_stat(5), field 22.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(fields[19])


def is_zombie(pid: int) -> bool:
    """Whether a process has ended, or is not there at all."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] in {b"Z", b"X"}
    except (FileNotFoundError, ProcessLookupError):
        return True


def write_json(path: str, data: dict[str, Any]) -> None:
    """Replace a file at once: a reader sees the old document or the new one."""
    temporary = f"{path}.{os.getpid()}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, jsonlite.dumps(data).encode())
    finally:
        os.close(fd)
    os.rename(temporary, path)


def read_json(path: str) -> dict[str, Any] | None:
    """The document, or None when there is no such file."""
    try:
        with open(path, "rb") as file:
            data: dict[str, Any] = jsonlite.loads(file.read())
            return data
    except FileNotFoundError:
        return None
