"""A process that stays warm, from which the confined children are forked: an interpreter's start takes far longer.

::

    service                         warm process                      child, forked ahead of its order
      │ first order: starts it ────────►│ imports, forks ────────────────►│ waits on the same socket
      │ order (JSON; descriptors) ──────┼────────────────────────────────►│ takes it: the warm process forks another
      │◄────────────────────────────────┼───────── a pidfd of itself ─────┤
      │◄────────────────────────────────┼──── outcome (shared.layers.child)

It has the archives' modules and nothing of the service: no secrets, no connections. Nobody's archive is read in it. It
ends with its service, and when it has not been needed for a while; the next order starts another.

Source: unix(7), SCM_RIGHTS; pidfd_open(2).
"""

from __future__ import annotations

import array
import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shared.errors import Internal, InvalidArgument, Unavailable
from shared.layers.forking import LARGEST_ORDER

_PACKAGES = str(Path(__file__).resolve().parent.parent.parent)
_START = (
    "import sys; packages, descriptor, idle_ms = sys.argv[1:]; sys.path.insert(0, packages); "
    "from shared.layers.forking import main; main(int(descriptor), int(idle_ms))"
)
# After this long without an order it goes: memory for something that may not be needed again.
IDLE_MS = 120_000


class Forked:
    """A child that has taken its order.

    Attributes:
        outcome: Its answer can be read from this; the end of it is the child's end, or near it.
    """

    def __init__(self, outcome: socket.socket, pidfd: int) -> None:
        self.outcome = outcome
        self._pidfd = pidfd

    def kill(self) -> None:
        """End it if it is still there, and wait for that. Idempotent."""
        if self._pidfd < 0:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self.wait()

    def wait(self) -> None:
        """Wait for its end: until then it keeps its files open."""
        if self._pidfd >= 0:
            ended = select.poll()
            ended.register(self._pidfd, select.POLLIN)
            ended.poll()
            os.close(self._pidfd)
            self._pidfd = -1

    def close(self) -> None:
        self.kill()
        self.outcome.close()


class Warm:
    """The service's handle on its warm process. Safe from any thread."""

    def __init__(self, *, idle_ms: int = IDLE_MS) -> None:
        self._idle_ms = idle_ms
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._ends_with_us = False

    @property
    def pid(self) -> int:
        """Of the warm process; 0 while there is none."""
        return self._process.pid if self._process is not None else 0

    def fork(self, order: dict[str, Any], descriptors: Sequence[int]) -> Forked:
        """Have an order carried out.

        Args:
            order: See `shared.layers.child`.
            descriptors: Root, input, output, and those that the child is to keep open.

        Raises:
            InvalidArgument: It is too long to be sent.
            Internal: No such process can be started, or it died twice over the order.
        """
        packet = json.dumps(order).encode()
        if len(packet) > LARGEST_ORDER:
            raise InvalidArgument("the path is too long", field="path")
        for attempt in (1, 2):
            ours, theirs = socket.socketpair()
            try:
                self._send(packet, [*descriptors[:3], theirs.fileno(), *descriptors[3:]], renew=attempt == 2)
            except BaseException:
                ours.close()
                raise
            finally:
                theirs.close()
            pidfd = _first_word(ours)
            if pidfd >= 0:
                return Forked(ours, pidfd)
            ours.close()  # killed with the order in its hands: nothing has been done
        raise Internal("the archive process died twice before it began")

    def _send(self, packet: bytes, descriptors: list[int], *, renew: bool) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        with self._lock:
            if renew:
                self._discard()
            for attempt in (1, 2):
                if self._socket is None:
                    self._start()
                assert self._socket is not None
                try:
                    self._socket.sendmsg([packet], rights)
                    return
                except (BrokenPipeError, ConnectionResetError) as error:
                    self._discard()
                    if attempt == 2:
                        raise Internal("the archive process does not stay") from error

    def _start(self) -> None:
        if not self._ends_with_us:
            atexit.register(self.close)
            self._ends_with_us = True
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            for size in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                ours.setsockopt(socket.SOL_SOCKET, size, 4 * LARGEST_ORDER)
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-OO", "-c", _START, _PACKAGES, str(theirs.fileno()), str(self._idle_ms)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env={"LC_ALL": "C.UTF-8"},
                cwd="/",
            )
        except OSError as error:
            ours.close()
            raise Unavailable(f"the archive process cannot be started: {error.strerror}") from error
        finally:
            theirs.close()
        self._socket = ours

    def _discard(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End the warm process; children that are at work go on."""
        with self._lock:
            self._discard()


def _first_word(outcome: socket.socket) -> int:
    """The child's pidfd; -1 when it, or the order, is lost."""
    word, ancillary, _, _ = outcome.recvmsg(1, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    if not word or not ancillary:
        return -1
    return int.from_bytes(ancillary[0][2][:4], sys.byteorder)


warm = Warm()
