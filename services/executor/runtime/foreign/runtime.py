"""Another OCI runtime under our shim: its command line makes the container, all else stays as it is.

The shim keeps what it has for its own containers (streams, log, socket, exit record) and lets the other runtime do what
its child would do. It becomes the parent of what that runtime leaves behind, and so reaps it::

    shim ── fork ──► stage: mount namespace, overlay, config.json ── runtime create ──► container's init
      ▲                └── id, terminal ──► shim                                             │
      └──────────────────────────── orphan of `create`: child of the nearest subreaper ◄─────┘
    shim ── runtime start … the process ends … runtime delete ──► exit record

The stage's mounts are its own: what the container does not take along is gone when it ends. Only loaded by a shim whose
order names a runtime. Source: runc(8) and its pages of the commands used here.
"""

from __future__ import annotations

import _socket
import os

from services.executor.runtime import jsonlite
from services.executor.runtime.errors import RuntimeFailure
from services.executor.runtime.foreign.command import Runtime, remove
from services.executor.runtime.kernel import beneath, mountcalls
from services.executor.runtime.kernel import calls as kernel
from services.executor.runtime.launch import order as launch
from services.executor.runtime.launch.sync import Channel, received_fds
from services.executor.runtime.spec.plan import ProcessPlan
from services.executor.runtime.steps import init, rootfs, users

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from services.executor.runtime.launch.order import Launched, Streams


class Process:
    """A process that the runtime has made; to the shim the same as one of `conversation.Launch`."""

    __slots__ = ("_runtime", "pid", "waiting")

    def __init__(self, runtime: Runtime, pid: int, *, waiting: bool) -> None:
        self._runtime = runtime
        self.pid = pid
        self.waiting = waiting

    def start(self) -> None:
        """Let the container's command run.

        Raises:
            ForeignFailure: the container is gone.
        """
        try:
            self._runtime.call("start", self._runtime.container_id)
        except RuntimeFailure:
            self._runtime.delete()
            raise
        self.waiting = False

    def until_running(self) -> None:
        """It runs when `start` has returned."""


def launch_order(order: dict[str, Any], details: bytes, fds: list[int], meanwhile: Callable[[], None]) -> Launched:
    """Carry out an order that names a runtime, as `launch.launch` does the others.

    Raises:
        RuntimeFailure: nothing of the container remains.
    """
    runtime = Runtime(order)
    streams = launch.Streams(order)
    is_exec = "exec_id" in order
    cgroup = launch.backend().open(order["cgroup"] if is_exec else order["birth"]["cgroup"])
    in_stage = _exec if is_exec else _create

    def beside() -> None:
        launch.after_clone(None, order, fds, streams)
        meanwhile()

    kernel.become_subreaper()
    try:
        pid, master = _in_stage(
            lambda channel: in_stage(runtime, {**jsonlite.loads(details), **order}, fds, streams, channel), beside
        )
        # from here on orphans are nobody's business here: they would stay zombies
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 0)
        streams.take_terminal(master)
        made = Process(runtime, pid, waiting=not order.get("start", True))
        if not is_exec and not made.waiting:
            made.start()
    except BaseException:
        if not is_exec:
            _undo(runtime, cgroup)
        raise
    launched = launch.Launched(made, streams, cgroup, owns_cgroup=not is_exec)
    if not is_exec:
        launched.private_pids = bool(order["birth"]["private_pids"])
        launched.at_end = runtime.delete
    return launched


def _undo(runtime: Runtime, cgroup: Any) -> None:
    """After a failure, which is what is to be told: one of the undoing itself is left to the next start."""
    for action in (runtime.delete, cgroup.kill, cgroup.remove):
        try:
            action()
        except RuntimeFailure:
            continue


def _in_stage(action: Callable[[Channel], None], meanwhile: Callable[[], object]) -> tuple[int, int | None]:
    """Do `action` in a child, whose memory and mounts go with it: (id of what it made, its terminal).

    Raises:
        RuntimeFailure: of the action.
    """
    ours, theirs = Channel.pair()
    stage = os.fork()
    if stage == 0:
        kernel.set_parent_death_signal(9)
        init.guarded(theirs, lambda: action(theirs))
    theirs.close()
    try:
        meanwhile()
        message, received = ours.expect("made")
    finally:
        ours.close()
        os.waitpid(stage, 0)
    return int(message["pid"]), received[0] if received else None


# -- in the stage --------------------------------------------------------------------------------------------------


def _create(runtime: Runtime, order: dict[str, Any], fds: list[int], streams: Streams, channel: Channel) -> None:
    runtime.delete()  # what a shim that was killed left
    spec = dict(order["spec"])
    path = os.path.join(runtime.directory, "rootfs")
    kernel.unshare(kernel.CLONE_NEWNS)
    trees = _trees(spec.get("mounts") or [], order.get("mount_fds") or {}, fds)
    root = rootfs.prepare(path, rootfs.Overlay(order["rootfs"]), {})
    spec["mounts"] = _attached(spec.get("mounts") or [], trees, runtime.directory)
    spec["root"] = {**spec["root"], "path": path}
    linux = spec["linux"] = dict(spec.get("linux") or {})
    linux["namespaces"] = [_openable(launch.with_path(entry, fds)) for entry in linux.get("namespaces") or []]
    spec["process"] = _process(spec.get("process") or {}, order, root)
    os.close(root)
    _write(os.path.join(runtime.directory, "config.json"), spec)
    words = ["create", "--bundle", runtime.directory]
    _make(runtime, words, spec["process"], streams, channel)


