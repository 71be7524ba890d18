"""The warm process from which confined children are forked; see `shared.layers.warm`.

It is executed, not forked, so nothing of its service is in it, and it keeps one child ready. The children do the work
of `shared.layers.child`.
"""

from __future__ import annotations

import _socket
import contextlib
import fcntl
import gc
import json
import os
import select
import signal
import struct
import sys

from shared.layers import child

LARGEST_ORDER = 1 << 17
MOST_DESCRIPTORS = 32
_OUT_OF_THE_WAY = 64


def main(descriptor: int, idle_ms: int) -> None:
    """Serve until the service has gone, or has had no order for a while."""
    orders = _socket.socket(fileno=descriptor)
    os.set_inheritable(descriptor, False)
    signal.signal(signal.SIGCHLD, _reap)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's is for the engine; this ends with its service
    child.warm_up()
    gc.collect()
    gc.disable()
    gc.freeze()
    while True:
        taken, told = os.pipe()
        if os.fork() == 0:
            os.close(taken)
            _child(orders, told, idle_ms)
        os.close(told)
        got = os.read(taken, 1)
        os.close(taken)
        if not got and _is_over(orders):
            return


def _reap(*_: object) -> None:
    """Whoever waits for a child has a pidfd. Reaped here, its processor time is counted where it belongs."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _is_over(orders: _socket.socket) -> bool:
    """Whether the child went because there are no more orders, and not because somebody killed it."""
    try:
        return not orders.recv(1, _socket.MSG_PEEK | _socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False


def _child(orders: _socket.socket, told: int, idle_ms: int) -> None:
    status = 1
    try:
        packet, ancillary = _next(orders, idle_ms)
        if packet:
            with contextlib.suppress(BrokenPipeError):  # it was killed; this order can be carried out all the same
                os.write(told, b"t")
            os.close(told)
            orders.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _take(ancillary)
            _greet()
            child.carry_out(json.loads(packet))
        status = 0
    except Exception:  # the process's edge; what an archive brings about is told as an outcome
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _next(orders: _socket.socket, idle_ms: int) -> tuple[bytes, bytes]:
    """The next order, or nothing when none is going to come."""
    waiting = select.poll()
    waiting.register(orders.fileno(), select.POLLIN)
    flags = _socket.MSG_CMSG_CLOEXEC
    if not waiting.poll(idle_ms):
        # From here on a send fails, and whoever sends starts another process. One may have come just before.
        orders.shutdown(_socket.SHUT_RD)
        flags |= _socket.MSG_DONTWAIT
    try:
        packet, ancillary, _, _ = orders.recvmsg(LARGEST_ORDER, _socket.CMSG_SPACE(4 * MOST_DESCRIPTORS), flags)
    except BlockingIOError:
        return b"", b""
    return packet, ancillary[0][2] if ancillary else b""


def _take(ancillary: bytes) -> None:
    """Put the descriptors where `child` wants them. No second one of the root stays: it would lead out of it."""
    came = [number for (number,) in struct.iter_unpack("=i", ancillary)]
    moved = []
    for descriptor in came:
        moved.append(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY))
        os.close(descriptor)
    for descriptor, place in zip(moved, (child.ROOT_FD, 0, 1, child.OUTCOME_FD), strict=False):
        os.dup2(descriptor, place)
        os.close(descriptor)


def _greet() -> None:
    """Say that the order has been taken, and by whom."""
    own = os.pidfd_open(os.getpid())
    outcome = _socket.socket(fileno=child.OUTCOME_FD)
    outcome.sendmsg([b"p"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("=i", own))])
    outcome.detach()
    os.close(own)
