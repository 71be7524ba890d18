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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import BinaryIO

from services.image.build.cachedirs import CacheDirectories

LOCK = "lock"
CONTAINERS = "containers"


@dataclass(frozen=True, slots=True)
class Scratch:
    """One build's directory; the files opened through it are closed when it goes."""

    path: Path
    files: ExitStack
    numbers: count[int] = field(default_factory=count)

    def place(self, what: str) -> Path:
        """A path that nothing has yet."""
        return self.path / f"{what}-{next(self.numbers)}"

    def note_container(self, container_id: str) -> None:
        """Remember a container, for whoever cleans up after a crash."""
        with (self.path / CONTAINERS).open("a") as out:
            out.write(container_id + "\n")

    def spool(self, what: str) -> BinaryIO:
        """A new file to write and read again."""
        return self.files.enter_context(self.place(what).open("w+b"))


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

    @contextmanager
    def scratch(self) -> Iterator[Scratch]:
        """A directory of one build, gone afterwards."""
        with _locked_directory(self._temporary) as path, ExitStack() as files:
            yield Scratch(path, files)

    @contextmanager
    def secrets(self) -> Iterator[Scratch]:
        """A directory for one build's secrets, gone afterwards."""
        with _locked_directory(self._secrets) as path, ExitStack() as files:
            yield Scratch(path, files)


@contextmanager
def _locked_directory(parent: Path) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(dir=parent))
    lock = os.open(path / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)  # the next start removes what resisted
        os.close(lock)


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
