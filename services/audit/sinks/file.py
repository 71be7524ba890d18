"""Records as lines of a file, which others rotate."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from services.audit.sinks.delivery import NotDelivered
from services.audit.sinks.formats import Format


class FileDelivery:
    """Appends to a file; opened for each batch, so that one that was moved away is made anew."""

    def __init__(self, path: Path, form: Format) -> None:
        self._path = path
        self._format = form

    async def send(self, first: int, lines: Sequence[bytes]) -> None:
        data = b"".join(self._format.one(line) + b"\n" for line in lines)
        try:
            await asyncio.to_thread(self._append, data)
        except OSError as error:
            raise NotDelivered(f"{self._path}: {error.strerror}") from error

    def _append(self, data: bytes) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            before = os.fstat(descriptor).st_size
            if before and os.pread(descriptor, 1, before - 1) != b"\n":
                os.write(descriptor, b"\n")  # a line that was cut short by a full disk or a crash comes again, whole
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)

    async def close(self) -> None:
        """Nothing stays open."""
