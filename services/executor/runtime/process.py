"""The parent's side: clone the process that becomes a container (or an exec), and lead the conversation with it.

Source: clone(2), pid_namespaces(7). The dialogue is drawn in `sync.py`.
"""

from __future__ import annotations

import os

from services.executor.runtime import hooks, init, kernel, namespaces, rlimits, tty
from services.executor.runtime.errors import RuntimeFailure
from services.executor.runtime.sync import Channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from services.executor.runtime.plan import ContainerPlan, ProcessPlan


class Launch:
    """A process on its way to execve.

    Attributes:
        pid: its id in our pid namespace.
        master: the terminal's end, or None.
        channel: to it; closed when `finish` has returned.
    """

    __slots__ = ("_hooks", "_plan", "channel", "master", "on_listener", "pid", "waiting")

    def __init__(self, pid: int, channel: Channel, plan: ContainerPlan | None) -> None:
        self.pid = pid
        self.channel = channel
        self.master: int | None = None
        self.waiting = False
        self._plan = plan
        #: called with a descriptor of the seccomp listener, which it is to close
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
        """Kill and reap the process."""
        self.channel.close()
        try:
            os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            return

    def _next(self) -> tuple[dict[str, Any], list[int]]:
        got = self.channel.receive()
        if got is None:
            _, status = os.waitpid(self.pid, 0)
            how = os.waitstatus_to_exitcode(status)
            raise RuntimeFailure(f"the container's init ended early ({how})", step="init")
        return got

    def _handle(self, message: dict[str, Any], fds: list[int]) -> bool:
        """React to one message; true when it was "ready"."""
        kind = message["kind"]
        if kind == "error":
            from services.executor.runtime.errors import from_wire

            raise from_wire(message["error"])
        if kind == "hooks":
            self._run_hooks()
            self.channel.send("hooked")
        elif kind == "seccomp":
            self._take_listener(message["fd"])
            self.channel.send("fetched")
        elif kind == "ready":
            self.master = fds[0] if fds else None
            self.waiting = bool(message.get("wait"))
            return True
        else:
            raise RuntimeFailure(f'unexpected message "{kind}"', step="init")
        return False

    def _run_hooks(self) -> None:
        assert self._plan is not None
        state = self._plan.state("creating", self.pid)
        hooks.run("prestart", self._plan.hooks, state)
        hooks.run("createRuntime", self._plan.hooks, state)

    def _take_listener(self, fd: int) -> None:
        pidfd = os.pidfd_open(self.pid)
        try:
            listener = kernel.pidfd_getfd(pidfd, fd)
        finally:
            os.close(pidfd)
        if self.on_listener is None:
            os.close(listener)
            raise RuntimeFailure("nobody to give the seccomp listener to", step="seccomp")
        self.on_listener(listener)


def launch_container(plan: ContainerPlan, streams: tuple[int, int, int]) -> Launch:
    """Clone a container's first process. Its cgroup exists; `streams` become its standard descriptors.

    Returns at once; `Launch.until_ready` says how it went.
    """
    _preload(plan)
    ours, theirs = Channel.pair()
    names = plan.namespaces
    namespace_fds = namespaces.open_all(names.paths)
    joins = _cgroup_doors(plan.cgroup_paths)

    def child() -> None:
        _begin(ours, theirs, streams, plan.process.oom_score_adj, keep=_kept(plan, namespace_fds, joins))
        _enter_cgroup(joins)
        if names.needs_stage:
            _stage(plan, theirs, namespace_fds)
        init.run(init.Init(plan, theirs, os.getpid(), namespace_fds))

    flags = 0 if names.needs_stage else names.clone_flags(staged=False)
    pid = _clone(flags, plan.cgroup_fd, child, theirs)
    theirs.close()
    for fd in (*namespace_fds.values(), *joins):
        os.close(fd)
    if names.needs_stage:
        pid = _after_stage(pid, ours, plan)
    return Launch(pid, ours, plan)


