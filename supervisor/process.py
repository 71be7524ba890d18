"""What the engine's processes need of the kernel beside the standard library: titles, death signals, identities.

Source: prctl(2), pidfd_open(2), proc_pid_stat(5).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_TASK_COMM_LEN = 16


def set_title(title: str) -> None:
    """Name this process in `ps`: its comm (15 characters) and its command line.

    The command line is overwritten in place, since moving it (PR_SET_MM) takes CAP_SYS_RESOURCE; a title longer than
    the original is cut.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NAME, ctypes.c_char_p(title.replace(" ", "").encode()[: _TASK_COMM_LEN - 1]), 0, 0, 0)
    fields = Path("/proc/self/stat").read_text().rpartition(") ")[2].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end, fields 48 and 49
    room = end - start
    if start and room > 1:
        text = title.encode()[: room - 1]
        ctypes.memmove(start, text.ljust(room, b"\0"), room)


def die_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when its parent ends; at once when it has already."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def fork(work: Callable[[], int]) -> int:
    """Fork a child that does the work and ends with what it returns, or when this process ends; its pid."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        die_with_parent(parent)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        gc.enable()
        code = work()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            logging.shutdown()
        os._exit(code)
    raise AssertionError("not reached")


@dataclass(frozen=True, slots=True)
class Identity:
    """A process, told apart from a later one with the same pid by its start time (clock ticks since boot)."""

    pid: int
    start: int

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """The process with this pid; None when there is none, or only a zombie."""
        try:
            state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        except OSError:
            return None
        return None if state in "ZX" else cls(pid, int(rest[18]))

    @property
    def alive(self) -> bool:
        return Identity.of(self.pid) == self

    def send(self, number: int) -> bool:
        """Signal the process if it is still the same one; whether it was."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except OSError:
            return False
        try:
            if not self.alive:
                return False
            signal.pidfd_send_signal(descriptor, number)
            return True
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)

    def wait(self, timeout_s: float) -> bool:
        """Whether the process ended within the time; it need not be a child."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except OSError:
            return True
        try:
            return not self.alive or bool(select.select([descriptor], [], [], timeout_s)[0])
        finally:
            os.close(descriptor)


def detach(log: Path) -> None:
    """Make this process a session leader whose output goes to a file."""
    os.setsid()
    sys.stdout.flush()
    sys.stderr.flush()
    null = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(output)
