"""A container's start in two processes, so that the one that stays has touched little memory.

A forked interpreter gets a copy of every page that it writes to, and running Python code is writing (reference
counts). Starting a container runs a lot of code, watching over it very little. So the shim, which stays, bears a
launcher before there is an order, and sleeps; the launcher carries the order out, gives the shim what is left of it,
and ends, with all the memory that it took.

    zygote ── fork ── shim ── fork ── launcher        both wait; the zygote's socket is read by the launcher
                       │                 │ ◄── order of the agent
                       │                 ├── clone, as the shim's child (CLONE_PARENT) ── init ── execve
                       │                 ├── "launched" to the agent
                       │ ◄── state, descriptors
                       │                 └ ends
                       └ serves

An order that is not an ordinary container's (an exec, another runtime, a process in between) is passed to the shim as
it came, which then carries it out itself. Source: clone(2), CLONE_PARENT; unix(7), SCM_RIGHTS.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import os

from services.executor.runtime import jsonlite
from services.executor.runtime.kernel import calls as kernel
from services.executor.runtime.launch.sync import received_fds
from services.executor.runtime.shim.shim import Shim
from services.executor.runtime.shim.streams import Input, Output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from services.executor.runtime.cgroups.interface import Cgroup
    from services.executor.runtime.shim.logfile import JsonLog

_MOST_BYTES = 1 << 18
_MOST_FDS = 253
# In place of a state too long for one packet, which then comes in a file, the last of the descriptors.
_ORDER, _STATE, _LONG_STATE = b"O", b"S", b"L"


class Adopted:
    """A process that a launcher started, as the shim knows it. What is seldom needed is made when it is.

    See `launch.Launched` for the attributes.
    """

    def __init__(self, state: dict[str, Any], outputs: list[Output], typed: Input | None, log: LaterLog | None) -> None:
        self.pid = int(state["pid"])
        self.process = None
        self.waiting = False
        self.owns_cgroup = True
        self.private_pids = bool(state["private_pids"])
        self.at_end = None
        self.outputs = outputs
        self.input = typed
        self.log = log
        self._cgroup_path = str(state["cgroup"])
        self._cgroup: Cgroup | None = None

    @property
    def cgroup(self) -> Cgroup:
        """The container's group."""
        if self._cgroup is None:
            from services.executor.runtime.launch.order import backend

            self._cgroup = backend().open(self._cgroup_path)
        return self._cgroup


class LaterLog:
    """A log that is opened by its first line; the launcher has made the file."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._log: JsonLog | None = None

    @property
    def opened(self) -> JsonLog:
        """The log itself."""
        if self._log is None:
            from services.executor.runtime.shim.logfile import JsonLog

            self._log = JsonLog(self._options, later=True)
        return self._log

    def write(self, stream: str, pieces: list[bytes]) -> None:
        """See `JsonLog.write`."""
        self.opened.write(stream, pieces)


# -- the launcher ------------------------------------------------------------------------------------------------------


def suits(order: dict[str, Any]) -> bool:
    """Whether a launcher can carry out an order: an ordinary container's."""
    if "exec_id" in order or "runtime" in order or not order.get("start", True):
        return False
    return not order["birth"]["staged"]


def pass_on(channel: _socket.socket, packet: bytes, fds: list[int]) -> None:
    """Leave an order to the shim."""
    _send(channel, _ORDER + packet, fds)


def launch_for_parent(channel: _socket.socket, order: dict[str, Any], details: bytes, fds: list[int]) -> None:
    """Carry out an order; the process becomes our parent's child, and so does what is left to do."""
    order["birth"]["flags"] |= kernel.CLONE_PARENT
    shim = Shim(order, details, fds)
    if shim.launch(shim_pid=os.getppid()):
        give(channel, shim)


