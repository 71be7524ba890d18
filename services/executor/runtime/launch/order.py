"""From an order to a running process with its streams: what a shim does first.

The order of a container:

    id, bundle          its id; the directory that relative paths of the spec start from
    spec                config.json
    rootfs              {"lower": [topmost first], "upper", "work"}: an overlay to mount at root.path; absent: it is
    ready
    user                {"user": "name:group" | "uid" | …, "groups": [names]}, or just the string; looked up in the
    rootfs
    mount_fds           {destination: descriptor}: detached mounts that are the sources of those bind mounts
    seccomp_bpf         the compiled filter in base64, instead of linux.seccomp in the spec; seccomp_flags for
    seccomp(2)
    init, init_path     run the command under an init of ours; which
    tty, console_size   a terminal; [rows, columns]
    open_stdin          standard input is a pipe, not /dev/null; stdin_once: it ends with its first client
    log                 {"driver": "json-file" | "none", "path", "options": {"max-size", …}, "attrs": {}}
    start               true (the default): execve at once; false: wait for the operation "start"
    socket              where to listen; exit_file: for the exit record
    runtime             another one to use instead of this, see `foreign.Runtime`; the spec has the filter then
    attach              [{"fd", "stdin", "stdout", "stderr"}]: connections that are attached from the first byte on

Of an exec, in place of spec, bundle, rootfs and init: exec_id, pid and start_time (of the container's first
process), cgroup
(the container's path below the hierarchies' roots), process (OCI's).

Numbers of descriptors are indexes into those that came with the order; "{fd:N}" in a namespace's path stands for one.
"""

from __future__ import annotations

import os

from services.executor.runtime import cgroups, jsonlite, state
from services.executor.runtime.errors import InvalidSpec, NotFound, NotSupported, RuntimeFailure, WrongState
from services.executor.runtime.launch import execs, process
from services.executor.runtime.shim.streams import Input, Output
from services.executor.runtime.spec import validate
from services.executor.runtime.spec.plan import ContainerPlan, ProcessPlan
from services.executor.runtime.steps.namespaces import Namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from services.executor.runtime.cgroups.interface import Cgroup, CgroupBackend
    from services.executor.runtime.foreign.runtime import Process
    from services.executor.runtime.launch.conversation import Launch
    from services.executor.runtime.shim.logfile import JsonLog

DEFAULT_INIT = "/usr/bin/tini-static"
_INIT_TARGET = "/sbin/docker-init"
_known_backend: list[CgroupBackend] = []


def backend() -> CgroupBackend:
    """The machine's control groups, looked for once per process; the zygote looks before it forks."""
    if not _known_backend:
        _known_backend.append(cgroups.detect())
        _known_backend[0].preload()
    return _known_backend[0]


class Streams:
    """The two ends of what the process reads and writes.

    Attributes:
        theirs: descriptors for its standard streams.
        outputs, input: our ends. With a terminal they come later, from the process.
    """

    def __init__(self, order: dict[str, Any]) -> None:
        self.log = _open_log(order.get("log") or {"driver": "none"})
        self.once = bool(order.get("stdin_once"))
        self.tty = bool(order.get("tty"))
        self.outputs: list[Output] = []
        self.input: Input | None = None
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self.theirs = (null, null, null)
        if not self.tty:
            self._pipes(null, bool(order.get("open_stdin")))

    def _pipes(self, null: int, open_stdin: bool) -> None:
        stdin = null
        if open_stdin:
            stdin, ours = os.pipe2(os.O_CLOEXEC)
            self.input = Input(ours, tty=False, once=self.once)
        theirs = [stdin]
        for name in ("stdout", "stderr"):
            ours, end = os.pipe2(os.O_CLOEXEC)
            self.outputs.append(Output(ours, name, self.log, tty=False))
            theirs.append(end)
        self._opened = null
        self.theirs = (theirs[0], theirs[1], theirs[2])

    def take_terminal(self, master: int | None) -> None:
        """The terminal's end, once the process has made it."""
        if self.tty and master is not None:
            self.outputs = [Output(master, "stdout", self.log, tty=True)]
            self.input = Input(master, tty=True, once=self.once)

    def close_theirs(self) -> None:
        """After the clone, so that the process alone holds its ends."""
        for fd in {*self.theirs, getattr(self, "_opened", self.theirs[0])}:
            os.close(fd)


def _open_log(options: dict[str, Any]) -> JsonLog | None:
    driver = options.get("driver", "json-file")
    if driver == "none":
        return None
    if driver != "json-file":
        raise NotSupported("log.driver", f'no such driver: "{driver}"')
    from services.executor.runtime.shim.logfile import JsonLog

    return JsonLog(options)


