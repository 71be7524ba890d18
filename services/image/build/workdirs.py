"""Scratch space of builds, caches that outlive them, and secrets that must never reach a disk.

::

    <data>/build/tmp/<random>/    one per build, locked while the build lives; a crash leaves an unlocked one,
                                  which the next start removes
    <data>/build/cache/<key>/     RUN --mount=type=cache
    <run>/build/<random>/         secrets, on the run directory's memory file system
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import BinaryIO

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


@dataclass(frozen=True, slots=True)
class CacheUse:
    """A cache mount's directory. new: it was made for this use and is empty."""

    path: Path
    new: bool


class CacheDirectories:
    """Directories of ``type=cache`` mounts, by the name that Dockerfiles give them."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._locks: dict[str, asyncio.Lock] = {}
        self._private: dict[str, int] = {}
        self._users: dict[str, int] = {}

    @asynccontextmanager
    async def use(self, identifier: str, *, sharing: str, mode: int, uid: int, gid: int) -> AsyncIterator[CacheUse]:
        """Hold a cache: ``shared`` with anyone, ``locked`` alone, ``private`` with a directory of one's own."""
        key = hashlib.sha256(identifier.encode()).hexdigest()[:32]
        lock = self._locks.setdefault(key, asyncio.Lock())
        if sharing == "locked":
            await lock.acquire()
        number = 0
        if sharing == "private":
            while self._private.get(f"{key}-{number}"):
                number += 1
            self._private[f"{key}-{number}"] = 1
        name = f"{key}-{number}" if number else key
        self._users[name] = self._users.get(name, 0) + 1
        try:
            yield self._directory(name, identifier, mode, uid, gid)
        finally:
            self._users[name] -= 1
            self._private.pop(f"{key}-{number}", None)
            if sharing == "locked":
                lock.release()

    def _directory(self, name: str, identifier: str, mode: int, uid: int, gid: int) -> CacheUse:
        holder = self._root / name
        path = holder / "fs"
        if path.is_dir():
            os.utime(holder)
            return CacheUse(path, new=False)
        holder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (holder / "id").write_text(identifier)
        path.mkdir(exist_ok=True)
        os.chmod(path, mode)
        os.chown(path, uid, gid)
        return CacheUse(path, new=True)

    def entries(self) -> list[Path]:
        return sorted(self._root.iterdir()) if self._root.is_dir() else []

    def in_use(self, name: str) -> bool:
        return self._users.get(name, 0) > 0

    def remove(self, name: str) -> int:
        """Remove a cache that nobody uses; the bytes that it held. Blocks."""
        holder = self._root / name
        if self.in_use(name) or not holder.is_dir():
            return 0
        size = directory_bytes(holder)
        shutil.rmtree(holder, ignore_errors=True)
        return size


def directory_bytes(path: Path) -> int:
    """Bytes that files below a directory hold. Blocks."""
    total = 0
    for parent, _, files in os.walk(path):
        for name in files:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except FileNotFoundError:  # removed meanwhile
                continue
    return total
