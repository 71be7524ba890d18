"""The guardian: a process that only waits, and starts the supervisor again when it dies.

Guardian and supervisor watch each other: either may be killed, and the other puts it back. Killed together, they
leave nothing but containers and files, and the next `davit up` begins anew.

::

    davit up ── guardian ── supervisor ── services, nats-server
                   ▲            │ the guardian died: the supervisor forks another, which watches its pidfd
                   └────────────┘
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from cli.process import set_title
from cli.state import EngineState

log = logging.getLogger("davit.guardian")

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
STEADY_AFTER_S = 10.0

# Runs a supervisor in this process: takes the guardian's pid and how to fork another; returns the exit code.
RunSupervisor = Callable[[int, Callable[[], int]], int]


class Guardian:
    """Keeps one supervisor running.

    Args:
        run_supervisor: What a forked supervisor does. It gets whether it is the first of this engine.
    """

    def __init__(self, run_dir: Path, run_supervisor: RunSupervisor) -> None:
        self._run_dir = run_dir
        self._run_supervisor = run_supervisor
        self._supervisor = 0
        self._is_child = True
        self._stopping = False

    def run(self) -> int:
        """Guard until the engine has ended in order; its exit code."""
        self._take_signals()
        code = self._watch_new(first=True)
        return self._keep_running() if code is None else code

    def _keep_running(self) -> int:
        pause_s = FIRST_PAUSE_S
        while not self._stopping:
            log.warning("the supervisor ended; starting it again in %.1f s", pause_s)
            time.sleep(pause_s)
            started = time.monotonic()
            code = self._watch_new(first=False)
            if code is not None:
                return code
            steady = time.monotonic() - started > STEADY_AFTER_S
            pause_s = FIRST_PAUSE_S if steady else min(pause_s * 2, LONGEST_PAUSE_S)
        return 0

    def _watch_new(self, *, first: bool) -> int | None:
        """Start a supervisor and wait for its end: the engine's exit code, or None when it is to be started again."""
        self._supervisor, self._is_child = self._fork(), True
        if self._stopping:
            self._forward(signal.SIGTERM)
        _, status = os.waitpid(self._supervisor, 0)
        if os.WIFSIGNALED(status):
            return None
        code = os.waitstatus_to_exitcode(status)
        # One that once ran well and now cannot start (its port was taken meanwhile, say) is worth another try.
        return code if first or code == 0 or self._stopping else None

    def watch_other(self, supervisor: int) -> int:
        """Guard a supervisor that is not this process's child; the exit code."""
        self._take_signals()
        self._supervisor, self._is_child = supervisor, False
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(supervisor)
            select.select([descriptor], [], [])
            os.close(descriptor)
        if self._stopping or EngineState.read(self._run_dir) is None:
            return 0  # it ended in order: its state file went with it
        return self._keep_running()

    def _fork(self) -> int:
        guardian = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            os.setsid()  # Ctrl-C at the terminal is for the guardian, which ends the engine in order
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            set_title("davit: supervisor")
            code = self._run_supervisor(guardian, self._fork_another)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def _fork_another(self) -> int:
        """Fork a guardian for the calling supervisor; its pid."""
        supervisor = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            set_title("davit: guardian")
            code = Guardian(self._run_dir, self._run_supervisor).watch_other(supervisor)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def _take_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._told_to_stop)
        signal.signal(signal.SIGHUP, lambda *_: self._forward(signal.SIGHUP))

    def _told_to_stop(self, *_: object) -> None:
        self._stopping = True
        self._forward(signal.SIGTERM)

    def _forward(self, number: int) -> None:
        if self._supervisor:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._supervisor, number)
