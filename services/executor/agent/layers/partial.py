"""What has arrived of a blob, kept in a file, so that an agent that was killed does not begin anew.

::

    <data>/arriving/<hex>     locked by who writes it
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

DIRECTORY = "arriving"
READ_BYTES = 1 << 20
KEPT_S = 24 * 3600.0

log = logging.getLogger(__name__)


class PartialBlob:
    """The beginning of a blob. All methods block.

    It is a convenience: where it cannot be written, or another fetch has it, the blob arrives without it.

    Args:
        data: The data root.
        digest: The blob's.
    """

    def __init__(self, data: Path, digest: str) -> None:
        self._path = data / DIRECTORY / digest.removeprefix("sha256:")
        self._file = self._opened()

    def _opened(self) -> int:
        try:
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            log.info("what arrives of %s is not kept: %s", self._path.name, error)
            return -1
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # a layer with the same content, on top of another
            os.close(file)
            return -1
        return file

    def pieces(self) -> Iterator[bytes]:
        """What is there, from its beginning; then `write` adds to it."""
        while self._file >= 0 and (data := os.read(self._file, READ_BYTES)):
            yield data

    def write(self, data: bytes) -> None:
        try:
            view = memoryview(data)
            while view and self._file >= 0:
                view = view[os.write(self._file, view) :]
        except OSError as error:
            log.info("what arrives of %s is not kept any more: %s", self._path.name, error)
            self.discard()

    def keep(self) -> None:
        """Leave it to a later attempt. Idempotent."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def discard(self) -> None:
        """It is not needed any more, or is of no use. Idempotent."""
        if self._file >= 0:
            self._path.unlink(missing_ok=True)
        self.keep()


def remove_old(data: Path) -> None:
    """Give up what nobody continued for a day."""
    with suppress(FileNotFoundError):
        for path in (data / DIRECTORY).iterdir():
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > KEPT_S:
                    path.unlink()
