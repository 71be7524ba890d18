"""The process that serves builds: started when somebody connects to its socket, ended by itself when nobody does.

The supervisor holds the socket and looks at it only while the process does not run, so a client that connects while
it is ending waits in the queue for the next one.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path

NAME = "builds"
ENTRY = "services.image.buildkit"
BACKLOG = 64


class DemandSocket:
    """A listening socket, and when to start a process for it.

    Raises:
        OSError: It cannot be bound.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(path.stat().st_mode):
                path.unlink()  # of an engine that was killed; this one holds the run directory's lock
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        old = os.umask(0o177)  # only the engine's own user may connect
        try:
            self.socket.bind(str(path))
        finally:
            os.umask(old)
        self.socket.listen(BACKLOG)

    @property
    def listening(self) -> str:
        """As `DAVIT_LISTEN_FDS` has it."""
        return f"{self.socket.fileno()}:unix://{self.path}"

    def close(self) -> None:
        self.socket.close()
        self.path.unlink(missing_ok=True)