class Launched:
    """A process that runs (or waits for `start`), and what belongs to it."""

    def __init__(self, made: Launch | Process, streams: Streams, cgroup: Cgroup | None, *, owns_cgroup: bool) -> None:
        self.process = made
        self.pid = made.pid
        self.waiting = made.waiting
        self.outputs = streams.outputs
        self.input = streams.input
        self.log = streams.log
        self.cgroup = cgroup
        self.owns_cgroup = owns_cgroup
        self.private_pids = True
        #: what is to be done when it has ended, if anything
        self.at_end: Callable[[], None] | None = None


def launch(order: dict[str, Any], details: bytes, fds: list[int], *, meanwhile: Callable[[], None]) -> Launched:
    """Carry out an order.

    Args:
        order: the part that the shim itself needs; `details`, the JSON of the rest, is read by the child.
        fds: that came with it; those for the process are closed here.
        meanwhile: called once the process has been cloned, while it prepares itself.

    Raises:
        RuntimeFailure: nothing of the container remains.
    """
    if "exec_id" in order:
        return _launch_exec(order, details, fds, meanwhile)
    if "runtime" in order:
        return _launch_foreign(order, details, fds, meanwhile)
    return _launch_container(order, details, fds, meanwhile)


def _launch_foreign(order: dict[str, Any], details: bytes, fds: list[int], meanwhile: Callable[[], None]) -> Launched:
    from services.executor.runtime.foreign import runtime as foreign

    return foreign.launch_order(order, details, fds, meanwhile)


def _launch_container(order: dict[str, Any], details: bytes, fds: list[int], meanwhile: Callable[[], None]) -> Launched:
    hints = order["birth"]
    cgroup = backend().open(hints["cgroup"])
    streams = Streams(order)
    birth = process.Birth(hints["flags"], staged=hints["staged"], cgroup_fd=_unified_fd(cgroup))

    def build() -> ContainerPlan:
        plan = container_plan({**jsonlite.loads(details), **order}, fds)
        validate.container(plan, backend())
        plan.cgroup_paths = backend().create(hints["cgroup"], resources(plan)).paths
        return plan

    made: Launch | None = None
    try:
        made = process.launch_container(build, birth, streams.theirs)
        after_clone(birth.cgroup_fd, order, fds, streams)
        meanwhile()
        made.until_ready()
        streams.take_terminal(made.master)
        if not made.waiting:
            made.until_running()
    except BaseException:
        if made is not None:
            made.abort()
        cgroup.kill()
        cgroup.remove()
        raise
    launched = Launched(made, streams, cgroup, owns_cgroup=True)
    launched.private_pids = bool(hints["private_pids"])
    return launched


def _unified_fd(cgroup: Cgroup) -> int | None:
    """The v2 directory, made now: being born in it spares a move, for which the kernel would stop the whole machine."""
    path = cgroup.paths.get("unified")
    if path is None:
        return None
    os.makedirs(path, exist_ok=True)
    return cgroup.directory_fd()


def after_clone(cgroup_fd: int | None, order: dict[str, Any], fds: list[int], streams: Streams) -> None:
    """Close what was for the process alone."""
    streams.close_theirs()
    if cgroup_fd is not None:
        os.close(cgroup_fd)
    kept = {order["control_fd"], *(wish["fd"] for wish in order.get("attach") or [])}
    for index, fd in enumerate(fds):
        if index not in kept:
            os.close(fd)


#: keys of an order that only the process itself needs
DETAILS = (
    "spec",
    "bundle",
    "rootfs",
    "mount_fds",
    "user",
    "init",
    "init_path",
    "seccomp_bpf",
    "seccomp_flags",
    "seccomp",
    "process",
)


def birth_hints(order: dict[str, Any]) -> dict[str, Any]:
    """What a shim must know of a container's spec: how to clone, and where its cgroup is.

    Raises:
        InvalidSpec: linux.namespaces, linux.cgroupsPath.
    """
    names = Namespaces(order["spec"])
    path = (order["spec"].get("linux") or {}).get("cgroupsPath")
    staged = process.needs_stage(order["spec"], names)
    return {
        "flags": names.clone_flags(staged=staged),
        "staged": staged,
        "cgroup": cgroups.cgroup_path(path, order["id"]),
        "private_pids": "pid" in names.new,
    }


def container_plan(order: dict[str, Any], fds: list[int]) -> ContainerPlan:
    """The plan of a container's order: its spec, with what only the order knows put in."""
    spec = dict(order["spec"])
    linux = spec["linux"] = dict(spec.get("linux") or {})
    proc = spec["process"] = dict(spec.get("process") or {})
    _put_terminal(proc, order)
    linux["namespaces"] = [with_path(entry, fds) for entry in linux.get("namespaces") or []]
    if order.get("init"):
        _put_init(spec, proc, order.get("init_path") or DEFAULT_INIT)
    plan = ContainerPlan(
        order["id"],
        spec,
        order["bundle"],
        overlay=order.get("rootfs"),
        user=wanted_user(order)[0],
        group_add=wanted_user(order)[1],
    )
    _put_trees(plan, order.get("mount_fds") or {}, fds)
    plan.process.die_with_parent = True
    plan.process.wait = not order.get("start", True)
    plan.process.seccomp = seccomp_filter(order, linux.get("seccomp"))
    return plan


