"""Which copies of the service are alive: each holds the lock on a file of its own until it ends, however it ends.

::

    <data>/images/alive/<token>
"""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path

_TOKEN_BYTES = 8


class Presence:
    """This copy of the service. All methods block.

    Attributes:
        token: Names this copy; nobody else ever has the same.
    """

    def __init__(self, root: Path) -> None:
        self._directory = root / "alive"
        self.token = secrets.token_hex(_TOKEN_BYTES)
        self._lock = -1

    def begin(self) -> None:
        """Be seen as alive until this process ends."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._directory / self.token
        new = path.with_suffix(".new")
        self._lock = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        os.rename(new, path)  # only now: what has its name and no lock is of the dead

    def is_dead(self, token: str) -> bool:
        """Whether the copy that has or had a token has ended."""
        if token == self.token:
            return False
        path = self._directory / token
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        path.unlink(missing_ok=True)
        return True

    def tidy(self) -> None:
        """Remove the files of copies that have ended."""
        for path in self._directory.glob("*"):
            self.is_dead(path.name)
