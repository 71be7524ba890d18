"""A writer's files of records that the audit service has not taken yet.

A record that was written survives the death of every process; one that was written and synced, that of the machine.
Neither needs the audit service to be there. The service takes records in their order, and removes files of which it has
taken all.

::

    <name>-<id>.0.spool   head │ record 1 │ record 2 │ … zeros        written by one process, which holds a lock on it
    <name>-<id>.1.spool   head │ record 9 │ …                         once the one before it is large
    <name>-<id>.lost      what could not be recorded and has not been told yet

A head says which source it is, which record comes first, and which requests are still under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson

from shared.auditing.frames import HEAD, LARGEST_BYTES, packed
from shared.cancellation import to_the_end
from shared.errors import InvalidArgument, Unavailable
from shared.state.reserve import is_full

CHUNK_BYTES = 1 << 20
# Kept for what ends something while the disk is full: some thousand records.
RESERVE_BYTES = 1 << 20
FILE_BYTES = 8 << 20
# What a file begins with when a writer starts on a full disk.
LEAST_AHEAD_BYTES = (256 * 1024, 64 * 1024)
# All files of one writer. More waits only when nobody takes it.
WAITING_BYTES = 64 << 20
LOOK_EVERY_S = 0.05
LOST_BYTES = 4096
SUFFIX = ".spool"
# Written last, by a writer that ends in order. No record.
CLOSED = b'{"closed":true}'
LOST_SUFFIX = ".lost"


class Spool:
    """One writer's spool. Not for several threads.

    Args:
        directory: Made when missing.
        name: The service's.
        open_requests: What is under way when a new file is begun, for its head.
        waiting_bytes: How much may wait to be taken.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        *,
        open_requests: Callable[[], list[Any]] = list,
        waiting_bytes: int = WAITING_BYTES,
    ) -> None:
        self.source = f"{name}-{secrets.token_hex(6)}"
        self._directory = directory
        self._open_requests = open_requests
        self._waiting_bytes = waiting_bytes
        self._sequence = 0
        self._index = -1
        self._descriptor = -1
        self._position = 0
        self._allocated = 0
        self._look_at = 0.0
        self._full = False
        self._synced = 0
        self._syncing: asyncio.Future[None] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spool-sync")
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lost = _made(directory / f"{self.source}{LOST_SUFFIX}")
            os.pwrite(self._lost, bytes(LOST_BYTES), 0)  # real blocks, so that a full disk takes what is written here
        except OSError as error:
            raise Unavailable(f"the audit spool {directory} cannot be made: {error.strerror}") from error
        self._next_file()

    @property
    def sequence(self) -> int:
        """The number of the record that was written last; the first is 1."""
        return self._sequence

    def write(self, payload: bytes, *, spare: bool = False) -> None:
        """Add a record: once this returns, no death of a process loses it.

        Args:
            spare: Also into the space that is kept for what ends something.

        Raises:
            Unavailable: There is no room, or the disk refuses; nothing was written.
        """
        frame = packed(payload)
        if len(payload) > LARGEST_BYTES:
            raise InvalidArgument(f"an audit record of {len(payload)} bytes is larger than {LARGEST_BYTES}")
        self._find_room(len(frame), spare=spare)
        try:
            written = os.pwrite(self._descriptor, frame, self._position)
            if written != len(frame):
                os.pwrite(self._descriptor, bytes(HEAD.size), self._position)
                raise Unavailable("the audit record could not be written whole")
        except OSError as error:
            raise Unavailable(f"the audit record could not be written: {error.strerror}") from error
        self._position += len(frame)
        self._sequence += 1

    def _find_room(self, size: int, *, spare: bool) -> None:
        if not spare and self._disk_is_full():
            raise Unavailable(f"the audit record could not be written: the disk is full ({self._directory})")
        if self._position >= FILE_BYTES and not self._full:
            try:
                self._next_file()
            except Unavailable:
                if not spare:
                    raise
        kept = HEAD.size + (0 if spare else RESERVE_BYTES)
        while self._allocated - self._position < size + kept:
            try:
                os.posix_fallocate(self._descriptor, self._allocated, CHUNK_BYTES)
            except OSError as error:
                if spare and self._allocated - self._position >= size + HEAD.size:
                    return
                raise Unavailable(f"the audit record could not be written: {error.strerror}") from error
            self._allocated += CHUNK_BYTES

    def _disk_is_full(self) -> bool:
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY_S
            self._full = is_full(self._directory)
        return self._full

    def _next_file(self) -> None:
        """Begin another file. Raises Unavailable, and the one before it goes on being used."""
        if (waiting := self._bytes_waiting()) > self._waiting_bytes:
            raise Unavailable(f"{waiting} bytes of audit records wait for the audit service, which does not take them")
        head = {
            "source": self.source,
            "next": self._sequence + 1,
            "boot": boot_id(),
            "open": self._open_requests(),
        }
        frame = packed(orjson.dumps(head))
        # Under another name until it has its head and its lock: whoever finds it may trust both.
        hidden = self._directory / f".{self.source}.{self._index + 1}"
        try:
            descriptor = _made(hidden)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                size = _allocated(descriptor, len(frame))
                os.pwrite(descriptor, frame, 0)
                os.rename(hidden, self._directory / f"{self.source}.{self._index + 1}{SUFFIX}")
                _sync_directory(self._directory)
            except OSError:
                os.close(descriptor)
                hidden.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise Unavailable(f"the audit spool {self._directory} cannot be written: {error.strerror}") from error
        before, self._descriptor = self._descriptor, descriptor
        self._index += 1
        self._position, self._allocated = len(frame), size
        if before >= 0:
            os.fsync(before)
            os.close(before)

    def _bytes_waiting(self) -> int:
        return sum(_size(path) for path in self._directory.glob(f"{self.source}.*{SUFFIX}"))

    async def sync(self) -> None:
        """Return when all that was written before the call is on the disk; calls at the same time share one sync.

        Raises:
            Unavailable: The disk failed.
        """
        wanted = self._sequence
        while self._synced < wanted:
            if self._syncing is None:
                self._syncing = asyncio.ensure_future(self._sync())
            await asyncio.shield(self._syncing)

    async def _sync(self) -> None:
        reached, descriptor = self._sequence, os.dup(self._descriptor)
        try:
            await to_the_end(asyncio.get_running_loop().run_in_executor(self._thread, os.fdatasync, descriptor))
            self._synced = reached
        except OSError as error:
            raise Unavailable(f"the audit record is not on the disk: {error.strerror}") from error
        finally:
            self._syncing = None
            os.close(descriptor)

    def tell_lost(self, lost: dict[str, Any] | None) -> None:
        """Keep what could not be recorded where the next process finds it; None: it has been recorded."""
        data = b"" if lost is None else orjson.dumps(lost)
        try:
            os.pwrite(self._lost, data[:LOST_BYTES].ljust(LOST_BYTES, b"\0"), 0)
        except OSError as error:
            raise Unavailable(f"what could not be recorded cannot be counted: {error.strerror}") from error

    def close(self) -> None:
        """Let go of the files; the audit service takes what is in them."""
        self._thread.shutdown()
        frame = packed(CLOSED)
        if self._allocated - self._position >= len(frame):
            with contextlib.suppress(OSError):  # then it looks as if it had been killed
                os.pwrite(self._descriptor, frame, self._position)
        for descriptor in (self._descriptor, self._lost):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self._lost = -1


def boot_id() -> str:
    """Which run of the machine this is. Source: random(4)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _made(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _allocated(descriptor: int, head_bytes: int) -> int:
    """Make a new file longer ahead; on a disk that is nearly full by less, for what ends something. Raises OSError."""
    for ahead in (CHUNK_BYTES + RESERVE_BYTES, *LEAST_AHEAD_BYTES):
        try:
            os.posix_fallocate(descriptor, 0, head_bytes + ahead)
        except OSError:
            os.truncate(descriptor, 0)
            if ahead == LEAST_AHEAD_BYTES[-1]:
                raise
            continue
        return head_bytes + ahead
    raise AssertionError("unreachable")


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # taken meanwhile
        return 0
