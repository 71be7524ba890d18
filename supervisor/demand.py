"""The process that serves builds: started when somebody connects to its socket, ended by itself when nobody does.

The supervisor holds the socket and looks at it only while the process does not run, so a client that connects while
it is ending waits in the queue for the next one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
import time
from pathlib import Path

from supervisor.children import FIRST_PAUSE_S, LONGEST_PAUSE_S

log = logging.getLogger("davit.supervisor")

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
        self._not_before = 0.0
        self._pause_s = FIRST_PAUSE_S
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

    def wait_s(self) -> float:
        """How long to wait before the next start; 0 when it may be now."""
        return max(0.0, self._not_before - time.monotonic())

    def ended(self, well: bool) -> None:
        """The process has ended. One that fails is not started over and over."""
        if well:
            self._pause_s, self._not_before = FIRST_PAUSE_S, 0.0
            return
        self._not_before = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def close(self) -> None:
        self.socket.close()
        self.path.unlink(missing_ok=True)
