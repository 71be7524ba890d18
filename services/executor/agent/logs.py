"""Reading a container's json-file log: tail, since, until, follow, across rotations.

A record is one line, ``{"log": …, "stream": …, "time": RFC 3339 with nanoseconds}``. A torn or unreadable record is
skipped with a warning on stderr's place in the log, never the end of it.

Source: Docker's json-file driver.
"""

from __future__ import annotations

import asyncio
import calendar
import gzip
import io
import logging
import os
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import orjson

from shared.contracts.containers import Logs

log = logging.getLogger(__name__)

FOLLOW_POLL_S = 0.05
MAX_BATCH_BYTES = 256 * 1024
HEADER_STREAM = {"stdin": b"\x00", "stdout": b"\x01", "stderr": b"\x02"}


@dataclass(slots=True)
class LogRecord:
    text: bytes
    stream: str
    time: str
    attrs: dict[str, str] | None = None

    @property
    def time_ns(self) -> int:
        return parse_time_ns(self.time)


def parse_time_ns(text: str) -> int:
    """Nanoseconds since the epoch of an RFC 3339 UTC time as the shim writes it."""
    seconds = calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S"))
    fraction = text[20:].rstrip("Z")
    return seconds * 1_000_000_000 + (int(fraction.ljust(9, "0")[:9]) if fraction else 0)


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


class LogReader:
    """Reads one container's log as a request asks.

    Args:
        ended: Returns whether the container's process is gone, so that a follow ends after the last record.
    """

    def __init__(self, path: Path, request: Logs) -> None:
        self._path = path
        self._request = request
        self._partial = b""

    def _wanted(self, record: LogRecord) -> bool:
        request = self._request
        if record.stream == "stdout" and not request.stdout:
            return False
        if record.stream == "stderr" and not request.stderr:
            return False
        if request.since_ns and record.time_ns < request.since_ns:
            return False
        return not (request.until_ns and record.time_ns > request.until_ns)

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
            if self._wanted(record):
                yield record

    def existing(self) -> tuple[list[Path], int]:
        """The files to read, oldest first, and the offset in the first, as `tail` asks."""
        files = [file for file in log_files(self._path) if file.exists()]
        tail = self._request.tail
        if tail < 0:
            return files, 0
        if tail == 0:
            return [self._path], -1
        chosen: list[Path] = []
        offset = 0
        for file in reversed(files):
            chosen.insert(0, file)
            with _open(file) as handle:
                offset, found = _tail_offset(handle, tail)
            tail -= found
            if tail <= 0:
                break
        return chosen, offset

    async def read(self, ended: asyncio.Event | None) -> AsyncIterator[list[LogRecord]]:
        """Batches of records: what is there, then, when following, what comes until `ended` is set.

        Args:
            ended: Set when the container's process is gone; None when the request does not follow.
        """
        files, offset = self.existing()
        handle: IO[bytes] | None = None
        try:
            for file in files:
                if handle is not None:
                    handle.close()
                handle = _open(file) if file.exists() else None
                if handle is None:
                    continue
                handle.seek(0, os.SEEK_END) if offset < 0 else handle.seek(offset)
                offset = 0
                while data := handle.read(MAX_BATCH_BYTES):
                    if batch := list(self._records(data)):
                        yield batch
                    await asyncio.sleep(0)
            if ended is not None:
                async for batch in self._follow(handle, ended):
                    yield batch
        finally:
            if handle is not None:
                handle.close()

    async def _follow(self, handle: IO[bytes] | None, ended: asyncio.Event) -> AsyncIterator[list[LogRecord]]:
        current = handle
        try:
            while True:
                last_round = ended.is_set()
                if current is None and self._path.exists():
                    current = _open(self._path)
                while current is not None and (data := current.read(MAX_BATCH_BYTES)):
                    if batch := list(self._records(data)):
                        yield batch
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
            text = _nine_digits(record.time).encode() + b" " + text
        if not tty:
            out += HEADER_STREAM[record.stream] + b"\0\0\0" + len(text).to_bytes(4, "big")
        out += text
    return bytes(out)


def _nine_digits(text: str) -> str:
    """Docker prints log times with exactly nine fractional digits."""
    head, _, fraction = text.rstrip("Z").partition(".")
    return f"{head}.{fraction.ljust(9, '0')}Z"
