"""The bytes of a context: in memory while they are few, else in a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import BinaryIO

from shared.errors import Unavailable

MEMORY_BYTES = 16 << 20


class ContextSpool:
    """Written once, front to back, and read by position.

    Args:
        make_file: Gives a new file, which stays the caller's to close.
    """

    def __init__(self, make_file: Callable[[], BinaryIO]) -> None:
        self._make_file = make_file
        # A descriptor either way, so that reading by position is the same.
        self._memory = os.memfd_create("context", os.MFD_CLOEXEC)
        self._file: BinaryIO | None = None
        self.size_bytes = 0

    def fits_memory(self, more_bytes: int) -> bool:
        """Whether a write of so many bytes will not touch the disk."""
        return self._file is None and self.size_bytes + more_bytes <= MEMORY_BYTES

    def write(self, data: bytes) -> None:
        """Blocks unless `fits_memory`. Raises Unavailable when there is no room."""
        try:
            if self._file is None and not self.fits_memory(len(data)):
                self._file = self._make_file()
                _copy(self._memory, self._file.fileno(), self.size_bytes)
                os.ftruncate(self._memory, 0)
            view = memoryview(data)
            while view:
                view = view[os.write(self.fileno(), view) :]
        except OSError as error:
            raise Unavailable(f"the build context cannot be stored: {error.strerror}") from error
        self.size_bytes += len(data)

    def fileno(self) -> int:
        return self._memory if self._file is None else self._file.fileno()

    def close(self) -> None:
        if self._memory >= 0:
            os.close(self._memory)
        self._memory = -1


def _copy(source: int, target: int, size: int) -> None:
    at = 0
    while at < size:
        at += os.sendfile(target, source, at, size - at)
