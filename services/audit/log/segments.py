"""Records in files: one that grows, and those before it, compressed.

::

    00000000000000000000.log.zst    compressed in frames of a group (256 records) each, with an index at its end
    00000000000000016384.log        lines, then zeros that it was made longer by, ahead
    00000000000000016384.hints      four bytes of each record's hash, to find one that was changed

A file's name is the number of its first record. Frames let a reader begin anywhere; the index is a frame that
decompressors skip.

Source: RFC 8878 (zstd), section 3.1.2, skippable frames.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import zstandard

from services.audit.log.hashes import GROUP
from shared.errors import Internal, Unavailable
from shared.transparency.merkle import leaf_hash

RAW, COMPRESSED, HINTS = ".log", ".log.zst", ".hints"
CHUNK_BYTES = 1 << 20
# Kept for what ends something while the disk is full.
RESERVE_BYTES = 1 << 20
HINT_BYTES = 4
_SKIPPABLE = struct.Struct("<II")
_SKIPPABLE_MAGIC = 0x184D2A50
_TRAILER = struct.Struct("<I")
ZSTD_LEVEL = 3


def file_name(first: int) -> str:
    return f"{first:020d}"


class ActiveSegment:
    """The file that grows.

    Args:
        first: The number of its first record.
    """

    def __init__(self, directory: Path, first: int) -> None:
        self.first = first
        self.count = 0
        self.size_bytes = 0
        self._allocated = 0
        self._groups: list[int] = []  # where each group of records begins
        stem = file_name(first)
        self.path = directory / f"{stem}{RAW}"
        self.hints_path = directory / f"{stem}{HINTS}"
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            self._file = os.open(self.path, flags, 0o600)
            self._hints = os.open(self.hints_path, flags, 0o600)
        except OSError as error:
            raise Unavailable(f"the audit log cannot be written: {self.path}: {error.strerror}") from error

    @property
    def end(self) -> int:
        """The number after its last record's."""
        return self.first + self.count

    def found(self) -> list[bytes]:
        """After a start: all that may be a line; to be judged, and given to `adopt` as far as it is one."""
        data = _read_all(self._file)
        self._allocated = len(data)
        return data[: data.rfind(b"\n") + 1].split(b"\n")[:-1]

    def adopt(self, lines: Sequence[bytes]) -> None:
        """Go on behind these lines. What a write that was cut short has left behind them is overwritten."""
        self._note(lines, 0)
        if self._allocated > self.size_bytes:
            _write_all(self._file, bytes(self._allocated - self.size_bytes), self.size_bytes)

    def _note(self, lines: Sequence[bytes], at: int) -> None:
        for line in lines:
            if not self._groups or self.end % GROUP == 0:
                self._groups.append(at)
            at += len(line) + 1
            self.count += 1
        self.size_bytes = at

    def append(self, lines: Sequence[bytes], leaves: Sequence[bytes]) -> None:
        """Add records. Raises Unavailable, and nothing was added."""
        data = b"\n".join(lines) + b"\n"
        hints = b"".join(leaf[:HINT_BYTES] for leaf in leaves)
        try:
            self._allocate(self.size_bytes + len(data))
            _write_all(self._hints, hints, self.count * HINT_BYTES)
            _write_all(self._file, data, self.size_bytes)
        except OSError as error:
            raise Unavailable(f"the audit log cannot be written: {error.strerror}") from error
        self._note(lines, self.size_bytes)

    def _allocate(self, size: int) -> None:
        while self._allocated < size + RESERVE_BYTES:
            try:
                os.posix_fallocate(self._file, self._allocated, CHUNK_BYTES)
                os.posix_fallocate(self._hints, 0, max(self._allocated // 128, CHUNK_BYTES // 128))
            except OSError:
                if self._allocated >= size:
                    return
                raise
            self._allocated += CHUNK_BYTES

    def sync(self) -> None:
        os.fdatasync(self._file)

    def group(self, number: int) -> list[bytes]:
        """The lines of the group that this record is in, as far as they are in this file."""
        place = number // GROUP - self.first // GROUP
        start = self._groups[place]
        end = self._groups[place + 1] if place + 1 < len(self._groups) else self.size_bytes
        return os.pread(self._file, end - start, start).split(b"\n")[:-1]

    def groups(self) -> Iterator[list[bytes]]:
        """All lines, by group."""
        for place, _ in enumerate(self._groups):
            yield self.group((self.first // GROUP + place) * GROUP if place else self.first)

    def hints(self) -> bytes:
        return os.pread(self._hints, self.count * HINT_BYTES, 0)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.hints_path.unlink(missing_ok=True)

    def close(self) -> None:
        os.close(self._file)
        os.close(self._hints)


@dataclass(frozen=True, slots=True)
class ClosedSegment:
    """A file that is complete and compressed.

    Attributes:
        groups: Of each group: its first record's number, and where its frame begins and ends.
        last_ns: When its last record was written, nanoseconds since the epoch.
        disk_bytes: With its hints.
    """

    path: Path
    first: int
    count: int
    last_ns: int
    disk_bytes: int
    groups: list[tuple[int, int, int]] = field(repr=False)

    @property
    def end(self) -> int:
        return self.first + self.count

    @property
    def hints_path(self) -> Path:
        return self.path.with_name(f"{file_name(self.first)}{HINTS}")

    @classmethod
    def read(cls, path: Path) -> ClosedSegment:
        """Raises Internal when it is not whole."""
        try:
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(size - _TRAILER.size)
                (length,) = _TRAILER.unpack(file.read(_TRAILER.size))
                file.seek(size - _TRAILER.size - length)
                index = orjson.loads(file.read(length))
            hints = path.with_name(path.name.removesuffix(COMPRESSED) + HINTS)
            disk = size + (hints.stat().st_size if hints.exists() else 0)
            groups = [(int(a), int(b), int(c)) for a, b, c in index["groups"]]
            return cls(path, index["first"], index["count"], index["last_ns"], disk, groups)
        except (OSError, ValueError, KeyError, struct.error) as error:
            raise Internal(f"the audit log's file {path} cannot be read: {error}") from error

    def group(self, number: int) -> list[bytes]:
        """The lines of the group that this record is in, as far as they are in this file. Raises Internal."""
        _, start, end = self.groups[number // GROUP - self.first // GROUP]
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                data = zstandard.ZstdDecompressor().decompress(file.read(end - start))
        except (OSError, zstandard.ZstdError) as error:
            raise Internal(f"the audit log's file {self.path} cannot be read at record {number}: {error}") from error
        return data.split(b"\n")[:-1]

    def hints(self) -> bytes:
        try:
            return self.hints_path.read_bytes()[: self.count * HINT_BYTES]
        except FileNotFoundError:
            return b""

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.hints_path.unlink(missing_ok=True)


def compress(directory: Path, first: int, lines: Iterable[Sequence[bytes]], last_ns: int) -> ClosedSegment:
    """Write a closed segment of groups of lines, and remove the one that grew.

    Raises:
        Unavailable: The disk refuses; the one that grew is there as before.
    """
    path = directory / f"{file_name(first)}{COMPRESSED}"
    hidden = path.with_name(f".{path.name}.new")
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True)
    groups, number, position = [], first, 0
    try:
        with hidden.open("wb") as file:
            for group in lines:
                frame = compressor.compress(b"\n".join(group) + b"\n")
                file.write(frame)
                groups.append((number, position, position + len(frame)))
                number, position = number + len(group), position + len(frame)
            index = orjson.dumps({"first": first, "count": number - first, "last_ns": last_ns, "groups": groups})
            file.write(_SKIPPABLE.pack(_SKIPPABLE_MAGIC, len(index) + _TRAILER.size))
            file.write(index + _TRAILER.pack(len(index)))
            file.flush()
            os.fsync(file.fileno())
        hidden.chmod(0o600)
        hidden.rename(path)
        sync_directory(directory)
    except OSError as error:
        hidden.unlink(missing_ok=True)
        raise Unavailable(f"the audit log's file {path} cannot be compressed: {error.strerror}") from error
    closed = ClosedSegment.read(path)
    hints = closed.hints_path
    if hints.exists():  # it was made longer ahead
        os.truncate(hints, closed.count * HINT_BYTES)
    (directory / f"{file_name(first)}{RAW}").unlink(missing_ok=True)
    return ClosedSegment.read(path)


def changed_record(lines: Sequence[bytes], hints: bytes) -> int | None:
    """The first line whose hash does not begin as the hint says; None when all do, or there are too few hints."""
    for at, line in enumerate(lines):
        hint = hints[at * HINT_BYTES : (at + 1) * HINT_BYTES]
        if len(hint) == HINT_BYTES and leaf_hash(line)[:HINT_BYTES] != hint:
            return at
    return None


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_all(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    parts, at = [], 0
    while at < size and (data := os.pread(descriptor, min(size - at, 8 << 20), at)):
        parts.append(data)
        at += len(data)
    return b"".join(parts)


def _write_all(descriptor: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, at)
        view, at = view[written:], at + written
