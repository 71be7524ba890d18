"""From an order to a running process with its streams: what a shim does first.

The order of a container:

    {"kind": "container", "id", "bundle", "spec": config.json, "rootfs": {"lower", "upper", "work"} or absent,
     "user", "group_add", "init", "init_path", "netns_fd", "seccomp_bpf" (base64), "seccomp_flags",
     "tty", "open_stdin", "stdin_once", "console_size": [rows, columns], "log": {"driver", "path", …},
     "wait", "socket", "state_dir", "exit_path", "control_fd", "attach": [{"fd", "stdin", "stdout", "stderr"}]}

The order of an exec has "kind": "exec", "exec_id", "container_pid", "container_start_time", "process" (OCI's), and
"cgroup" (the container's path) in place of the container's own parts. Numbers of descriptors are indexes into those that
came with the order.
"""

from __future__ import annotations

import os

from services.executor.runtime import cgroups, process, state, validate
from services.executor.runtime.errors import InvalidSpec, NotFound, NotSupported, RuntimeFailure
from services.executor.runtime.plan import ContainerPlan, ProcessPlan
from services.executor.runtime.shimio import Input, Output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from services.executor.runtime.cgroups.interface import Cgroup, CgroupBackend
    from services.executor.runtime.logfile import JsonLog

DEFAULT_INIT = "/usr/bin/tini-static"
_INIT_TARGET = "/sbin/docker-init"
_known_backend: list[CgroupBackend] = []


def backend() -> CgroupBackend:
    """The machine's control groups, looked for once per process; the zygote looks before it forks."""
    if not _known_backend:
        _known_backend.append(cgroups.detect())
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
    from services.executor.runtime.logfile import JsonLog

    return JsonLog(options)


class Launched:
    """A process that runs (or waits for `start`), and what belongs to it."""

    def __init__(self, made: process.Launch, streams: Streams, cgroup: Cgroup | None, *, owns_cgroup: bool) -> None:
        self.process = made
        self.pid = made.pid
        self.waiting = made.waiting
        self.outputs = streams.outputs
        self.input = streams.input
        self.log = streams.log
        self.cgroup = cgroup
        self.owns_cgroup = owns_cgroup
        self.private_pids = True


def launch(order: dict[str, Any], fds: list[int], *, meanwhile: Callable[[], None]) -> Launched:
    """Carry out an order.

    Args:
        fds: that came with it; those for the process are closed here.
        meanwhile: called once the process has been cloned, while it prepares itself.

    Raises:
        RuntimeFailure: nothing of the container remains.
    """
    if order.get("kind") == "exec":
        return _launch_exec(order, meanwhile)
    return _launch_container(order, fds, meanwhile)


def _launch_container(order: dict[str, Any], fds: list[int], meanwhile: Callable[[], None]) -> Launched:
    plan = container_plan(order, fds)
    plan.wait = bool(order.get("wait"))
    groups = backend()
    validate.container(plan, groups)
    cgroup = groups.create(cgroups.cgroup_path(plan.linux.get("cgroupsPath"), plan.container_id), resources(plan))
    made: process.Launch | None = None
    try:
        plan.cgroup_paths, plan.cgroup_fd = cgroup.paths, cgroup.directory_fd()
        streams = Streams(order)
        made = process.launch_container(plan, streams.theirs)
        streams.close_theirs()
        _close_sent(order, fds)
        meanwhile()
        made.until_ready()
        streams.take_terminal(made.master)
        if not plan.wait:
            made.until_running()
    except BaseException:
        if made is not None:
            made.abort()
        cgroup.kill()
        cgroup.remove()
        raise
    launched = Launched(made, streams, cgroup, owns_cgroup=True)
    launched.private_pids = "pid" in plan.namespaces.new
    return launched


def _close_sent(order: dict[str, Any], fds: list[int]) -> None:
    """Descriptors that were for the process."""
    if order.get("netns_fd") is not None:
        os.close(fds[order["netns_fd"]])


