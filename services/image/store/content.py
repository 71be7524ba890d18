"""The content store: blobs by digest, in the shape of an OCI image layout.

::

    <data>/images/oci-layout
    <data>/images/blobs/sha256/<hex>     whole, verified, never changed
    <data>/images/ingest/<random>        being written by somebody who holds its lock
    <data>/images/ingest/<hex>.part      a download that may be continued

A blob appears under its digest by rename, after its bytes are on the disk: a crash leaves either all of it or an
ingest file, which is removed or continued later.

Source: OCI image-spec, image-layout.md.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from services.image.catalog.manifests import digest_of, is_digest
from shared.errors import Conflict, InvalidArgument, NotFound, Unavailable
from shared.layers.disk import start_writing

LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
READ_BYTES = 1 << 20
# Starting to write back early makes the wait for the disk at the end short.
_WRITE_BACK_BYTES = 16 * 1024 * 1024
PART_SUFFIX = ".part"


class Ingest:
    """A blob being written. Commit it or discard it; leaving the context discards what was not committed.

    Args:
        hashing: Whether to compute the digest here; otherwise `commit` is told it by whoever did.
    """

    def __init__(self, store: ContentStore, path: Path, file: BinaryIO, *, hashing: bool = True) -> None:
        self._store = store
        self._path = path
        self._file = file
        self._hash = hashlib.sha256() if hashing else None
        self._done = False
        self._flushed = 0
        self.size = 0

    def write(self, data: bytes | memoryview) -> None:
        """Raises Unavailable when the disk is full or fails."""
        try:
            self._file.write(data)
            self.size += len(data)
            if self.size - self._flushed >= _WRITE_BACK_BYTES:
                start_writing(self._file.fileno(), self._flushed, self.size - self._flushed)
                self._flushed = self.size
        except OSError as error:
            raise Unavailable(f"content cannot be stored: {error.strerror}") from error
        if self._hash is not None:
            self._hash.update(data)

    @property
    def is_open(self) -> bool:
        """Whether it may still be written, committed or discarded."""
        return not self._done

    def resume(self) -> int:
        """Take in what an earlier attempt left, and return how many bytes that is."""
        self._file.seek(0)
        while data := self._file.read(READ_BYTES):
            self.size += len(data)
            if self._hash is not None:
                self._hash.update(data)
        return self.size

    def restart(self) -> None:
        """Forget everything written so far."""
        self._file.seek(0)
        self._file.truncate()
        self.size = self._flushed = 0
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        assert self._hash is not None
        return f"sha256:{self._hash.hexdigest()}"

    def commit(self, digest: str | None = None) -> str:
        """Make the blob part of the store and return its digest.

        Args:
            digest: What it must be; believed without a check when this ingest does not hash.

        Raises:
            InvalidArgument: The content has another digest; it is discarded.
        """
        actual = self.digest if self._hash is not None else digest
        if actual is None or (digest is not None and digest != actual):
            self.discard()
            raise InvalidArgument(f"content has the digest {actual} and should have {digest}")
        try:
            os.fdatasync(self._file.fileno())
            target = self._store.path(actual)
            os.fchmod(self._file.fileno(), 0o644)
            os.rename(self._path, target)
            _sync_directory(target.parent)
        except OSError as error:
            raise Unavailable(f"content cannot be stored: {error.strerror}") from error
        self._done = True
        self._file.close()
        return actual

    def reading(self) -> BinaryIO:
        """Another view of what was written so far, from its beginning."""
        return open(self._path, "rb", buffering=0)

    def keep(self) -> None:
        """Leave what is there for a later attempt."""
        self._done = True
        self._file.close()

    def discard(self) -> None:
        if self._done:
            return
        self._done = True
        self._path.unlink(missing_ok=True)
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.discard()


class ContentStore:
    """Blobs under a directory. All methods block; safe from several threads and processes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "blobs" / "sha256"
        self._ingest = root / "ingest"

    def prepare(self) -> None:
        """Make the directories, and remove what died writers left behind."""
        self._blobs.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._ingest.mkdir(exist_ok=True, mode=0o700)
        os.chmod(self.root, 0o700)
        layout = self.root / "oci-layout"
        if not layout.exists():
            layout.write_bytes(LAYOUT)
        self.remove_abandoned()

    def remove_abandoned(self) -> int:
        """Remove what died writers left behind; how much is still held by somebody."""
        left = [path for path in self._ingest.iterdir() if path.suffix != PART_SUFFIX]
        return sum(not _remove_if_abandoned(path) for path in left)

    def path(self, digest: str) -> Path:
        """Where a blob is, or would be. Raises InvalidArgument for what is no digest."""
        if not is_digest(digest):
            raise InvalidArgument(f"unsupported digest {digest[:100]!r}", field="digest")
        return self._blobs / digest[7:]

    def has(self, digest: str) -> bool:
        return self.path(digest).exists()

    def size(self, digest: str) -> int:
        """Raises NotFound."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError as error:
            raise NotFound(f"content {digest} is not in the store", digest=digest) from error

    def open(self, digest: str) -> BinaryIO:
        """Raises NotFound."""
        try:
            return open(self.path(digest), "rb", buffering=0)
        except FileNotFoundError as error:
            raise NotFound(f"content {digest} is not in the store", digest=digest) from error

    def read(self, digest: str, limit: int) -> bytes:
        """All of a small blob, verified.

        Raises:
            NotFound: It is not there.
            InvalidArgument: It is larger than the limit.
            Unavailable: The disk gave back something else.
        """
        with self.open(digest) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise InvalidArgument(f"content {digest} is larger than the {limit} bytes allowed here")
        if digest_of(data) != digest:
            raise Unavailable(f"content {digest} is damaged on disk", digest=digest)
        return data

    def verify(self, digest: str) -> bool:
        """Whether a blob still has its digest."""
        value = hashlib.sha256()
        with self.open(digest) as file:
            while data := file.read(READ_BYTES):
                value.update(data)
        return f"sha256:{value.hexdigest()}" == digest

    def ingest(self, *, hashing: bool = True) -> Ingest:
        """Begin a new blob of a digest that is not known yet."""
        return self._begin(self._ingest / secrets.token_hex(16), hashing=hashing)

    def continued(self, digest: str) -> Ingest:
        """Begin, or continue, a download of a known digest.

        Raises:
            Conflict: Another process is downloading it.
        """
        path = self._ingest / (self.path(digest).name + PART_SUFFIX)
        ingest = self._begin(path, hashing=True)
        ingest.resume()
        return ingest

    def _begin(self, path: Path, *, hashing: bool) -> Ingest:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            file = os.fdopen(descriptor, "r+b", buffering=0)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise Conflict(f"{path.name} is being written by another process") from error
        except OSError as error:
            raise Unavailable(f"content cannot be stored: {error.strerror}") from error
        return Ingest(self, path, file, hashing=hashing)

    def touch(self, digest: str) -> None:
        """Let a blob count as new. Raises NotFound."""
        try:
            os.utime(self.path(digest))
        except FileNotFoundError as error:
            raise NotFound(f"content {digest} is not in the store", digest=digest) from error

    def age_s(self, digest: str) -> float:
        """Seconds since a blob was stored or touched; infinite when it is not there."""
        try:
            return time.time() - self.path(digest).stat().st_mtime
        except FileNotFoundError:
            return math.inf

    def sync(self) -> None:
        """Wait until the names of all blobs are on the disk. Raises OSError."""
        _sync_directory(self._blobs)

    def put(self, data: bytes) -> str:
        """Store a small blob and return its digest."""
        digest = digest_of(data)
        if not self.has(digest):
            with self.ingest() as ingest:
                ingest.write(data)
                ingest.commit(digest)
        return digest

    def remove(self, digest: str) -> int:
        """Remove a blob and return how many bytes that frees; 0 when it was not there."""
        path = self.path(digest)
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        return size

    def digests(self) -> Iterator[str]:
        """Every blob in the store."""
        for name in os.listdir(self._blobs):
            if is_digest(f"sha256:{name}"):
                yield f"sha256:{name}"

    def remove_old_parts(self, older_than_s: float) -> None:
        """Give up downloads that nobody continued."""
        for path in self._ingest.glob(f"*{PART_SUFFIX}"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > older_than_s:
                    _remove_if_abandoned(path)


def _remove_if_abandoned(path: Path) -> bool:
    """Remove a file unless somebody has it locked; whether it is gone."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
