"""Reading a container's json-file log: tail, since, until, follow, across rotations.

A record is one line, ``{"log": …, "stream": …, "time": RFC 3339 with nanoseconds}``. A torn or unreadable record is
skipped with a warning on stderr's place in the log, never the end of it.

Source: Docker's json-file driver.
"""

from __future__ import annotations

import asyncio
import functools
import gzip
import io
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import orjson

from services.executor.agent.output.passing import Passing
from shared.contracts.containers import Logs
from shared.docker.frames import NUMBERS, header
from shared.docker.moments import parse_rfc3339_ns, with_nine_digits
from shared.errors import InvalidArgument, Unavailable

log = logging.getLogger(__name__)

FOLLOW_POLL_S = 0.05
MAX_BATCH_BYTES = 256 * 1024
# 16 KiB of text, each byte of it escaped, and what is around it.
LONGEST_LINE_BYTES = 256 * 1024


@dataclass(slots=True)
class LogRecord:
    text: bytes
    stream: str
    time: str
    attrs: dict[str, str] | None = None

    @property
    def time_ns(self) -> int:
        return parse_rfc3339_ns(self.time)


def parse_line(line: bytes) -> LogRecord | None:
    """A record, or None for a line that is torn or not one."""
    try:
        fields = orjson.loads(line)
        return LogRecord(
            fields["log"].encode(errors="surrogatepass"), fields["stream"], fields["time"], fields.get("attrs")
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return None


def log_files(path: Path) -> list[Path]:
    """The rotated files and the current one, oldest first."""
    rotated: list[tuple[int, Path]] = []
    for candidate in path.parent.glob(path.name + ".*"):
        number = candidate.name[len(path.name) + 1 :].removesuffix(".gz")
        if number.isdigit():
            rotated.append((int(number), candidate))
    return [file for _, file in sorted(rotated, reverse=True)] + [path]


class LogPosition(NamedTuple):
    """Behind a line of a log: its file (inode number; 0 when there was none), where it ends there, and its time."""

    file: int
    offset: int
    time_ns: int

    def __str__(self) -> str:
        return f"{self.file}.{self.offset}.{self.time_ns}"

    @classmethod
    def parse(cls, text: str) -> LogPosition:
        """Raises InvalidArgument."""
        try:
            return cls(*(int(part) for part in text.split(".")))
        except (ValueError, TypeError) as error:
            raise InvalidArgument(f"invalid log position: {text!r}", field="after") from error

    def is_in(self, path: Path) -> bool:
        """Whether a file is the one meant: numbers of files are given anew, so its line has to be there, too."""
        if not self.file or path.stat().st_ino != self.file:
            return False
        if self.offset == 0:
            return True
        with _open(path) as file:
            start = max(0, self.offset - LONGEST_LINE_BYTES)
            file.seek(start)
            before = file.read(self.offset - start)
        line = parse_line(before.removesuffix(b"\n").rpartition(b"\n")[2].lstrip(b"\0"))
        return before.endswith(b"\n") and (self.time_ns == 0 or (line is not None and line.time_ns == self.time_ns))


def end_of_log(path: Path) -> str:
    """The position behind all that is in a log now."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return str(LogPosition(0, 0, 0))
    return str(LogPosition(there.st_ino, there.st_size, 0))


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return io.BufferedReader(gzip.open(path, "rb"))
    return path.open("rb")


def _tail_offset(file: IO[bytes], count: int) -> tuple[int, int]:
    """Where the last `count` lines of a file begin, and how many lines were found."""
    file.seek(0, os.SEEK_END)
    position = file.tell()
    found = 0
    ended = True
    while position > 0:
        size = min(65536, position)
        position -= size
        file.seek(position)
        block = file.read(size)
        index = len(block)
        if ended and block.endswith(b"\n"):
            index -= 1
        ended = False
        while (index := block.rfind(b"\n", 0, index)) >= 0:
            found += 1
            if found == count:
                return position + index + 1, count
    return 0, found + (1 if not ended else 0)


def _last_lines(files: list[Path], count: int) -> tuple[list[Path], int]:
    """The files that hold the last lines of all, and the offset in the first."""
    chosen: list[Path] = []
    offset = 0
    for file in reversed(files):
        chosen.insert(0, file)
        with _open(file) as handle:
            offset, found = _tail_offset(handle, count)
        count -= found
        if count <= 0:
            break
    return chosen, offset


class LogReader:
    """Reads one container's log as a request asks. What it gives leads to positions, behind which another can go on.

    Args:
        max_files: How many files the log has at most.

    Raises:
        Unavailable: From `read`: the exact position asked for may not be in the log any more.
    """

    def __init__(self, path: Path, request: Logs, *, max_files: int = 1) -> None:
        self._path = path
        self._max_files = max_files
        self._request = request
        self._partial = b""
        self._last_ns = 0
        self._after_ns = 0
        self._skip = dict(zip(("stdout", "stderr"), request.skip_bytes, strict=True))

    def _wanted(self, record: LogRecord) -> bool:
        request = self._request
        if record.stream == "stdout" and not request.stdout:
            return False
        if record.stream == "stderr" and not request.stderr:
            return False
        if self._after_ns and record.time_ns <= self._after_ns:
            return False
        if request.since_ns and record.time_ns < request.since_ns:
            return False
        if request.until_ns and record.time_ns > request.until_ns:
            return False
        return not self._skipped(record)

    def _skipped(self, record: LogRecord) -> bool:
        """Whether who asks has had all of it; takes from a record what has been had."""
        left = self._skip.get(record.stream, 0)
        had = min(left, len(record.text))
        self._skip[record.stream] = left - had
        record.text = record.text[had:]
        return had > 0 and not record.text

    def _passing(self, *, tty: bool) -> Passing | None:
        """For requests that want lines as they are; None when each record has to be looked at."""
        request = self._request
        if request.details or any(self._skip.values()):
            return None
        first_ns = max(request.since_ns, self._after_ns + 1 if self._after_ns else 0)
        streams = {name for name, wanted in ((b"stdout", request.stdout), (b"stderr", request.stderr)) if wanted}
        return Passing(
            frozenset(streams), tty=tty, timestamps=request.timestamps, first_ns=first_ns, last_ns=request.until_ns
        )

    def _encoded(self, data: bytes, passing: Passing | None, *, tty: bool) -> bytes:
        if passing is not None:
            whole = self._partial + data
            end = whole.rfind(b"\n") + 1
            passed = passing.on(whole[:end])
            if passed is not None:
                self._partial = whole[end:]
                if passing.last_time:
                    self._last_ns = parse_rfc3339_ns(passing.last_time)
                return passed
        return encode(list(self._records(data)), self._request, tty=tty)

    def _records(self, data: bytes) -> Iterator[LogRecord]:
        data = self._partial + data
        lines = data.split(b"\n")
        self._partial = lines.pop()
        for line in lines:
            if not line:
                continue
            record = parse_line(line.lstrip(b"\0"))
            if record is None:
                log.warning("%s: skipped a log record that cannot be read", self._path)
                continue
            self._last_ns = record.time_ns
            if self._wanted(record):
                yield record

    def _position(self, handle: IO[bytes] | None) -> str:
        """Behind the last complete line that was read: file, offset in it, time of the line."""
        if handle is None:
            return str(LogPosition(0, 0, self._last_ns))
        return str(LogPosition(os.fstat(handle.fileno()).st_ino, handle.tell() - len(self._partial), self._last_ns))

    def existing(self) -> tuple[list[Path], int]:
        """The files to read, oldest first, and the offset in the first, as `tail` or `after` asks."""
        files = [file for file in log_files(self._path) if file.exists()]
        if self._request.after:
            return self._behind(LogPosition.parse(self._request.after), files)
        tail = self._request.tail
        if tail < 0:
            return files, 0
        if tail == 0:
            return [self._path], -1
        return _last_lines(files, tail)

    def _behind(self, position: LogPosition, files: list[Path]) -> tuple[list[Path], int]:
        """The rest behind a position; when its file was compressed or is gone, what is younger than its last line."""
        self._last_ns = position.time_ns
        # Once files have been removed, a new one may have an old one's number: fatal where there is no line to look at.
        if any(self._request.skip_bytes) and len(files) >= self._max_files:
            raise Unavailable("the log has been rotated: what follows cannot be told from what was read")
        for index, file in enumerate(files):
            if position.is_in(file):
                return files[index:], position.offset
        self._after_ns = position.time_ns
        return files, 0

    async def read(self, ended: asyncio.Event | None, *, tty: bool) -> AsyncIterator[tuple[bytes, str]]:
        """What a client reads, with positions: what is there, then, when following, what comes until `ended`.

        The first one is empty, and says where reading begins.

        Args:
            ended: Set when the container's process is gone; None when the request does not follow.
            tty: See `encode`.
        """
        files, offset = self.existing()
        passing = self._passing(tty=tty)
        convert = functools.partial(self._encoded, passing=passing, tty=tty)
        handle: IO[bytes] | None = None
        told = False
        try:
            for file in files:
                if handle is not None:
                    handle.close()
                handle = _open(file) if file.exists() else None
                if handle is None:
                    continue
                handle.seek(0, os.SEEK_END) if offset < 0 else handle.seek(offset)
                offset = 0
                if not told:
                    yield b"", self._position(handle)
                    told = True
                while data := handle.read(MAX_BATCH_BYTES):
                    if batch := convert(data):
                        yield batch, self._position(handle)
                    await asyncio.sleep(0)
            if not told:
                yield b"", self._position(None)
            if ended is not None:
                async for following in self._follow(handle, ended, convert):
                    yield following
        finally:
            if handle is not None:
                handle.close()

    async def _follow(
        self, handle: IO[bytes] | None, ended: asyncio.Event, convert: Callable[[bytes], bytes]
    ) -> AsyncIterator[tuple[bytes, str]]:
        current = handle
        try:
            while True:
                last_round = ended.is_set()
                if current is None and self._path.exists():
                    current = _open(self._path)
                while current is not None and (data := current.read(MAX_BATCH_BYTES)):
                    if batch := convert(data):
                        yield batch, self._position(current)
                if current is not None and self._rotated(current):
                    # The shim renames the full file and opens a new one: what was still unread of the old
                    # one has just been read above, the new one is read from its start.
                    current.close()
                    current = _open(self._path) if self._path.exists() else None
                    continue
                if last_round or (self._request.until_ns and time.time_ns() > self._request.until_ns):
                    return
                try:
                    await asyncio.wait_for(ended.wait(), FOLLOW_POLL_S)
                except TimeoutError:
                    continue
        finally:
            if current is not None and current is not handle:
                current.close()

    def _rotated(self, handle: IO[bytes]) -> bool:
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return True
        here = os.fstat(handle.fileno())
        return (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino) and here.st_size <= handle.tell()


def encode(records: list[LogRecord], request: Logs, *, tty: bool) -> bytes:
    """The bytes a client reads: multiplexed frames, or raw text for a TTY."""
    out = bytearray()
    for record in records:
        text = record.text
        if request.details:
            words = ",".join(f"{key}={value}" for key, value in sorted((record.attrs or {}).items()))
            text = words.encode() + b" " + text
        if request.timestamps:
            text = with_nine_digits(record.time).encode() + b" " + text
        if not tty:
            out += header(NUMBERS[record.stream], len(text))
        out += text
    return bytes(out)
