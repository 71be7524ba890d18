"""Directories of ``RUN --mount=type=cache``, which outlive builds.

::

    <data>/build/cache/<key>/lock    held by every use: alone by ``locked`` and ``private``, else together
                             fs/     what is mounted; comes and goes by rename, so never half filled, half removed
                             id      the name that Dockerfiles give it

The locks are the kernel's, on files, so they hold between copies of this service on one machine and end with them.

Source: Dockerfile reference, "RUN --mount=type=cache"; flock(2).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

from shared.cancellation import to_the_end

LOCK, FILES, NAME = "lock", "fs", "id"
PART, REMOVED = "part-", "removed-"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.01, 0.25

Fill = Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class CacheDirectories:
    """Cache directories by the name that Dockerfiles give them."""

    root: Path

    @asynccontextmanager
    async def use(
        self, identifier: str, *, sharing: str, mode: int, uid: int, gid: int, fill: Fill | None = None
    ) -> AsyncIterator[Path]:
        """Hold a cache, waiting for it where it has to be: its directory.

        Args:
            sharing: ``shared`` with others, ``locked`` alone, ``private`` alone in a directory that nobody holds.
            mode, uid, gid: Of a directory that is new.
            fill: Puts the first content into a directory that is new. Blocks.
        """
        key = hashlib.sha256(identifier.encode()).hexdigest()[:32]
        create = partial(_create, identifier=identifier, attributes=(mode, uid, gid), fill=fill)
        holder, descriptor = await self._hold(key, sharing, create)
        try:
            os.utime(holder)
            yield holder / FILES
        finally:
            os.close(descriptor)

    async def _hold(self, key: str, sharing: str, create: Callable[[Path], None]) -> tuple[Path, int]:
        pause_s = FIRST_PAUSE_S
        while True:
            for holder in self._candidates(key, sharing):
                descriptor = await _try_use(holder, sharing, create)
                if descriptor is not None:
                    return holder, descriptor
            # A thread that waits in flock(2) could not be called back when the build is cancelled.
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _candidates(self, key: str, sharing: str) -> Iterator[Path]:
        yield self.root / key
        if sharing == "private":
            yield from (self.root / f"{key}-{number}" for number in count(1))

    def entries(self) -> list[Path]:
        """The caches that there are, each a directory with its files in ``fs``."""
        if not self.root.is_dir():
            return []
        return sorted(path for path in self.root.iterdir() if (path / FILES).is_dir())

    def in_use(self, name: str) -> bool:
        with _held_alone(self.root / name) as held:
            return not held and (self.root / name / FILES).is_dir()

    def remove(self, name: str) -> int:
        """Remove a cache that nobody uses; the bytes that it held. Blocks."""
        holder = self.root / name
        with _held_alone(holder) as held:
            if not held or not (holder / FILES).is_dir():
                return 0
            size = directory_bytes(holder / FILES)
            os.rename(holder / FILES, tempfile.mkdtemp(prefix=REMOVED, dir=holder))
            _remove_parts(holder)
            (holder / NAME).unlink(missing_ok=True)
            # The lock last: whoever waits for it sees that it is gone, and begins anew.
            (holder / LOCK).unlink()
            with contextlib.suppress(OSError):  # somebody began anew already
                holder.rmdir()
            return size


async def _try_use(holder: Path, sharing: str, create: Callable[[Path], None]) -> int | None:
    """The descriptor that holds a cache whose files are there; None when it cannot be held now."""
    holder.mkdir(parents=True, exist_ok=True, mode=0o700)
    alone = sharing != "shared"
    if not (holder / FILES).is_dir() and (descriptor := _try_lock(holder, exclusive=True)) is not None:
        # Whoever makes the files holds the cache alone meanwhile, also when it is to be shared.
        try:
            # To the end even when the build is cancelled: the thread goes on, and must not without the lock.
            await to_the_end(asyncio.ensure_future(asyncio.to_thread(create, holder)))
        finally:
            os.close(descriptor)
    descriptor = _try_lock(holder, exclusive=alone)
    if descriptor is not None and not (holder / FILES).is_dir():  # removed between two locks
        os.close(descriptor)
        return None
    return descriptor


def _create(holder: Path, identifier: str, attributes: tuple[int, int, int], fill: Fill | None) -> None:
    """Make the files of a cache that the caller holds alone. Blocks."""
    if (holder / FILES).is_dir():
        return
    _remove_parts(holder)
    mode, uid, gid = attributes
    part = Path(tempfile.mkdtemp(prefix=PART, dir=holder))
    try:
        if fill is not None:
            fill(part)
        os.chown(part, uid, gid)
        os.chmod(part, mode)
        (holder / NAME).write_text(identifier)
        os.rename(part, holder / FILES)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _remove_parts(holder: Path) -> None:
    """Remove what was removed, and what crashes left half made. The caller holds the cache alone."""
    for path in holder.iterdir():
        if path.name.startswith((PART, REMOVED)):
            shutil.rmtree(path, ignore_errors=True)


def _try_lock(holder: Path, *, exclusive: bool) -> int | None:
    """The descriptor that holds a cache; None when it cannot be held now, or was removed at this moment."""
    try:
        descriptor = os.open(holder / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(holder / LOCK)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


@contextmanager
def _held_alone(holder: Path) -> Iterator[bool]:
    """Whether nobody else holds a cache, who then has to wait."""
    descriptor = _try_lock(holder, exclusive=True) if holder.is_dir() else None
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


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
