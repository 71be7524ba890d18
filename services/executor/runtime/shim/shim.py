"""The shim: one small process per container process. It outlives the agent and the zygote, and tells whoever asks.

It is the parent of the process; it owns its streams, writes its log, serves a socket, and when the process has ended it
writes the exit record before it goes. Single-threaded: one loop over descriptors.

    order -> cgroup -> clone init -> [log, socket meanwhile] -> ready -> execve -> "launched"
          -> loop until the process ends -> drain -> exit record -> "exit" to all -> gone
"""

from __future__ import annotations

import _socket
import os
import select
import time

from services.executor.runtime.errors import CommandFailure, ForeignFailure, RuntimeFailure, unforeseen
from services.executor.runtime.kernel import calls as kernel
from services.executor.runtime.launch.order import launch
from services.executor.runtime.shim import clients as shimclients
from services.executor.runtime.shim.exitrecord import ExitRecord
from services.executor.runtime.shim.streams import MOST_PENDING_BYTES, STALL_S, Client, Input, Output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from services.executor.runtime.launch.launcher import Adopted
    from services.executor.runtime.launch.order import Launched

_DRAIN_S = 2.0
_KILLED_WITHIN_S = 1.0
_LOOK_AGAIN_S = 0.02


class Shim:
    """State of the loop.

    Attributes:
        launched: the process and what was made for it.
        record: how it ended; None while it has not.
        written: whether nothing is left to be written to the disk.
    """

    def __init__(self, order: dict[str, Any], details: bytes, fds: list[int]) -> None:
        self.order = order
        self.details = details
        self.fds = fds
        self.poller = select.epoll()
        self.clients: dict[int, Client] = {}
        self.outputs: dict[int, Output] = {}
        self.input: Input | None = None
        self.listener: _socket.socket | None = None
        self.launched: Launched | Adopted
        self.started_at_ns = 0
        self.record: ExitRecord | None = None
        self.written = True
        self.status: int | None = None
        self.drain_until = 0.0
        self.pidfd = -1
        #: of a terminal, the process's end: while it is open the terminal lives, whoever else has it open or not
        self.terminal_fd = -1
        self.oom_fd = -1
        self.oom_count = 0
        self.oom_awaited_until = 0.0
        self.outputs_paused = False
        #: descriptor -> events asked for
        self.interest: dict[int, int] = {}
        self.finished_at_ns = 0

    # -- beginning -------------------------------------------------------------------------------------------------

    def begin(self) -> bool:
        """Carry out the order, tell the client that gave it, and watch; false when that failed."""
        if not self.launch(shim_pid=os.getpid()):
            return False
        self._watch()
        return True

    def launch(self, *, shim_pid: int) -> bool:
        """Carry out the order and tell the client that gave it; false when that failed."""
        control = self._adopt(self.fds[self.order["control_fd"]])
        try:
            for wish in self.order.get("attach") or []:
                shimclients.attach(self, self._adopt(self.fds[wish["fd"]]), wish)
            self.launched = launch(self.order, self.details, self.fds, meanwhile=self._meanwhile)
        except RuntimeFailure as failure:
            self._fail(control, failure)
            return False
        except Exception as error:  # the edge: an order that nobody foresaw is answered too
            self._fail(control, unforeseen(error))
            return False
        if not self.launched.waiting:
            self.started_at_ns = time.time_ns()
        control.send({"event": "launched", **self.state(), "shim_pid": shim_pid})
        self._watch_memory()
        return True

    def adopt(self, fd: int, wants: list[str] | None) -> None:
        """Take over a connection of the launcher's, attached to streams or not."""
        client = self._adopt(fd)
        if wants is not None:
            client.wants = frozenset(wants)

    def take_over(self, launched: Adopted, listener: int, oom_fd: int, started_at_ns: int) -> None:
        """Watch over a process that a launcher has started for us; descriptors that there are not are -1."""
        self.launched = launched
        self.started_at_ns = started_at_ns
        if listener >= 0:
            self.listener = _socket.socket(fileno=listener)
            self._ask(listener, select.EPOLLIN)
        if oom_fd >= 0:
            self.oom_fd = oom_fd
            self._ask(oom_fd, select.EPOLLIN)
        self._watch()

    def _adopt(self, fd: int) -> Client:
        client = Client(_socket.socket(fileno=fd))
        self.clients[fd] = client
        self._ask(fd, select.EPOLLIN)
        return client

    def _meanwhile(self) -> None:
        """What does not depend on the process, done while it prepares itself on another processor."""
        path = self.order.get("socket")
        if not path:
            return
        listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
        with kernel.reporting("bind", path):
            if os.path.exists(path):
                os.unlink(path)
            listener.bind(path)
            listener.listen(64)
        self.listener = listener
        self._ask(listener.fileno(), select.EPOLLIN)

    def _watch(self) -> None:
        made = self.launched
        self.pidfd = os.pidfd_open(made.pid)
        self._ask(self.pidfd, select.EPOLLIN)
        for output in made.outputs:
            self.outputs[output.fd] = output
            self._ask(output.fd, select.EPOLLIN)
            if output.tty:
                from services.executor.runtime.steps import tty

                self.terminal_fd = tty.open_slave(output.fd)
        self.input = made.input

    def _watch_memory(self) -> None:
        """After the answer: whatever tells of memory running out."""
        if self.launched.cgroup is not None and self.launched.owns_cgroup:
            try:
                self.oom_fd = self.launched.cgroup.oom_notify_fd()
            except RuntimeFailure:
                return  # no memory controller: then nothing is killed for its limits
            self._ask(self.oom_fd, select.EPOLLIN)

    def _fail(self, control: Client, failure: RuntimeFailure) -> None:
        code = failure.exit_code if isinstance(failure, CommandFailure | ForeignFailure) else 128
        record = ExitRecord(code, finished_at_ns=time.time_ns(), error=failure.message)
        self._write(record)
        self._unlink_socket()
        control.send({"event": "failed", "error": failure.to_wire()})
        for client in self.clients.values():
            client.closing = True
        self._flush_all(time.monotonic() + _DRAIN_S)

    # -- the loop --------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Run until the process has ended and everybody has been told."""
        while self.turn(self._timeout()):
            pass

    def turn(self, timeout_s: float) -> bool:
        """Wait for something to happen and deal with it; false when there is nothing left to do."""
        for fd, events in self.poller.poll(timeout_s):
            self._handle(fd, events)
        if self.oom_awaited_until:
            self._look_for_oom()
        self._balance()
        if self.status is not None and self.record is None and self._drained():
            self._finish()
            self._balance()  # those who have it all are let go at once
        if self.record is not None and not self.written:
            self._write(self.record)
        return self.record is None or not self.written or bool(self.clients)

    def close_all(self) -> None:
        """Let go of every descriptor, and nothing more: for rehearsals."""
        for client in self.clients.values():
            client.socket.close()
        for output in self.launched.outputs:
            os.close(output.fd)
        if self.launched.input is not None:
            self.launched.input.close()
        if self.listener is not None:
            self.listener.close()
        for fd in (self.oom_fd, self.pidfd, self.terminal_fd):
            if fd >= 0:
                os.close(fd)
        self.poller.close()

    def _timeout(self) -> float:
        if self.record is not None:
            return 1.0
        if self.status is not None:
            return max(0.0, self.drain_until - time.monotonic())
        if self.oom_awaited_until:
            return _LOOK_AGAIN_S
        return STALL_S / 3 if self.outputs_paused else -1

    def _handle(self, fd: int, events: int) -> None:
        if fd in self.outputs:
            if events & select.EPOLLOUT and self.input is not None:
                self.input.flush()
            if events & ~select.EPOLLOUT:
                self._pump(fd)
        elif fd == self.pidfd:
            self._reap()
        elif self.listener is not None and fd == self.listener.fileno():
            self._accept()
        elif fd == self.oom_fd:
            os.read(self.oom_fd, 4096)
            self.oom_awaited_until = time.monotonic() + _KILLED_WITHIN_S
        elif fd in self.clients:
            client = self.clients[fd]
            if events & select.EPOLLOUT:
                client.flush()
            if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                shimclients.receive(self, client, events)
        elif self.input is not None and fd == self.input.fd:
            self.input.flush()

    def _pump(self, fd: int) -> None:
        output = self.outputs[fd]
        if output.pump(list(self.clients.values())):
            return
        del self.outputs[fd]
        self._unregister(fd)
        if self.input is not None and self.input.tty:
            self.input.close()
        os.close(fd)

    def _accept(self) -> None:
        assert self.listener is not None
        try:
            fd, _ = self.listener._accept()  # type: ignore[attr-defined]
        except BlockingIOError:
            return
        except OSError:  # no descriptor is free: until one is, asking again would only be busy
            self._ask(self.listener.fileno(), 0)
            return
        os.set_inheritable(fd, False)
        self._adopt(fd)

    def _balance(self) -> None:
        """Ask for the events that matter now, and drop clients that are done or stuck."""
        now = time.monotonic()
        for client in list(self.clients.values()):
            if (client.closing and not client.pending) or client.stalled(now):
                self._drop(client)
                continue
            reading = not (client.closing or client.stdin_ended or (client.wants is not None and self._input_full()))
            # even without any of these the kernel reports a peer that is gone
            self._ask(client.fileno(), (select.EPOLLIN if reading else 0) | (select.EPOLLOUT if client.pending else 0))
        self.outputs_paused = any(len(c.pending) > MOST_PENDING_BYTES for c in self.clients.values())
        typing = self.input if self.input is not None and self.input.fd >= 0 and self.input.pending else None
        for fd in self.outputs:
            wanted = 0 if self.outputs_paused else select.EPOLLIN
            if typing is not None and typing.fd == fd:
                wanted |= select.EPOLLOUT
            self._ask(fd, wanted, quiet=True)
        if self.input is not None and self.input.fd >= 0 and not self.input.tty:
            self._ask(self.input.fd, select.EPOLLOUT if typing else 0, quiet=True)

    def _ask(self, fd: int, events: int, *, quiet: bool = False) -> None:
        """Set what is reported about a descriptor. With `quiet` and no events not even its end is."""
        if self.interest.get(fd) == events:
            return
        if quiet and not events:
            self._unregister(fd)
        elif fd in self.interest:
            self.poller.modify(fd, events)
        else:
            self.poller.register(fd, events)
        if events or not quiet:
            self.interest[fd] = events

    def _unregister(self, fd: int) -> None:
        if self.interest.pop(fd, None) is not None:
            self.poller.unregister(fd)

    def _input_full(self) -> bool:
        return self.input is not None and self.input.full

    def _drop(self, client: Client) -> None:
        fd = client.fileno()
        self._unregister(fd)
        del self.clients[fd]
        client.socket.close()
        if self.listener is not None:
            self._ask(self.listener.fileno(), select.EPOLLIN)
        self.input_left(client)

    def input_left(self, client: Client) -> None:
        """With StdinOnce the input ends with its first client."""
        if client.wants and "stdin" in client.wants and not client.stdin_ended:
            client.stdin_ended = True
            if self.input is not None and self.input.once:
                self.input.end()

    def state(self) -> dict[str, Any]:
        """What `state` answers, and what is told of a launch."""
        running = "running" if self.started_at_ns else "created"
        status = running if self.status is None else "stopped"
        return {
            "id": self.order["id"],
            "exec_id": self.order.get("exec_id"),
            "status": status,
            "pid": self.launched.pid,
            "shim_pid": os.getpid(),
            "started_at_ns": self.started_at_ns,
            "exit": None if self.record is None else self.record.to_dict(),
        }

    # -- the end ---------------------------------------------------------------------------------------------------

    def _look_for_oom(self) -> None:
        """Version 1 tells that memory has run out; who is killed for it is counted a moment later."""
        cgroup = self.launched.cgroup
        assert cgroup is not None
        count = cgroup.oom_kill_count()
        if time.monotonic() > self.oom_awaited_until:
            self.oom_awaited_until = 0.0
        if count > self.oom_count:
            self.oom_count = count
            for client in self.clients.values():
                if client.wants is None:
                    client.send({"event": "oom", "count": count})

    def _reap(self) -> None:
        self._unregister(self.pidfd)
        _, self.status = os.waitpid(self.launched.pid, 0)
        self.finished_at_ns = time.time_ns()
        if self.terminal_fd >= 0:
            os.close(self.terminal_fd)
            self.terminal_fd = -1
        self.drain_until = time.monotonic() + _DRAIN_S
        if self.launched.owns_cgroup and not self.launched.private_pids and self.launched.cgroup is not None:
            # without a pid namespace of its own nothing else ends with it
            try:
                self.launched.cgroup.kill()
            except RuntimeFailure:
                return  # somebody took the group away; the end of the first process is told all the same

    def _drained(self) -> bool:
        """Whether all output has come. A process left behind may hold a pipe open: then two seconds are enough."""
        return not self.outputs or time.monotonic() >= self.drain_until

    def _finish(self) -> None:
        for fd in list(self.outputs):
            os.set_blocking(fd, False)
            output = self.outputs.pop(fd)
            output.flush()
            self._unregister(fd)
            os.close(fd)
        record = ExitRecord.of_status(
            self.status or 0,
            oom_killed=self._was_oom_killed(),
            started_at_ns=self.started_at_ns,
            finished_at_ns=self.finished_at_ns,
        )
        self._write(record)
        self.record = record
        self._clean_up()
        for client in self.clients.values():
            self._tell(client, record)
            client.closing = True

    def _write(self, record: ExitRecord) -> None:
        """Try to write the exit record: on a full disk the loop tries again each second, until there is room."""
        path = self.order.get("exit_file")
        try:
            if path and os.path.isdir(os.path.dirname(path)):  # else the container has been removed since
                record.write(path)
        except OSError:
            self.written = False
        else:
            self.written = True

    def _was_oom_killed(self) -> bool:
        cgroup = self.launched.cgroup
        return self.launched.owns_cgroup and cgroup is not None and cgroup.oom_kill_count() > 0

    def _tell(self, client: Client, record: ExitRecord) -> None:
        if client.wants is not None:
            return
        for number in client.waiting:
            client.send({"id": number, "ok": record.to_dict()})
        client.send({"event": "exit", **record.to_dict()})

    def _clean_up(self) -> None:
        self._unlink_socket()
        if self.oom_fd >= 0:
            self._unregister(self.oom_fd)
            os.close(self.oom_fd)
            self.oom_fd = -1
        if self.launched.owns_cgroup and self.launched.cgroup is not None:
            try:
                if self.launched.at_end is not None:
                    self.launched.at_end()
                self.launched.cgroup.remove()
            except RuntimeFailure:
                # a process stuck in the kernel keeps it; the agent's inventory removes it later
                return

    def _unlink_socket(self) -> None:
        if self.listener is not None:
            self._unregister(self.listener.fileno())
            self.listener.close()
            self.listener = None
            try:
                os.unlink(self.order["socket"])
            except FileNotFoundError:
                return

    def _flush_all(self, deadline: float) -> None:
        while self.clients and time.monotonic() < deadline:
            self._balance()
            if self.clients:
                for fd, _events in self.poller.poll(0.1):
                    if fd in self.clients:
                        self.clients[fd].flush()


def run(order: dict[str, Any], details: bytes, fds: list[int]) -> None:
    """Carry out an order and be its shim; called in a fresh fork, returns when there is nothing left to do."""
    shim = Shim(order, details, fds)
    if shim.begin():
        kernel.malloc_trim()
        shim.serve()
