"""The container's log in Docker's "json-file" form, written by the shim itself: no bus, no agent, nothing to lose.

One line of JSON per line of output: {"log": …, "stream": "stdout"|"stderr", "time": RFC 3339 with nanoseconds, UTC}.
A line
of more than 16 KiB is cut into parts, of which only the last ends in a newline. Source: Docker's json-file driver.
"""

from __future__ import annotations

import codecs
import os
import time

from services.executor.runtime import jsonlite
from services.executor.runtime.errors import InvalidSpec
from services.executor.runtime.sizes import size_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LINE_BYTES = 16 * 1024
_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})

_ESCAPED = ("<", ">", "&", "\u2028", "\u2029")


def _one_mark_per_byte(error: UnicodeError) -> tuple[str, int]:
    """Each byte that is no UTF-8 becomes one U+FFFD, as Go's encoder has it."""
    assert isinstance(error, UnicodeDecodeError)
    return "\ufffd" * (error.end - error.start), error.end


def register_codec_error() -> None:
    """Make the error handler known to the codecs; called by whoever opens a log."""
    codecs.register_error("davit.mark", _one_mark_per_byte)


def _max_size(text: str) -> int:
    """Bytes, in powers of 1000, as Docker's log drivers read them; -1 is no limit."""
    if text in ("", "-1"):
        return -1
    try:
        return size_bytes(text, 1000)
    except ValueError as error:
        raise InvalidSpec("log.options.max-size", str(error)) from None


class LineSplitter:
    """Cuts a stream of bytes into lines, the overlong ones into parts of 16 KiB."""

    __slots__ = ("rest",)

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines (with their newline) and full parts that are complete now."""
        lines = (self.rest + data).split(b"\n")
        self.rest = lines.pop()
        pieces: list[bytes] = []
        for line in lines:
            start = 0
            while len(line) - start > LINE_BYTES:
                pieces.append(line[start : start + LINE_BYTES])
                start += LINE_BYTES
            pieces.append(line[start:] + b"\n")
        while len(self.rest) >= LINE_BYTES:
            pieces.append(self.rest[:LINE_BYTES])
            self.rest = self.rest[LINE_BYTES:]
        return pieces

    def flush(self) -> list[bytes]:
        """What is left at the end of the stream."""
        rest, self.rest = self.rest, b""
        return [rest] if rest else []


class JsonLog:
    """An open log file.

    Args:
        later: the file, which somebody else has made, is opened by the first line; what that fails with is no more
            than a line lost.

    Attributes:
        path: the current file; older ones are `path`.1, .2, …, with ".gz" when compressed.
        max_size: bytes after which it is rotated; -1 for never.
        max_files: how many files there are at most, the current one included.
    """

    def __init__(self, options: dict[str, Any], *, later: bool = False) -> None:
        register_codec_error()
        self.path: str = options["path"]
        self.suffix = ""
        self.attrs = options.get("attrs") or None
        self._limit(options)
        self._second = -1
        self._prefix = ""
        self._fd = -1
        self._size = 0
        self._lost = 0
        self._reason = ""
        if not later:
            self._open()

    def _limit(self, options: dict[str, Any]) -> None:
        given: dict[str, str] = options.get("options") or {}
        self.max_size = _max_size(given.get("max-size") or "")
        try:
            self.max_files = int(given.get("max-file") or 1)
        except ValueError:
            raise InvalidSpec("log.options.max-file", f'"{given["max-file"]}" is not a number') from None
        self.compress = given.get("compress") == "true"
        if self.max_files < 1:
            raise InvalidSpec("log.options.max-file", "must be at least 1")
        self.suffix = f',"attrs":{jsonlite.dumps(self.attrs)}' if self.attrs else ""

    def _open(self) -> None:
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        self._size = os.fstat(self._fd).st_size

    def write(self, stream: str, pieces: list[bytes]) -> None:
        """Append pieces of one stream, read together and therefore with one time.

        One write(2) for all, unless a rotation falls in between. What a full disk does not take is lost, and its
        number is the next thing that is logged: the container goes on, as it would without anybody to listen.
        """
        end = f',"stream":"{stream}"{self.suffix},"time":"{self._now()}"}}\n'
        quote = jsonlite.quote
        text = "".join(['{"log":' + quote(piece.decode("utf-8", "davit.mark")) + end for piece in pieces])
        if any(mark in text for mark in _ESCAPED):
            text = text.translate(_ESCAPES)
        if self._lost:
            said = f"davit: {self._lost} records of this log are lost: {self._reason}\n"
            text = '{"log":' + quote(said) + f',"stream":"stderr"{self.suffix},"time":"{self._now()}"}}\n' + text
        try:
            self._write(text.encode())
        except OSError as error:
            self._lost += len(pieces)
            self._reason = os.strerror(error.errno or 0)
        else:
            self._lost = 0

    def _write(self, data: bytes) -> None:
        if self._fd < 0:
            self._open()
        if self.max_size <= 0 or self._size + len(data) <= self.max_size:
            self._append(data)
            return
        for line in data.splitlines(keepends=True):
            if self._size and self._size + len(line) > self.max_size:
                self._rotate()
            self._append(line)

    def _append(self, data: bytes) -> None:
        if self._fd < 0:
            self._open()
        before = self._size
        view = memoryview(data)
        try:
            while view:
                written = os.write(self._fd, view)
                self._size += written
                view = view[written:]
        except OSError:
            os.ftruncate(self._fd, before)  # no torn record in the middle of the log
            self._size = before
            raise

    def _now(self) -> str:
        second, nanos = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        fraction = f"{nanos:09d}".rstrip("0")
        return f"{self._prefix}.{fraction}Z" if fraction else f"{self._prefix}Z"

    def _rotate(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1  # until the next one is open, which may fail
        if self.max_files == 1:
            os.unlink(self.path)
        else:
            self._shift()
        self._size = 0
        self._open()

    def _shift(self) -> None:
        extension = ".gz" if self.compress else ""
        for number in range(self.max_files - 1, 1, -1):
            for suffix in ("", ".gz"):
                newer = f"{self.path}.{number - 1}{suffix}"
                if os.path.exists(newer):
                    os.replace(newer, f"{self.path}.{number}{suffix}")
        os.replace(self.path, f"{self.path}.1")
        for suffix in {"", ".gz"} - {extension}:
            stale = f"{self.path}.{self.max_files}{suffix}"
            if os.path.exists(stale):
                os.unlink(stale)
        if self.compress:
            self._compress(f"{self.path}.1")

    @staticmethod
    def _compress(path: str) -> None:
        """In a grandchild: neither the container's output nor this process's memory waits for it."""
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            return
        try:
            if os.fork():
                return
            import gzip

            with open(path, "rb") as plain, gzip.open(path + ".tmp", "wb") as packed:
                while chunk := plain.read(1 << 16):
                    packed.write(chunk)
            os.replace(path + ".tmp", path + ".gz")
            os.unlink(path)
        finally:
            os._exit(0)

    def close(self) -> None:
        """Close the current file."""
        if self._fd >= 0:
            os.close(self._fd)