def container_plan(order: dict[str, Any], fds: list[int]) -> ContainerPlan:
    """The plan of a container's order: its spec, with what only the order knows put in."""
    spec = dict(order["spec"])
    linux = spec["linux"] = dict(spec.get("linux") or {})
    proc = spec["process"] = dict(spec.get("process") or {})
    proc["terminal"] = bool(order.get("tty"))
    if order.get("console_size"):
        rows, columns = order["console_size"]
        proc["consoleSize"] = {"height": rows, "width": columns}
    if order.get("netns_fd") is not None:
        path = f"/proc/self/fd/{fds[order['netns_fd']]}"
        others = [entry for entry in linux.get("namespaces") or [] if entry.get("type") != "network"]
        linux["namespaces"] = [*others, {"type": "network", "path": path}]
    if order.get("init"):
        _put_init(spec, proc, order.get("init_path") or DEFAULT_INIT)
    plan = ContainerPlan(
        order["id"],
        spec,
        order["bundle"],
        overlay=order.get("rootfs"),
        user=order.get("user"),
        group_add=order.get("group_add"),
    )
    plan.process.seccomp = seccomp_filter(order, linux.get("seccomp"), plan.process)
    return plan


def _put_init(spec: dict[str, Any], proc: dict[str, Any], path: str) -> None:
    if not os.access(path, os.X_OK):
        raise NotFound(f"exec: no init binary at {path}", step="init", field="init")
    proc["args"] = [_INIT_TARGET, "--", *(proc.get("args") or [])]
    mount = {"destination": _INIT_TARGET, "type": "bind", "source": path, "options": ["bind", "ro"]}
    spec["mounts"] = [*(spec.get("mounts") or []), mount]


def seccomp_filter(order: dict[str, Any], profile: dict[str, Any] | None, plan: ProcessPlan) -> Any:
    """The compiled filter: from the order when somebody compiled it before, else made of the profile."""
    from services.executor.runtime import seccomp

    if order.get("seccomp_bpf"):
        import binascii

        return seccomp.CompiledFilter(binascii.a2b_base64(order["seccomp_bpf"]), int(order.get("seccomp_flags") or 0))
    if not profile:
        return None
    permitted = (plan.capabilities or {}).get("permitted") or []
    return seccomp.compile_profile(profile, permitted)


def resources(plan: ContainerPlan) -> dict[str, Any]:
    """`linux.resources`, empty when absent."""
    found: dict[str, Any] = plan.linux.get("resources") or {}
    return found


def _launch_exec(order: dict[str, Any], meanwhile: Callable[[], None]) -> Launched:
    pid = int(order["container_pid"])
    if order.get("container_start_time") and state.start_time(pid) != order["container_start_time"]:
        raise NotFound(f"container {order['id']} is not running", step="exec")
    spec = dict(order.get("process") or {})
    spec["terminal"] = bool(order.get("tty"))
    if order.get("console_size"):
        spec["consoleSize"] = {"height": order["console_size"][0], "width": order["console_size"][1]}
    plan = ProcessPlan(spec, user=order.get("user"), group_add=order.get("group_add"))
    validate.process(plan)
    plan.seccomp = seccomp_filter(order, order.get("seccomp"), plan)
    cgroup = backend().open(order["cgroup"]) if order.get("cgroup") else None
    if cgroup is not None and not cgroup.exists():
        raise InvalidSpec("cgroup", f"{order['cgroup']} does not exist")
    streams = Streams(order)
    cgroup_fd = cgroup.directory_fd() if cgroup is not None else None
    made = process.launch_exec(plan, pid, cgroup.paths if cgroup else {}, streams.theirs, cgroup_fd=cgroup_fd)
    try:
        streams.close_theirs()
        meanwhile()
        made.until_ready()
        streams.take_terminal(made.master)
        made.until_running()
    except RuntimeFailure:
        made.abort()
        raise
    return Launched(made, streams, cgroup, owns_cgroup=False)