def _exec(runtime: Runtime, order: dict[str, Any], _fds: list[int], streams: Streams, channel: Channel) -> None:
    root = os.open(f"/proc/{int(order['pid'])}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    process = _process(order.get("process") or {}, order, root)
    path = runtime.file("process")
    _write(path, process)
    try:
        words = ["exec", "--detach", "--process", path]
        _make(runtime, words, process, streams, channel)
    finally:
        remove(path)


def _make(runtime: Runtime, words: list[str], process: dict[str, Any], streams: Streams, channel: Channel) -> None:
    """Run the command that makes a process, and say which it made."""
    pid_file = runtime.file("pid")
    listener, console = _console(runtime) if streams.tty else (None, [])
    words = [*words, "--pid-file", pid_file, *console, runtime.container_id]
    try:
        runtime.call(*words, streams=streams.theirs, blame=str(process["args"][0]))
        with open(pid_file, encoding="ascii") as file:
            pid = int(file.read())
        master = _terminal(listener) if listener is not None else None
    finally:
        remove(pid_file)
        if listener is not None:
            remove(runtime.console)
    channel.send("made", () if master is None else (master,), pid=pid)


def _console(runtime: Runtime) -> tuple[_socket.socket, list[str]]:
    """A socket that the runtime sends the terminal's master to, and the option that tells it."""
    path = runtime.console
    remove(path)
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    with kernel.reporting("bind", path):
        listener.bind(path)
        listener.listen(1)
    return listener, ["--console-socket", path]


def _terminal(listener: _socket.socket) -> int:
    """What the runtime has sent by the time it ended."""
    listener.setblocking(False)
    try:
        fd, _ = listener._accept()  # type: ignore[attr-defined]
        connection = _socket.socket(fileno=fd)
        _, ancillary, _, _ = connection.recvmsg(4096, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)
        return received_fds(ancillary)[0]
    except (BlockingIOError, IndexError):
        raise RuntimeFailure("the runtime did not send the terminal", step="console") from None


def _process(process: dict[str, Any], order: dict[str, Any], root: int) -> dict[str, Any]:
    """OCI's process with its user looked up in the rootfs, as numbers."""
    user, groups = launch.wanted_user(order)
    plan = ProcessPlan(process, user=user, group_add=groups)
    environment = plan.environment()
    who = init.identity_of(plan, environment, lambda path: _database(root, path))
    capabilities = dict(process.get("capabilities") or {})
    if who.uid != 0:
        # execve takes them away from other users; a runtime that grants them before must not differ
        capabilities.pop("effective", None)
        capabilities.pop("permitted", None)
    return {
        **process,
        "terminal": bool(order.get("tty")),
        "user": {**(process.get("user") or {}), "uid": who.uid, "gid": who.gid, "additionalGids": who.groups},
        "env": [*(entry for entry in plan.env if not entry.startswith("HOME=")), f"HOME={environment['HOME']}"],
        "capabilities": capabilities,
    }


def _database(root: int, path: str) -> list[list[str]]:
    """`users.read_database` of a file beneath the rootfs, wherever its links lead."""
    fd = beneath.try_open_beneath(root, path)
    if fd is None:
        return []
    try:
        return users.read_database(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def _openable(entry: dict[str, Any]) -> dict[str, Any]:
    """A namespace entry whose path another process can open."""
    path = str(entry.get("path") or "")
    if not path.startswith("/proc/self/"):
        return entry
    return {**entry, "path": f"/proc/{os.getpid()}/{path.removeprefix('/proc/self/')}"}


def _trees(mounts: list[dict[str, Any]], given: dict[str, int], fds: list[int]) -> dict[int, int]:
    """Detached mounts, by place in the list, that are sources: those that came along, by destination, and copies of
    what is to be seen by the host.

    Those are taken while this namespace is still tied to the host's: a copy stays so when the rest is cut loose.
    """
    found = {}
    for place, mount in enumerate(mounts):
        if mount["destination"] in given:
            found[place] = fds[given[mount["destination"]]]
        elif {"shared", "rshared"} & set(mount.get("options") or []):
            found[place] = mountcalls.clone_tree_at(mount["source"], recursive="rbind" in mount["options"])
    return found


def _attached(mounts: list[dict[str, Any]], trees: dict[int, int], directory: str) -> list[dict[str, Any]]:
    """The mounts, with those trees attached where the runtime finds them."""
    if not trees:
        return mounts
    place_of_all = os.path.join(directory, "mounts")
    os.makedirs(place_of_all, exist_ok=True)
    mountcalls.mount("tmpfs", place_of_all, "tmpfs", 0, "mode=700")
    result = list(mounts)
    for place, tree in trees.items():
        source = os.path.join(place_of_all, str(place))
        if os.path.isdir(f"/proc/self/fd/{tree}"):
            os.mkdir(source)
        else:
            os.close(os.open(source, os.O_CREAT | os.O_CLOEXEC, 0o600))
        target = os.open(source, os.O_PATH | os.O_CLOEXEC)
        mountcalls.attach(tree, target, source)
        os.close(target)
        os.close(tree)
        result[place] = {**mounts[place], "source": source}
    return result


def _write(path: str, data: dict[str, Any]) -> None:
    with kernel.reporting("write", path):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(jsonlite.dumps(data).encode())
