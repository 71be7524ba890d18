"""The supervisor's children: started, heard, and started again when they end.

Source: wait(2).
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from supervisor.process import Identity
from supervisor.state import EngineState, ProcessState

if TYPE_CHECKING:
    from supervisor.demand import DemandSocket

log = logging.getLogger("davit.supervisor")

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
STEADY_AFTER_S = 10.0
STOP_WITHIN_S = 15.0


@dataclass
class Child:
    """A process to keep running. `spawn` starts it and returns its pid and the pipe it reports on, if it does.

    Attributes:
        demand: It runs only while somebody is connected to this socket.
    """

    name: str
    spawn: Callable[[], tuple[int, int | None]]
    state: ProcessState = field(default_factory=ProcessState)
    pipe: int | None = None
    heard: bytes = b""
    pause_s: float = FIRST_PAUSE_S
    start_at: float | None = None
    demand: DemandSocket | None = None

    @property
    def running(self) -> bool:
        return self.state.pid != 0


class Children:
    """All of one supervisor.

    Args:
        state: Gets each child's state, to be written down by `save`.
    """

    def __init__(self, state: EngineState, save: Callable[[], None]) -> None:
        self._state = state
        self._save = save
        self._children: dict[str, Child] = {}
        self.stopping = False

    def __iter__(self) -> Iterator[Child]:
        return iter(list(self._children.values()))

    def __getitem__(self, name: str) -> Child:
        return self._children[name]

    def __contains__(self, name: str) -> bool:
        return name in self._children

    def remove(self, name: str) -> None:
        """End a child, if there is one of the name, and keep it running no more."""
        child = self._children.get(name)
        if child is None:
            return
        child.start_at = None
        before, self.stopping = self.stopping, True
        try:
            self.stop([child])
        finally:
            self.stopping = before
        del self._children[name], self._state.processes[name]
        self._save()

    def add(self, child: Child) -> None:
        """Start a child, and keep it running from now on."""
        self._children[child.name] = child
        self._state.processes[child.name] = child.state
        self._start(child)

    def add_on_demand(self, child: Child) -> None:
        """Start a child whenever somebody connects to its socket."""
        self._children[child.name] = child

    def wanted(self) -> list[Child]:
        """Those that do not run, and are to be started once their sockets have somebody.

        One that failed is started again like any other, to remove what it left, and ends by itself.
        """
        return [child for child in self if child.demand is not None and not child.running and child.start_at is None]

    def start(self, child: Child) -> None:
        """Start a child that somebody has connected to."""
        self._state.processes[child.name] = child.state
        self._start(child)

    def _start(self, child: Child) -> None:
        pid, child.pipe = child.spawn()
        child.start_at, child.heard = None, b""
        identity = Identity.of(pid)
        current = child.state
        current.pid, current.start = pid, identity.start if identity else 0
        current.since, current.state = time.time(), "starting" if child.pipe is not None else "ready"
        self._save()

    def reap(self) -> None:
        """Take notice of children that ended."""
        for child in self:
            if not child.running:
                continue
            try:
                pid, status = os.waitpid(child.state.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = child.state.pid, 0
            if pid:
                self._ended(child, status)

    def _ended(self, child: Child, status: int) -> None:
        self.hear(child)
        if child.pipe is not None:
            os.close(child.pipe)
            child.pipe = None
        ended = _describe(status)
        was_ready = child.state.state == "ready"
        if not child.state.problem and not was_ready and self._state.phase == "starting":
            child.state.problem = f"it ended ({ended}) before it was ready; see the log"
        child.state.pid = 0
        child.state.state = "stopped" if self.stopping else "waiting"
        if self.stopping:
            return
        if child.demand is not None and status == 0:
            child.pause_s = FIRST_PAUSE_S
            del self._state.processes[child.name]
            self._save()
            return
        if time.time() - child.state.since > STEADY_AFTER_S:
            child.pause_s = FIRST_PAUSE_S
        log.warning("%s ended (%s); starting it again in %.1f s", child.name, ended, child.pause_s)
        child.state.restarts += 1
        child.start_at = time.monotonic() + child.pause_s
        child.pause_s = min(child.pause_s * 2, LONGEST_PAUSE_S)
        self._save()

    def start_due(self) -> None:
        """Start again what has waited long enough."""
        now = time.monotonic()
        for child in self:
            if child.start_at is not None and child.start_at <= now:
                child.state.problem = ""
                self._start(child)

    def hear(self, child: Child) -> None:
        """What a service said about its start."""
        if child.pipe is None:
            return
        try:
            data = os.read(child.pipe, 4096)
        except BlockingIOError:
            return
        child.heard += data
        if b"\n" in child.heard or not data:
            os.close(child.pipe)
            child.pipe = None
            word, _, reason = child.heard.decode(errors="replace").strip().partition(" ")
            if word == "ready":
                child.state.state, child.state.problem = "ready", ""
            elif word == "error":
                child.state.problem = reason.partition(" ")[2]
            self._save()

    def next_due(self) -> float | None:
        """When the next one is to be started, on the monotonic clock."""
        return min((child.start_at for child in self if child.start_at is not None), default=None)

    def stop(self, children: Iterable[Child], within_s: float = STOP_WITHIN_S) -> None:
        """End them: in order, and by force when that takes too long."""
        children = list(children)
        self.send(children, signal.SIGTERM)
        give_up_at = time.monotonic() + within_s
        while any(child.running for child in children):
            self.reap()
            if time.monotonic() > give_up_at:
                self.send(children, signal.SIGKILL)
            time.sleep(0.01)

    def send(self, children: Iterable[Child], number: int) -> None:
        for child in children:
            if child.running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.state.pid, number)


def _describe(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"signal {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exit code {os.waitstatus_to_exitcode(status)}"