def give(channel: _socket.socket, shim: Shim) -> None:
    made = shim.launched
    order = shim.order
    clients = list(shim.clients)
    given = [*clients, *(output.fd for output in made.outputs)]
    state: dict[str, Any] = {
        "id": order["id"],
        "pid": made.pid,
        "started_at_ns": shim.started_at_ns,
        "exit_file": order.get("exit_file"),
        "socket": order.get("socket"),
        "tty": bool(order.get("tty")),
        "log": order.get("log"),
        "cgroup": order["birth"]["cgroup"],
        "private_pids": made.private_pids,
        "clients": [sorted(client.wants) if client.wants is not None else None for client in shim.clients.values()],
        "outputs": [output.name for output in made.outputs],
    }
    if made.input is not None:
        state["input"] = {"tty": made.input.tty, "once": made.input.once}
        if not made.input.tty:
            given.append(made.input.fd)
    for name, fd in (("listener", shim.listener.fileno() if shim.listener else -1), ("oom", shim.oom_fd)):
        state[name] = fd >= 0
        if fd >= 0:
            given.append(fd)
    give_state(channel, state, given)


def give_state(channel: _socket.socket, state: dict[str, Any], given: list[int]) -> None:
    """Send what the shim is to know, and descriptors; in a file where it is too long for a packet."""
    data = _STATE + jsonlite.dumps(state).encode()
    if len(data) > _MOST_BYTES:
        file = os.memfd_create("state", os.MFD_CLOEXEC)
        os.write(file, data)
        data, given = _LONG_STATE, [*given, file]
    _send(channel, data, given)


def _send(channel: _socket.socket, data: bytes, fds: list[int]) -> None:
    packed = b"".join(fd.to_bytes(4, "little") for fd in fds)
    channel.sendmsg([data], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)] if fds else [])


# -- the shim ----------------------------------------------------------------------------------------------------------


def wait(channel: _socket.socket, launcher: int) -> tuple[Shim | None, bytes, list[int]]:
    """Sleep until the launcher has done its work.

    Returns:
        The shim of the container that was started; or None with an order and its descriptors, to be carried out here;
        or None and nothing, when there is nothing to do (any more).
    """
    data, fds = receive(channel)
    os.waitpid(launcher, 0)
    if data[:1] == _ORDER:
        return None, data[1:], fds
    if not data:
        _reap_all()
        return None, b"", fds
    return _take_over(jsonlite.loads(data[1:]), fds), b"", []


def taken(channel: _socket.socket) -> Shim:
    """What `give` gave."""
    data, fds = receive(channel)
    return _take_over(jsonlite.loads(data[1:]), fds)


def receive(channel: _socket.socket) -> tuple[bytes, list[int]]:
    """What was sent, and the descriptors that came along."""
    data, ancillary, _flags, _address = channel.recvmsg(
        _MOST_BYTES, _socket.CMSG_SPACE(4 * _MOST_FDS), _socket.MSG_CMSG_CLOEXEC
    )
    channel.close()
    fds = received_fds(ancillary)
    if data == _LONG_STATE:
        with open(fds.pop(), "rb") as file:
            file.seek(0)
            data = file.read()
    return data, fds


def _reap_all() -> None:
    """A start that failed leaves a child of ours that has been killed, or dies with us."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _take_over(state: dict[str, Any], fds: list[int]) -> Shim:
    given = iter(fds)
    shim = Shim(state, b"", [])
    for wants in state["clients"]:
        shim.adopt(next(given), wants)
    log = state["log"] or {"driver": "none"}
    later = None if log.get("driver", "json-file") == "none" else LaterLog(log)
    tty = state["tty"]
    outputs = [Output(next(given), name, later, tty=tty) for name in state["outputs"]]  # type: ignore[arg-type]
    typed = None
    if "input" in state:
        fd = outputs[0].fd if tty else next(given)
        typed = Input(fd, tty=tty, once=state["input"]["once"])
    listener = next(given) if state["listener"] else -1
    oom = next(given) if state["oom"] else -1
    shim.take_over(Adopted(state, outputs, typed, later), listener, oom, state["started_at_ns"])
    return shim


def pair() -> tuple[_socket.socket, _socket.socket]:
    """A channel between the two."""
    one, other = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    for end in (one, other):
        end.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, 2 * _MOST_BYTES)
    return one, other


def die_with(parent: int) -> None:
    """A launcher without its shim would start what nobody watches over."""
    kernel.set_parent_death_signal(_signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