def _preload(plan: ContainerPlan) -> None:
    """Import what the child may need: it cannot import any more (`init.seal_interpreter`)."""
    if any(mount.kind in {"cgroup", "cgroup2"} for mount in plan.mounts):
        import services.executor.runtime.cgroupmount  # noqa: F401
    if any(mount.options.copy_up for mount in plan.mounts):
        import services.executor.runtime.copytree
    if plan.namespaces.uid_maps and os.geteuid() != 0:
        import services.executor.runtime.rootless  # noqa: F401


def _kept(plan: ContainerPlan, namespace_fds: dict[str, int], doors: list[int]) -> set[int]:
    kept = {*namespace_fds.values(), *doors}
    if plan.start_listener is not None:
        kept.add(plan.start_listener.fileno())
    return kept | set(range(3, 3 + plan.preserve_fds))


def _clone(flags: int, cgroup_fd: int | None, child: Callable[[], None], channel: Channel) -> int:
    pid = kernel.clone(flags, cgroup_fd=cgroup_fd)
    if pid == 0:
        init.guarded(channel, child)
    return pid


def _begin(ours: Channel, theirs: Channel, streams: tuple[int, int, int], oom: int | None, *, keep: set[int]) -> None:
    """The first thing in a child: out of everybody's reach, nothing inherited but what it needs."""
    kernel.set_dumpable(False)
    init.seal_interpreter()
    ours.close()
    if oom is not None:
        with kernel.reporting("write", "/proc/self/oom_score_adj"):
            fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
            os.write(fd, str(oom).encode())
            os.close(fd)
    # dup2 could hit a source that is itself a standard descriptor: copy above first
    copies = [os.dup(fd) for fd in streams]
    for target, copy in enumerate(copies):
        os.dup2(copy, target)
        os.close(copy)
    init.close_others(theirs, keep)


def _cgroup_doors(paths: dict[str, str]) -> list[int]:
    """Open files through which a process moves itself into its v1 cgroups.

    `tasks`, not `cgroup.procs`: a thread that moves itself needs no machine-wide lock, and there is but one thread.
    Opened by the parent, since the kernel judges the opener's privileges. The v2 group is entered by birth.
    """
    doors: dict[str, int] = {}
    for controller, directory in paths.items():
        if controller in {"", "unified"}:
            continue
        real = os.path.realpath(directory)
        if real not in doors:
            with kernel.reporting("open", f"{directory}/tasks"):
                doors[real] = os.open(f"{real}/tasks", os.O_WRONLY | os.O_CLOEXEC)
    return list(doors.values())


def _enter_cgroup(doors: list[int]) -> None:
    with kernel.reporting("write", "tasks of the container's cgroup"):
        for door in doors:
            os.write(door, b"0")
            os.close(door)


def _stage(plan: ContainerPlan, channel: Channel, namespace_fds: dict[str, int]) -> NoReturn:
    """A process in between, for what has to be there before the first process of the container is born.

    It joins and makes namespaces, bears the real child as its own sibling, says its id, and ends.
    """
    names = plan.namespaces
    namespaces.join(namespace_fds, names.paths)
    namespace_fds.clear()
    if "user" in names.new:
        kernel.unshare(kernel.CLONE_NEWUSER)
        kernel.set_dumpable(True)  # else /proc/<pid>/uid_map belongs to root of the host alone
        channel.send("map")
        channel.expect("mapped")
        kernel.set_dumpable(False)
    if names.has("user"):
        kernel.setresgid(0)
        kernel.setresuid(0)
    if "time" in names.new:
        kernel.unshare(kernel.CLONE_NEWTIME)
        namespaces.write_time_offsets(names.time_offsets)
    pid = kernel.clone(kernel.CLONE_PARENT | names.clone_flags(staged=True))
    if pid:
        channel.send("stage", pid=pid)
        os._exit(0)
    channel.expect("go")
    init.run(init.Init(plan, channel, os.getpid(), {}))


