"""The parent's part of the talk with a process on its way to execve; drawn in `sync.py`.

What it seldom has to do it imports when it has to: `davit-runc start` is no more than the end of this conversation.
"""

from __future__ import annotations

import os

from services.executor.runtime.errors import CommandFailure, RuntimeFailure, from_wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from services.executor.runtime.launch.sync import Channel


class Launch:
    """A process on its way to execve.

    Attributes:
        pid: its id in our pid namespace (until `until_ready` has returned: of the process in between, if there is one).
        master: the terminal's end, or None.
        waiting: it waits for `start`.
        path: what it is about to execute.
        channel: to it; closed when it runs.
        on_listener: called with a descriptor of the seccomp listener, which it is to close.
    """

    __slots__ = ("channel", "master", "on_listener", "path", "pid", "waiting")

    def __init__(self, pid: int, channel: Channel) -> None:
        self.pid = pid
        self.channel = channel
        self.master: int | None = None
        self.waiting = False
        self.path = ""
        self.on_listener: Callable[[int], None] | None = None

    def until_ready(self) -> None:
        """Lead the conversation until the process waits for `start`, or is about to execve.

        Raises:
            RuntimeFailure: what went wrong in the child, or in a hook; the child has been killed and reaped.
        """
        try:
            while not self._handle(*self._next()):
                pass
        except BaseException:
            self.abort()
            raise

    def start(self) -> None:
        """Let a waiting process go on to execve."""
        self.channel.send("start")

    def until_running(self) -> None:
        """Return when execve has happened: the channel is closed by it.

        Raises:
            RuntimeFailure: why it did not.
        """
        try:
            while (got := self.channel.receive()) is not None:
                self._handle(*got)
        except BaseException:
            self.abort()
            raise
        self.channel.close()

    def abort(self) -> None:
        """Kill the process, and reap it unless that is for our parent to do."""
        self.channel.close()
        try:
            os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)
        except ProcessLookupError:
            return
        except ChildProcessError:
            _await_end(self.pid)

    def _next(self) -> tuple[dict[str, Any], list[int]]:
        got = self.channel.receive()
        if got is None:
            raise RuntimeFailure(f"the container's init ended early ({self._how_it_ended()})", step="init")
        return got

    def _how_it_ended(self) -> str:
        try:
            return str(os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]))
        except ChildProcessError:  # our parent will know
            return "killed"

    def _handle(self, message: dict[str, Any], fds: list[int]) -> bool:
        """React to one message; true when it was "ready"."""
        kind = message["kind"]
        if kind == "error":
            raise from_wire(message["error"])
        if kind == "ready":
            self.path = str(message.get("path") or "")
            self.master = fds[0] if fds else None
            self.waiting = bool(message.get("wait"))
            return True
        if kind == "network":
            self.move_devices(message["devices"], fds[0])
            return False
        try:
            reaction = _REACTIONS[kind]
        except KeyError:
            raise RuntimeFailure(f'unexpected message "{kind}"', step="init") from None
        reaction(self, message)
        return False

    def refuse(self, message: dict[str, Any]) -> None:
        """The program is there, but the kernel would not execute it."""
        number = int(message["errno"])
        raise CommandFailure(f"exec {self.path}: {os.strerror(number).lower()}", step="exec", errno=number)

    def map_ids(self, message: dict[str, Any]) -> None:
        """Write the id maps of the new user namespace, clocks, and limits: what it may not do by itself."""
        from services.executor.runtime.spec import idmap
        from services.executor.runtime.steps import namespaces, rlimits

        idmap.write_maps(self.pid, message["uid_maps"], message["gid_maps"])
        namespaces.write_time_offsets(str(self.pid), message["time_offsets"])
        rlimits.apply([(name, *values) for name, *values in message["rlimits"]], self.pid)
        self.channel.send("mapped")

    def change_child(self, message: dict[str, Any]) -> None:
        """The process in between has borne the real one, and ends."""
        os.waitpid(self.pid, 0)
        self.pid = int(message["pid"])
        if message.get("scheduler"):
            from services.executor.runtime.steps import scheduling

            scheduling.apply_scheduler(message["scheduler"], self.pid)
        self.channel.send("go")

    def run_hooks(self, message: dict[str, Any]) -> None:
        """Hooks of the runtime's namespaces."""
        from services.executor.runtime.steps import hooks

        state = {**message["state"], "pid": self.pid}
        hooks.run("prestart", message["hooks"], state)
        hooks.run("createRuntime", message["hooks"], state)
        self.channel.send("hooked")

    def move_devices(self, devices: dict[str, Any], namespace: int) -> None:
        """Network devices of ours go to the container's namespace, whose descriptor is closed then."""
        from services.executor.runtime.steps import netdevices

        try:
            moved = netdevices.move(devices, namespace)
        finally:
            os.close(namespace)
        self.channel.send("moved", devices=moved)

    def take_listener(self, message: dict[str, Any]) -> None:
        """Fetch the seccomp listener out of the process and pass it on."""
        from services.executor.runtime.kernel import calls as kernel

        pidfd = os.pidfd_open(self.pid)
        try:
            listener = kernel.pidfd_getfd(pidfd, message["fd"])
        finally:
            os.close(pidfd)
        if self.on_listener is None:
            os.close(listener)
            raise RuntimeFailure("nobody to give the seccomp listener to", step="seccomp")
        self.on_listener(listener)
        self.channel.send("fetched")


def _await_end(pid: int) -> None:
    """Return when somebody else's child, who has not reaped it yet, has ended."""
    import select

    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    poller.poll()
    os.close(pidfd)


_REACTIONS = {
    "refused": Launch.refuse,
    "map": Launch.map_ids,
    "stage": Launch.change_child,
    "hooks": Launch.run_hooks,
    "seccomp": Launch.take_listener,
}