def _put_trees(plan: ContainerPlan, wanted: dict[str, int], fds: list[int]) -> None:
    """Bind mounts, by destination, whose source came along as a detached mount."""
    for mount in plan.mounts:
        if mount.kind == "bind" and mount.destination in wanted:
            mount.tree = fds[wanted[mount.destination]]


def _put_terminal(proc: dict[str, Any], order: dict[str, Any]) -> None:
    proc["terminal"] = bool(order.get("tty"))
    if order.get("console_size"):
        rows, columns = order["console_size"]
        proc["consoleSize"] = {"height": rows, "width": columns}


def with_path(entry: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """A namespace entry with "{fd:N}" in its path made the number that the descriptor has here."""
    head, mark, tail = str(entry.get("path") or "").partition("{fd:")
    if not mark:
        return entry
    number, _, rest = tail.partition("}")
    return {**entry, "path": f"{head}{fds[int(number)]}{rest}"}


def wanted_user(order: dict[str, Any]) -> tuple[str | None, list[str]]:
    wanted = order.get("user") or {}
    if isinstance(wanted, str):
        return wanted, []
    return wanted.get("user") or None, [str(name) for name in wanted.get("groups") or []]


def _put_init(spec: dict[str, Any], proc: dict[str, Any], path: str) -> None:
    if not os.access(path, os.X_OK):
        raise NotFound(f"exec: no init binary at {path}", step="init", field="init")
    proc["args"] = [_INIT_TARGET, "--", *(proc.get("args") or [])]
    mount = {"destination": _INIT_TARGET, "type": "bind", "source": path, "options": ["bind", "ro"]}
    spec["mounts"] = [*(spec.get("mounts") or []), mount]


def seccomp_filter(order: dict[str, Any], profile: dict[str, Any] | None) -> Any:
    """The compiled filter: from the order when somebody compiled it before, else made of the profile."""
    if order.get("seccomp_bpf"):
        import binascii

        from services.executor.runtime.seccomp.filter import CompiledFilter

        return CompiledFilter(binascii.a2b_base64(order["seccomp_bpf"]), int(order.get("seccomp_flags") or 0))
    if not profile:
        return None
    from services.executor.runtime.seccomp import compiler

    return compiler.compile_filter(profile)


def resources(plan: ContainerPlan) -> dict[str, Any]:
    """`linux.resources`, empty when absent."""
    found: dict[str, Any] = plan.linux.get("resources") or {}
    return found


def _launch_exec(order: dict[str, Any], details: bytes, fds: list[int], meanwhile: Callable[[], None]) -> Launched:
    pid = int(order["pid"])
    started = state.start_time(pid)
    if started != (order.get("start_time") or started) or _ended(pid, started):
        raise _not_running(order)
    try:
        return (_launch_foreign if "runtime" in order else _join)(order, details, fds, meanwhile)
    except (RuntimeFailure, OSError) as failure:
        if _ended(pid, started):  # that is why, whatever it was that could not be done
            raise _not_running(order) from failure
        raise


def _ended(pid: int, started: int) -> bool:
    return not started or state.start_time(pid) != started or state.is_zombie(pid)


def _not_running(order: dict[str, Any]) -> WrongState:
    return WrongState(f"container {order['id']} is not running", step="exec")


def _join(order: dict[str, Any], details: bytes, fds: list[int], meanwhile: Callable[[], None]) -> Launched:
    pid = int(order["pid"])
    cgroup = backend().open(order["cgroup"]) if order.get("cgroup") else None
    if cgroup is not None and not cgroup.exists():
        raise InvalidSpec("cgroup", f"{order['cgroup']} does not exist")
    streams = Streams(order)
    cgroup_fd = cgroup.directory_fd() if cgroup is not None else None

    def build() -> ProcessPlan:
        return exec_plan({**jsonlite.loads(details), **order})

    made = execs.launch_exec(
        build,
        pid,
        cgroup.paths if cgroup else {},
        streams.theirs,
        cgroup_fd=cgroup_fd,
        leaf=(lambda: cgroup.leaf_fd(pid)) if cgroup is not None else None,
    )
    try:
        after_clone(cgroup_fd, order, fds, streams)
        meanwhile()
        made.until_ready()
        streams.take_terminal(made.master)
        if not made.waiting:
            made.until_running()
    except BaseException:
        made.abort()
        raise
    return Launched(made, streams, cgroup, owns_cgroup=False)


def exec_plan(order: dict[str, Any]) -> ProcessPlan:
    """The plan of an exec's order."""
    spec = dict(order.get("process") or {})
    _put_terminal(spec, order)
    user, groups = wanted_user(order)
    plan = ProcessPlan(spec, user=user, group_add=groups)
    validate.process(plan)
    plan.seccomp = seccomp_filter(order, order.get("seccomp"))
    plan.die_with_parent = True
    plan.wait = not order.get("start", True)
    return plan
