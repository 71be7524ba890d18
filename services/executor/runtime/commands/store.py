"""Containers of davit-runc on disk: <root>/<id>/state.json, and start.sock while one waits to be started.

The layout is our own; what other programs may rely on is the output of `state` and `list`.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` itself costs an enum module
import errno
import os
import time

from services.executor.runtime import cgroups, state
from services.executor.runtime.errors import NotFound, RuntimeFailure, WrongState

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from typing import Any

    from services.executor.runtime.cgroups.interface import Cgroup

STATE_FILE = "state.json"
START_SOCKET = "start.sock"
#: what the container sees of ours when it is to say that it is ready, see `notify`
NOTIFY_DIRECTORY = "notify"
#: of the OCI runtime specification that states comply with
SPEC_VERSION = "1.3.0"
_ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")


def check_id(container_id: str) -> str:
    """The id, if it can be a directory's name.

    Raises:
        RuntimeFailure: in runc's words.
    """
    if not container_id:
        raise RuntimeFailure("container id cannot be empty")
    if not _ID_CHARACTERS.issuperset(container_id) or container_id in {".", ".."}:
        raise RuntimeFailure("invalid container ID format: " + container_id)
    return container_id


class Container:
    """One container's record.

    Attributes:
        directory: of its state.
        data: what state.json says: id, bundle, rootfs, pid, start_time, created, owner (a uid), cgroup, spec.
    """

    def __init__(self, directory: str, data: dict[str, Any]) -> None:
        self.directory = directory
        self.data = data

    @property
    def pid(self) -> int:
        """Of its first process; may be gone."""
        return int(self.data["pid"])

    @property
    def spec(self) -> dict[str, Any]:
        """Its config.json as it was."""
        spec: dict[str, Any] = self.data["spec"]
        return spec

    def cgroup(self) -> Cgroup:
        """Its control group."""
        if not self.data["cgroup"]:
            from services.executor.runtime.cgroups.absent import AbsentCgroup

            return AbsentCgroup()
        return cgroups.detect().open(self.data["cgroup"])

    def alive(self) -> bool:
        """Whether its first process is still that process, and not a zombie."""
        pid = self.pid
        return pid > 0 and state.start_time(pid) == self.data["start_time"] and not state.is_zombie(pid)

    def status(self) -> str:
        """ "created", "running", "paused" or "stopped"."""
        if not self.alive():
            return "stopped"
        if self.cgroup().frozen():
            return "paused"
        return "created" if os.path.exists(os.path.join(self.directory, START_SOCKET)) else "running"

    def describe(self) -> dict[str, Any]:
        """What `davit-runc state` prints."""
        status = self.status()
        data = self.data
        described = {
            "ociVersion": SPEC_VERSION,
            "id": data["id"],
            "pid": 0 if status == "stopped" else self.pid,
            "status": status,
            "bundle": data["bundle"],
            "rootfs": data["rootfs"],
            "created": data["created"],
        }
        if self.spec.get("annotations"):
            described["annotations"] = self.spec["annotations"]
        described["owner"] = _user_name(int(data["owner"]))
        return described

    def hook_state(self) -> dict[str, Any]:
        """What hooks get on stdin."""
        status = self.status()
        state = {
            "ociVersion": self.spec.get("ociVersion", SPEC_VERSION),
            "id": self.data["id"],
            "status": status,
            "pid": 0 if status == "stopped" else self.pid,
            "bundle": self.data["bundle"],
        }
        if self.spec.get("annotations"):
            state["annotations"] = self.spec["annotations"]
        return state

    def save(self) -> None:
        """Write state.json."""
        state.write_json(os.path.join(self.directory, STATE_FILE), self.data)

    def signal(self, number: int) -> None:
        """Send a signal to its first process, and to no other that may have got its id.

        Raises:
            WrongState: it is not running.
        """
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            raise WrongState("container not running") from None
        try:
            if not self.alive():
                raise WrongState("container not running")
            _signal.pidfd_send_signal(pidfd, number)
        except ProcessLookupError:
            raise WrongState("container not running") from None
        except OSError as error:
            raise RuntimeFailure(f"unable to signal init: {(error.strerror or '').lower()}") from None
        finally:
            os.close(pidfd)

    def wait_gone(self, timeout_s: float) -> bool:
        """Whether its first process ended in time."""
        deadline = time.monotonic() + timeout_s
        while self.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def remove(self) -> None:
        """Remove its directory."""
        remove(self.directory)


def remove(directory: str) -> None:
    """Remove a container's directory and what the runtime has put there."""
    for entry in os.scandir(directory):
        if entry.is_dir(follow_symlinks=False):
            remove(entry.path)
        else:
            os.unlink(entry.path)
    os.rmdir(directory)


def _user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def load(root: str, container_id: str) -> Container:
    """A container by id.

    Raises:
        NotFound: there is none.
    """
    directory = os.path.join(root, check_id(container_id))
    data = state.read_json(os.path.join(directory, STATE_FILE))
    if data is None:
        raise NotFound("container does not exist")
    return Container(directory, data)


def reserve(root: str, container_id: str) -> str:
    """Make the directory of a new container.

    Raises:
        WrongState: the id is taken.
    """
    directory = os.path.join(root, check_id(container_id))
    from services.executor.runtime.kernel import calls as kernel

    with kernel.reporting("mkdir", directory):
        os.makedirs(root, 0o711, exist_ok=True)
        try:
            os.mkdir(directory, 0o711)
        except FileExistsError:
            raise WrongState("container with given ID already exists") from None
    return directory


def all_containers(root: str) -> list[Container]:
    """All that have a record, by id."""
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        directory = os.path.join(root, name)
        try:
            data = state.read_json(os.path.join(directory, STATE_FILE))
        except NotADirectoryError:
            continue
        if data is not None:
            found.append(Container(directory, data))
    return found


def listen(directory: str) -> _socket.socket:
    """The socket through which a created container is started; bound by a short name, paths have 107 bytes."""
    import _socket

    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    in_directory(directory, lambda: listener.bind(START_SOCKET))
    listener.listen(1)
    return listener


def connect(container: Container) -> _socket.socket:
    """Reach a created container.

    Raises:
        WrongState: it is not waiting (any more).
    """
    import _socket

    socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    try:
        in_directory(container.directory, lambda: socket.connect(START_SOCKET))
    except OSError as error:
        socket.close()
        if error.errno in {errno.ENOENT, errno.ECONNREFUSED}:
            raise WrongState("cannot start an already running container") from None
        raise
    return socket


def in_directory(directory: str, action: Any) -> None:
    """Do something with that working directory: the paths of sockets have but 107 bytes."""
    before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.chdir(directory)
    try:
        action()
    finally:
        os.fchdir(before)
        os.close(before)
