"""The shim's streams: what the container writes goes to the log and to everybody attached; what they type goes in.

A slow client first fills a buffer of its own. Beyond 1 MiB the container's output waits for it, as with Docker, but not
for ever: a client that takes nothing for 30 s is dropped.
"""

from __future__ import annotations

import _socket
import os
import time

from services.executor.runtime.shim.frames import Unpacker, pack
from services.executor.runtime.shim.logfile import LineSplitter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from services.executor.runtime.shim.logfile import JsonLog

STALL_S = 30.0
MOST_PENDING_BYTES = 1 << 20
READ_BYTES = 1 << 16
_STREAM_NUMBERS = {"stdout": 1, "stderr": 2}


def output_frame(stream: str, data: bytes) -> bytes:
    """A frame of Docker's multiplexed stream: number of the stream, three zeros, the length, the bytes."""
    return bytes((_STREAM_NUMBERS[stream], 0, 0, 0)) + len(data).to_bytes(4, "big") + data


class Client:
    """One connection, in frames until it asks to be attached.

    Attributes:
        wants: streams it is attached to; None while it talks in frames.
        closing: it is to be closed when its buffer is empty.
        moved_at: when it last took something (monotonic), for finding those that take nothing.
    """

    __slots__ = ("closing", "moved_at", "pending", "socket", "stdin_ended", "unpacker", "waiting", "wants")

    def __init__(self, socket: _socket.socket) -> None:
        socket.setblocking(False)
        self.socket = socket
        self.unpacker = Unpacker()
        self.pending = bytearray()
        self.wants: frozenset[str] | None = None
        self.closing = False
        self.stdin_ended = False
        #: ids of its requests "wait"
        self.waiting: list[int] = []
        self.moved_at = time.monotonic()

    def fileno(self) -> int:
        """The descriptor."""
        return self.socket.fileno()

    def send(self, message: dict[str, Any]) -> None:
        """Queue a frame."""
        self.queue(pack(message))

    def queue(self, data: bytes) -> None:
        """Queue bytes, and write what goes at once."""
        if not self.pending:
            self.moved_at = time.monotonic()
        self.pending += data
        self.flush()

    def flush(self) -> None:
        """Write what the connection takes. A peer that is gone turns the client into one to be closed."""
        try:
            while self.pending:
                sent = self.socket.send(self.pending)
                del self.pending[:sent]
                self.moved_at = time.monotonic()
        except BlockingIOError:
            return
        except OSError:
            self.pending.clear()
            self.closing = True

    def stalled(self, now: float) -> bool:
        """Whether it has taken nothing for too long."""
        return bool(self.pending) and now - self.moved_at > STALL_S


class Output:
    """One stream out of the container: a pipe, or the terminal's master."""

    __slots__ = ("fd", "log", "name", "splitter", "tty")

    def __init__(self, fd: int, name: str, log: JsonLog | None, *, tty: bool) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.name = name
        self.log = log
        self.tty = tty
        self.splitter = LineSplitter()

    def pump(self, clients: list[Client]) -> bool:
        """Move what is there; false at the end of the stream."""
        try:
            data = os.read(self.fd, READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:  # EIO: the last holder of the terminal is gone
            data = b""
        if not data:
            self.flush()
            return False
        self._log(self.splitter.feed(data))
        framed = data
        for client in clients:
            if client.wants and self.name in client.wants and not client.closing:
                if not self.tty and framed is data:
                    framed = output_frame(self.name, data)
                client.queue(framed)
        return True

    def flush(self) -> None:
        """Log what came without a newline; nothing more will come."""
        self._log(self.splitter.flush())

    def _log(self, pieces: list[bytes]) -> None:
        if pieces and self.log is not None:
            self.log.write(self.name, pieces)


class Input:
    """The container's standard input: a pipe, or the terminal's master.

    Attributes:
        once: it ends with the first client that was attached to it.
    """

    __slots__ = ("ending", "fd", "once", "pending", "tty")

    def __init__(self, fd: int, *, tty: bool, once: bool) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.tty = tty
        self.once = once
        self.pending = bytearray()
        self.ending = False

    @property
    def full(self) -> bool:
        """Whether clients are to wait before they send more."""
        return len(self.pending) >= READ_BYTES

    def write(self, data: bytes) -> None:
        """Pass on, or keep until the container reads."""
        self.pending += data
        self.flush()

    def end(self) -> None:
        """Close when everything is written. A terminal has no end of input; there the client types it."""
        if not self.tty:
            self.ending = True
            self.flush()

    def flush(self) -> None:
        """Write what the container takes."""
        if self.fd < 0:
            return
        try:
            while self.pending:
                written = os.write(self.fd, self.pending)
                del self.pending[:written]
        except BlockingIOError:
            return
        except OSError:  # nobody reads any more
            self.pending.clear()
            self.ending = True
        if self.ending and not self.pending:
            self.close()

    def close(self) -> None:
        """Close our end; the master of a terminal belongs to its output."""
        if self.fd >= 0 and not self.tty:
            os.close(self.fd)
        self.fd = -1
