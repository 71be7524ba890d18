"""Uploads under way: files that grow, and outlive the process that began them.

::

    <data>/images/uploads/<id>    id: 32 hexadecimal digits, then 16 that tie it to its repository
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from services.image.store.content import READ_BYTES, ContentStore
from shared.errors import Conflict, InvalidArgument, NotFound, Unavailable

_ID = re.compile(r"[0-9a-f]{48}")


class Uploads:
    """The directory of uploads. All methods block."""

    def __init__(self, content: ContentStore) -> None:
        self._content = content
        self._root = content.root / "uploads"

    def prepare(self) -> None:
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def begin(self, repository: str) -> str:
        """A new upload's id."""
        upload_id = secrets.token_hex(16) + _tie(repository)
        (self._root / upload_id).touch(mode=0o600)
        return upload_id

    def size(self, repository: str, upload_id: str) -> int:
        return self._path(repository, upload_id).stat().st_size

    @contextmanager
    def open(self, repository: str, upload_id: str) -> Iterator[BinaryIO]:
        """The upload's file, at its end; nobody else has it meanwhile.

        Raises:
            NotFound: There is no such upload.
            Conflict: Another request is writing to it.
        """
        with open(self._path(repository, upload_id), "ab", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Conflict(f"upload {upload_id} is being written by another request") from error
            yield file

    def finish(self, repository: str, upload_id: str, digest: str) -> int:
        """Make an upload a blob of the store; its size.

        Raises:
            InvalidArgument: The content has another digest; the upload is gone.
        """
        path = self._path(repository, upload_id)
        value = hashlib.sha256()
        with self.open(repository, upload_id) as file, path.open("rb", buffering=0) as written:
            while data := written.read(READ_BYTES):
                value.update(data)
            size = written.tell()
            if f"sha256:{value.hexdigest()}" != digest:
                path.unlink()
                raise InvalidArgument("provided digest did not match uploaded content", registry_code="DIGEST_INVALID")
            try:
                os.fdatasync(file.fileno())
                os.rename(path, self._content.path(digest))
                self._content.sync()
            except OSError as error:
                raise Unavailable(f"content cannot be stored: {error.strerror}") from error
        return size

    def cancel(self, repository: str, upload_id: str) -> None:
        self._path(repository, upload_id).unlink()

    def remove_old(self, older_than_s: float) -> None:
        """Give up uploads that nobody continued."""
        for path in self._root.iterdir():
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > older_than_s:
                    path.unlink()

    def _path(self, repository: str, upload_id: str) -> Path:
        path = self._root / upload_id
        if not _ID.fullmatch(upload_id) or not upload_id.endswith(_tie(repository)) or not path.exists():
            raise NotFound("blob upload unknown to registry", registry_code="BLOB_UPLOAD_UNKNOWN")
        return path


def _tie(repository: str) -> str:
    return hashlib.sha256(repository.encode()).hexdigest()[:16]