def _after_stage(stage: int, channel: Channel, plan: ContainerPlan) -> int:
    """Serve the stage; returns the id of the real child."""
    pid = 0
    try:
        while not pid:
            got = channel.receive()
            if got is None:
                raise RuntimeFailure("the stage before the container's init ended early", step="namespaces")
            message, _ = got
            if message["kind"] == "error":
                from services.executor.runtime.errors import from_wire

                raise from_wire(message["error"])
            if message["kind"] == "map":
                namespaces.write_maps(stage, plan.namespaces.uid_maps, plan.namespaces.gid_maps)
                rlimits.apply(plan.process.rlimits, stage)
                channel.send("mapped")
            else:
                pid = message["pid"]
    except BaseException:
        os.kill(stage, 9)
        os.waitpid(stage, 0)
        channel.close()
        raise
    os.waitpid(stage, 0)
    channel.send("go")
    return pid


def launch_exec(
    process: ProcessPlan,
    container_pid: int,
    cgroup_paths: dict[str, str],
    streams: tuple[int, int, int],
    *,
    cgroup_fd: int | None = None,
    preserve_fds: int = 0,
) -> Launch:
    """Clone a process that joins the namespaces of a running container.

    It enters the pid namespace last, by bearing the process that will execve, when all privileges are gone already: what
    runs in the container can see, and perhaps trace, only something that may do no more than itself.
    """
    pidfd = os.pidfd_open(container_pid)
    ours, theirs = Channel.pair()
    doors = _cgroup_doors(cgroup_paths)
    kinds = _different_namespaces(container_pid)

    def child() -> None:
        _begin(ours, theirs, streams, process.oom_score_adj, keep={pidfd, *doors})
        _enter_cgroup(doors)
        _exec_child(process, theirs, pidfd, kinds)

    pid = _clone(0, cgroup_fd, child, theirs)
    theirs.close()
    for fd in (pidfd, *doors):
        os.close(fd)
    launch = Launch(pid, ours, None)
    if "pid" in kinds:
        launch.pid = _after_exec_stage(launch)
    return launch


def _different_namespaces(pid: int) -> set[str]:
    """Kinds of namespaces that a process does not share with us."""
    different = set()
    for kind, name in namespaces.FILES.items():
        try:
            if os.stat(f"/proc/{pid}/ns/{name}").st_ino != os.stat(f"/proc/self/ns/{name}").st_ino:
                different.add(kind)
        except FileNotFoundError:
            if kind not in {"time", "cgroup"}:  # not in every kernel
                raise
    return different


def _exec_child(process: ProcessPlan, channel: Channel, pidfd: int, kinds: set[str]) -> None:
    kernel.setns(pidfd, sum(namespaces.FLAGS[kind] for kind in kinds), "of the container")
    os.close(pidfd)
    if "user" in kinds:
        kernel.setresgid(0)
        kernel.setresuid(0)
    master = _exec_terminal(process) if process.terminal else None

    def become_final() -> None:
        if "pid" in kinds:
            pid = kernel.clone(kernel.CLONE_PARENT)
            if pid:
                channel.send("stage", pid=pid)
                os._exit(0)
            channel.expect("go")
        os.setsid()
        if process.terminal:
            tty.take_control()

    init.finish(process, channel, ready_fds=() if master is None else (master,), before_exec=become_final)


def _exec_terminal(process: ProcessPlan) -> int:
    """A terminal of the container's own devpts on the standard descriptors; returns the master."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    master, slave = tty.open_pair(root)
    os.close(root)
    rows, columns = process.console_size
    if rows or columns:
        tty.set_size(slave, rows, columns)
    tty.use(slave)
    return master


def _after_exec_stage(launch: Launch) -> int:
    """Take the id of the real child from the one that prepared everything."""
    stage, channel = launch.pid, launch.channel
    try:
        while True:
            got = channel.receive()
            if got is None:
                raise RuntimeFailure("the process ended before it could join the container", step="exec")
            message, _ = got
            if message["kind"] == "stage":
                break
            launch._handle(message, [])
    except BaseException:
        launch.abort()
        raise
    os.waitpid(stage, 0)
    channel.send("go")
    return int(message["pid"])
