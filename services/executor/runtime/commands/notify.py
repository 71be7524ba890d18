"""A container that tells its service manager when it is ready: sd_notify, by way of a socket of the runtime's.

The manager's socket stays outside: the container gets a directory with one of ours, whose READY= is passed on, with the
container's first process as MAINPID. A socket that the container replaced would gain it nothing.

Source: sd_notify(3), sd_notify_barrier(3); the place in the container and what is passed on are runc's.
"""

from __future__ import annotations

import _socket
import os
import time

from services.executor.runtime.commands import store
from services.executor.runtime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

INSIDE = "/run/notify"
_NAME = "notify.sock"
_MOST_BYTES = 4096
_BARRIER_S = 5.0
_LOOK_AGAIN_S = 0.1


def add_to(spec: dict[str, Any], directory: str) -> None:
    """Give the container the socket that will be in its `directory` of ours, and the variable that names it."""
    mount = {
        "destination": INSIDE,
        "source": os.path.join(directory, store.NOTIFY_DIRECTORY),
        "options": ["bind", "nosuid", "noexec", "nodev", "ro"],
    }
    spec["mounts"] = [*(spec.get("mounts") or []), mount]
    process = spec["process"] = dict(spec.get("process") or {})
    others = [entry for entry in process.get("env") or [] if not entry.startswith("NOTIFY_SOCKET=")]
    process["env"] = [*others, f"NOTIFY_SOCKET={INSIDE}/{_NAME}"]


class Listener:
    """Our socket, which the container writes to.

    Attributes:
        ready: whether it has said that it is.
    """

    def __init__(self, directory: str) -> None:
        self.ready = False
        self._socket = _socket.socket(
            _socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
        )

        def bind() -> None:
            self._socket.bind(_NAME)
            os.chmod(_NAME, 0o777)  # whoever runs in the container may be ready

        try:
            store.in_directory(os.path.join(directory, store.NOTIFY_DIRECTORY), bind)
        except OSError as error:
            self._socket.close()
            raise RuntimeFailure(
                f"bind {directory}/{store.NOTIFY_DIRECTORY}/{_NAME}: {(error.strerror or '').lower()}"
            ) from None

    def fileno(self) -> int:
        """To poll for: when it can be read, `receive`."""
        return self._socket.fileno()

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()

    def receive(self, pid: int, *, leaving: bool = False) -> bool:
        """Take what has come, and pass on that the container is ready; whether it has just become so.

        Args:
            leaving: our process is about to end: not before the manager has read that.
        """
        try:
            said = self._socket.recv(_MOST_BYTES).decode(errors="replace")
        except BlockingIOError:
            return False
        line = next((line for line in said.splitlines() if line.startswith("READY=")), None)
        if line is None or self.ready:
            return False
        self.ready = True
        _tell_manager(line, pid, leaving=leaving)
        return True

    def wait(self, container: store.Container) -> None:
        """Return when the container is ready, or has ended."""
        import select

        poller = select.poll()
        poller.register(self.fileno(), select.POLLIN)
        while container.alive():
            if poller.poll(_LOOK_AGAIN_S * 1000) and self.receive(container.pid, leaving=True):
                return


def _tell_manager(line: str, pid: int, *, leaving: bool) -> None:
    """Pass it on. Who leaves stays until it has been read: the manager looks up by the process which unit it is of."""
    path = os.environ["NOTIFY_SOCKET"]
    socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        socket.connect("\0" + path[1:] if path.startswith("@") else path)
        socket.send(f"{line}\nMAINPID={pid}".encode())
        if leaving:
            socket.sendmsg([b"BARRIER=1"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, writer.to_bytes(4, "little"))])
    except OSError as error:
        os.close(writer)
        os.close(reader)
        raise RuntimeFailure(f"notify {path}: {(error.strerror or '').lower()}") from None
    finally:
        socket.close()
    os.close(writer)
    if leaving:
        _await_end_of(reader)
    os.close(reader)


def _await_end_of(reader: int) -> None:
    import select

    poller = select.poll()
    poller.register(reader, select.POLLHUP)
    deadline = time.monotonic() + _BARRIER_S
    while not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
        if time.monotonic() >= deadline:
            return
