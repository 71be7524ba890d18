"""How a process ended: written to disk before the shim tells anybody, so that nobody has to have been listening."""

from __future__ import annotations

import os

from services.executor.runtime import jsonlite

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class ExitRecord:
    """The end of one process.

    Attributes:
        exit_code: as a shell has it, 128 + n for signal n.
        signal: the signal that ended it, or 0.
        oom_killed: the kernel killed something in its cgroup for lack of memory.
        started_at_ns, finished_at_ns: nanoseconds since the epoch; `started_at_ns` is 0 when it never ran.
        error: why it never ran, or "".
    """

    __slots__ = ("error", "exit_code", "finished_at_ns", "oom_killed", "signal", "started_at_ns")

    def __init__(
        self,
        exit_code: int,
        signal: int = 0,
        *,
        oom_killed: bool = False,
        started_at_ns: int = 0,
        finished_at_ns: int = 0,
        error: str = "",
    ) -> None:
        self.exit_code = exit_code
        self.signal = signal
        self.oom_killed = oom_killed
        self.started_at_ns = started_at_ns
        self.finished_at_ns = finished_at_ns
        self.error = error

    @classmethod
    def of_status(cls, status: int, **fields: Any) -> ExitRecord:
        """From what waitpid(2) said."""
        if os.WIFSIGNALED(status):
            return cls(128 + os.WTERMSIG(status), os.WTERMSIG(status), **fields)
        return cls(os.WEXITSTATUS(status), **fields)

    def to_dict(self) -> dict[str, Any]:
        """As plain data; the file has the same."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ExitRecord:
        """The inverse of `to_dict`; unknown keys are left for newer readers."""
        known = {name: data[name] for name in cls.__slots__ if name in data}
        return cls(**known)

    def write(self, path: str) -> None:
        """Atomically and durably: after a crash the file is whole or not there."""
        temporary = path + ".tmp"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, jsonlite.dumps(self.to_dict()).encode())
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)


def read(path: str) -> ExitRecord | None:
    """The record, or None when the process has not ended (or its shim was killed before it could say)."""
    try:
        with open(path, "rb") as file:
            return ExitRecord.from_dict(jsonlite.loads(file.read()))
    except FileNotFoundError:
        return None
