"""Scratch space of builds, and secrets that must never reach a disk.

::

    <data>/build/tmp/<random>/    one per build, locked while the build lives; a crash leaves an unlocked one,
                                  which the next start removes
    <run>/build/<random>/         secrets, on the run directory's memory file system
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import AbstractContextManager, ExitStack, closing
from itertools import count
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from services.image.build.cache.cachedirs import CacheDirectories

LOCK = "lock"
CONTAINERS = "containers"


class Scratch:
    """One build's directory, made when something is put there; the files opened through it are closed when it goes.

    Args:
        parent: Where directories of builds are.
    """

    def __init__(self, parent: Path) -> None:
        self.files = ExitStack()
        self._parent = parent
        self._numbers = count()
        self._making = Lock()
        self._made: tuple[Path, int] | None = None

    @property
    def path(self) -> Path:
        with self._making:  # stages that run in threads may ask at the same time
            if self._made is None:
                self._made = _locked_directory(self._parent)
            return self._made[0]

    def place(self, what: str) -> Path:
        """A path that nothing has yet."""
        return self.path / f"{what}-{next(self._numbers)}"

    def note_container(self, container_id: str) -> None:
        """Remember a container, for whoever cleans up after a crash."""
        with (self.path / CONTAINERS).open("a") as out:
            out.write(container_id + "\n")

    def spool(self, what: str) -> BinaryIO:
        """A new file to write and read again."""
        return self.files.enter_context(self.place(what).open("w+b"))

    def close(self) -> None:
        """Remove it all."""
        self.files.close()
        if self._made is not None:
            path, lock = self._made
            shutil.rmtree(path, ignore_errors=True)  # the next start removes what resisted
            os.close(lock)


class WorkDirectories:
    """Args: data: the builder's directory under the data root. run: its directory under the run directory."""

    def __init__(self, data: Path, run: Path) -> None:
        self._temporary = data / "tmp"
        self._secrets = run
        self.caches = CacheDirectories(data / "cache")

    def prepare(self) -> list[str]:
        """Make the directories and remove what builds left that a crash ended; the containers that they had."""
        containers: list[str] = []
        for parent in (self._temporary, self._secrets):
            parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            for child in parent.iterdir():
                containers.extend(_remove_if_abandoned(child))
        return containers

    def scratch(self) -> AbstractContextManager[Scratch]:
        """A directory of one build, gone afterwards."""
        return closing(Scratch(self._temporary))

    def secrets(self) -> AbstractContextManager[Scratch]:
        """A directory for one build's secrets, gone afterwards."""
        return closing(Scratch(self._secrets))


def _locked_directory(parent: Path) -> tuple[Path, int]:
    """A new directory, and the descriptor that holds its lock."""
    path = Path(tempfile.mkdtemp(dir=parent))
    lock = os.open(path / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return path, lock


def _remove_if_abandoned(path: Path) -> list[str]:
    """Remove a directory whose build is dead; ids of its containers."""
    try:
        lock = os.open(path / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return []  # just being made by another copy of the service
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        noted = path / CONTAINERS
        containers = noted.read_text().split() if noted.exists() else []
        shutil.rmtree(path, ignore_errors=True)
        return containers
    except BlockingIOError:
        return []
    finally:
        os.close(lock)
