"""Unpacked layers, for overlayfs to mount.

::

    <data>/layers/<chain id>/fs          the layer's files
    <data>/layers/<chain id>/unsynced    the boot in which it was unpacked, until its files are surely on the disk
    <data>/layers/<chain id>/fetched     an agent has fetched it, which also removes it again
    <data>/layers/.staged-<random>/      being unpacked by somebody who holds the lock on `lock` in it
    <data>/layers/.images                the image service keeps its layers here: nobody need fetch them

Waiting for the disk would take as long as unpacking, and is not needed: the layer's blob is durable, so a layer that
a power cut may have damaged (one marked by another boot) is unpacked again. After kill -9 the page cache is intact.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shared.errors import InvalidArgument, Unavailable
from shared.layers.disk import sync_file_system
from shared.layers.worker import Unpacked, Unpacker

STAGED_PREFIX = ".staged-"
REMOVED_PREFIX = ".removed-"
FETCHED = "fetched"
OWNER = ".images"
_CHAIN_ID = re.compile(r"sha256:[0-9a-f]{64}")


class StagedFiles:
    """A layer whose files are being written to `files`; the store then commits or discards it."""

    def __init__(self, directory: Path, lock: int) -> None:
        self.directory = directory
        self._lock = lock

    @property
    def files(self) -> Path:
        return self.directory / "fs"

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def discard(self) -> None:
        """Remove what was written, unless it was committed."""
        self.close()
        shutil.rmtree(self.directory, ignore_errors=True)


class StagedLayer(StagedFiles):
    """A layer being unpacked: write its tar, then `finish`."""

    def __init__(self, directory: Path, source: int | None, lock: int) -> None:
        super().__init__(directory, lock)
        self._unpacker = Unpacker(directory / "fs", source=source, keep_open=(lock,))

    def write(self, data: bytes | memoryview) -> bool:
        """Pass on the next bytes; False when unpacking has failed, and `finish` says why."""
        return self._unpacker.write(data)

    def end(self) -> None:
        """No more bytes come."""
        self._unpacker.end()

    def finish(self) -> Unpacked:
        """Wait for the end. Raises as `shared.layers.worker.Child.result`."""
        try:
            return self._unpacker.unpacked()
        finally:
            self._unpacker.close()

    def close(self) -> None:
        self._unpacker.close()
        super().close()


class LayerStore:
    """The directory of layers. All methods block; safe from several threads and processes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self, *, owner: bool = False) -> None:
        """Make the directory, and remove what died writers left behind.

        Args:
            owner: The caller is the image service, whose layers these are.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        os.chmod(self.root, 0o711)
        if owner:
            (self.root / OWNER).touch()
        for name in os.listdir(self.root):
            if name.startswith(REMOVED_PREFIX):
                shutil.rmtree(self.root / name, ignore_errors=True)
        self.remove_abandoned()

    def remove_abandoned(self) -> int:
        """Remove what died writers left behind; how much is still held: by writers, or by children of dead ones."""
        with self._registry(fcntl.LOCK_EX):
            staged = [name for name in os.listdir(self.root) if name.startswith(STAGED_PREFIX)]
            abandoned = [name for name in staged if self._is_abandoned(name)]
        for name in abandoned:
            shutil.rmtree(self.root / name, ignore_errors=True)
        return len(staged) - len(abandoned)

    @contextmanager
    def _registry(self, mode: int) -> Iterator[None]:
        """Keeps a staging directory from being looked at between its making and its locking."""
        descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, mode)
            yield
        finally:
            os.close(descriptor)

    def _is_abandoned(self, name: str) -> bool:
        try:
            with open(self.root / name / "lock", "rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except FileNotFoundError:
            return True
        return True

    @property
    def has_owner(self) -> bool:
        """Whether the image service keeps its layers here."""
        return (self.root / OWNER).exists()

    def path(self, chain_id: str) -> Path:
        """The layer's directory. Raises InvalidArgument for what is no chain id."""
        if not _CHAIN_ID.fullmatch(chain_id):
            raise InvalidArgument(f"unsupported chain id {chain_id[:100]!r}")
        return self.root / chain_id[7:]

    def files(self, chain_id: str) -> Path:
        return self.path(chain_id) / "fs"

    def has(self, chain_id: str) -> bool:
        return self.files(chain_id).is_dir()

    def stage(self, source: int | None = None) -> StagedLayer:
        """Begin to unpack a layer.

        Args:
            source: A descriptor to read its tar from; None to `write` it.
        """
        directory, high = self._staging_directory()
        return StagedLayer(directory, source, high)

    def stage_files(self) -> StagedFiles:
        """Begin a layer whose files the caller writes itself, because it knows them to be harmless."""
        return StagedFiles(*self._staging_directory())

    def _staging_directory(self) -> tuple[Path, int]:
        """A new directory with an empty ``fs`` in it, and the lock that keeps others from removing it."""
        directory = self.root / (STAGED_PREFIX + secrets.token_hex(12))
        try:
            with self._registry(fcntl.LOCK_SH):
                directory.mkdir(mode=0o711)
                lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                fcntl.flock(lock, fcntl.LOCK_SH)
            (directory / "fs").mkdir(mode=0o755)
        except OSError as error:
            raise Unavailable(f"a layer cannot be unpacked: {error}") from error
        return directory, lock

    def commit(self, staged: StagedFiles, chain_id: str, *, fetched: bool = False) -> None:
        """Make an unpacked layer available under its chain id. When another process was faster, its copy stays.

        The lock is held until the layer has its name: until then others may take it for abandoned.

        Args:
            fetched: It is a copy, which `fetched` shall list.
        """
        try:
            (staged.directory / "unsynced").write_text(boot_id())
            if fetched:
                (staged.directory / FETCHED).touch()
            os.rename(staged.directory, self.path(chain_id))
        except OSError as error:
            there = self.has(chain_id)
            staged.discard()
            if not there:
                raise Unavailable(f"the layer {chain_id} cannot be stored: {error.strerror}") from error
            return
        staged.close()
        (self.path(chain_id) / "lock").unlink(missing_ok=True)

    def take_away(self, chain_id: str) -> Path | None:
        """Make a layer unavailable at once; the caller then removes the directory that is returned."""
        gone = self.root / (REMOVED_PREFIX + secrets.token_hex(12))
        try:
            os.rename(self.path(chain_id), gone)
        except FileNotFoundError:
            return None
        return gone

    def chain_ids(self) -> Iterator[str]:
        """Every layer in the store."""
        for name in os.listdir(self.root):
            if _CHAIN_ID.fullmatch(f"sha256:{name}"):
                yield f"sha256:{name}"

    def fetched(self) -> list[str]:
        """The layers that were committed as copies."""
        return [chain_id for chain_id in self.chain_ids() if (self.path(chain_id) / FETCHED).exists()]

    def settle(self) -> None:
        """Wait until the files of every layer are on the disk, and take their marks away."""
        marks = [self.path(chain_id) / "unsynced" for chain_id in self.chain_ids()]
        marks = [mark for mark in marks if mark.exists()]
        if not marks:
            return
        descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sync_file_system(descriptor)
        finally:
            os.close(descriptor)
        for mark in marks:
            mark.unlink(missing_ok=True)

    def doubtful(self) -> list[str]:
        """Layers that a power cut may have damaged: unpacked during another boot and not yet on the disk then."""
        found = []
        for chain_id in self.chain_ids():
            with suppress(FileNotFoundError):
                if (self.path(chain_id) / "unsynced").read_text() != boot_id():
                    found.append(chain_id)
        return found


def boot_id() -> str:
    """Different after every start of the machine. Source: random(4)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
