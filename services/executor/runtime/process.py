"""The parent's side: clone the process that becomes a container (or an exec), and lead the conversation with it.

The parent clones at once and learns from the child what it has to do: reading the spec, making the cgroup and
everything
else happens in the child, whose memory goes away with execve. Page faults after a fork are the larger part of a start;
the parent, which stays, shall have few. Source: clone(2), pid_namespaces(7). The dialogue is drawn in `sync.py`.
"""

from __future__ import annotations

import errno
import os

from services.executor.runtime import (
    credentials,
    hooks,
    idmap,
    init,
    kernel,
    mounts,
    namespaces,
    rlimits,
    scheduling,
    tty,
)
from services.executor.runtime.errors import CommandFailure, KernelFailure, RuntimeFailure, from_wire
from services.executor.runtime.sync import Channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from services.executor.runtime.plan import ContainerPlan, ProcessPlan


class Birth:
    """What has to be known of a container to clone its first process.

    Attributes:
        flags: CLONE_NEW* for it; of no meaning when `staged`.
        staged: a process in between is needed (`Namespaces.needs_stage`).
        cgroup_fd: of the v2 directory to be born in, or None.
    """

    __slots__ = ("cgroup_fd", "flags", "staged")

    def __init__(self, flags: int, *, staged: bool, cgroup_fd: int | None) -> None:
        self.flags = flags
        self.staged = staged
        self.cgroup_fd = cgroup_fd


def needs_stage(spec: dict[str, Any], names: namespaces.Namespaces) -> bool:
    """Whether a process in between has to prepare something.

    Besides what namespaces need, an id-mapped mount: its mapping is written through /proc, which knows processes of a
    new pid namespace by other numbers.
    """
    return names.needs_stage or any(
        mount.get("uidMappings") or {"idmap", "ridmap"} & set(mount.get("options") or [])
        for mount in spec.get("mounts") or []
    )


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
        idmap.write_maps(self.pid, message["uid_maps"], message["gid_maps"])
        namespaces.write_time_offsets(str(self.pid), message["time_offsets"])
        rlimits.apply([(name, *values) for name, *values in message["rlimits"]], self.pid)
        self.channel.send("mapped")

    def change_child(self, message: dict[str, Any]) -> None:
        """The process in between has borne the real one, and ends."""
        os.waitpid(self.pid, 0)
        self.pid = int(message["pid"])
        self.channel.send("go")

    def run_hooks(self, message: dict[str, Any]) -> None:
        """Hooks of the runtime's namespaces."""
        state = {**message["state"], "pid": self.pid}
        hooks.run("prestart", message["hooks"], state)
        hooks.run("createRuntime", message["hooks"], state)
        self.channel.send("hooked")

    def move_devices(self, devices: dict[str, Any], namespace: int) -> None:
        """Network devices of ours go to the container's namespace, whose descriptor is closed then."""
        from services.executor.runtime import netdevices

        try:
            moved = netdevices.move(devices, namespace)
        finally:
            os.close(namespace)
        self.channel.send("moved", devices=moved)

    def take_listener(self, message: dict[str, Any]) -> None:
        """Fetch the seccomp listener out of the process and pass it on."""
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


def launch_container(build: Callable[[], ContainerPlan], birth: Birth, streams: tuple[int, int, int]) -> Launch:
    """Clone a container's first process; `streams` become its standard descriptors.

    Returns at once; `Launch.until_ready` says how it went.

    Args:
        build: called in the child, still with the runtime's privileges and namespaces other than the new ones: makes
        the
            plan, and the cgroup if nobody has yet.
    """
    ours, theirs = Channel.pair()

    def child() -> None:
        ours.close()
        kernel.set_dumpable(False)
        plan = build()
        stub = _stub(plan.process, theirs)
        _preload(plan)
        init.seal_interpreter()
        namespace_fds = namespaces.open_all(plan.namespaces.paths)
        doors = _cgroup_doors(plan.cgroup_paths)
        trees = mounts.open_sources(plan.mounts, plan.namespaces)
        _settle(
            plan.process,
            theirs,
            streams,
            keep=_kept(plan, namespace_fds, doors) | trees | ({stub} if stub is not None else set()),
        )
        _enter_cgroup(doors)
        scheduling.set_affinity(None)
        if birth.staged:
            _stage(plan, theirs, namespace_fds, stub)
        init.run(init.Init(plan, theirs, namespace_fds, stub))

    pid = _clone(0 if birth.staged else birth.flags, birth.cgroup_fd, child, theirs)
    theirs.close()
    return Launch(pid, ours)


def _stub(process: ProcessPlan, channel: Channel) -> int | None:
    if not process.stubbed:
        return None
    from services.executor.runtime import execstub

    return execstub.make(channel.fileno())


def _preload(plan: ContainerPlan) -> None:
    """Import what the child may need: it cannot import any more (`init.seal_interpreter`)."""
    if any(mount.kind in {"cgroup", "cgroup2"} for mount in plan.mounts):
        import services.executor.runtime.cgroupmount
    if any(mount.options.copy_up for mount in plan.mounts):
        import services.executor.runtime.copytree
    if plan.linux.get("netDevices"):
        import services.executor.runtime.netdevices  # noqa: F401


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


def _settle(process: ProcessPlan, channel: Channel, streams: tuple[int, int, int], *, keep: set[int]) -> None:
    """Standard descriptors in place, nothing else inherited but what is needed."""
    if process.oom_score_adj is not None:
        with kernel.reporting("write", f"/proc/self/oom_score_adj {process.oom_score_adj}"):
            fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
            os.write(fd, str(process.oom_score_adj).encode())
            os.close(fd)
    # dup2 could hit a source that is itself a standard descriptor: copy above first
    copies = [os.dup(fd) for fd in streams]
    for target, copy in enumerate(copies):
        os.dup2(copy, target)
        os.close(copy)
    init.close_others(channel, keep)


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


def _stage(plan: ContainerPlan, channel: Channel, namespace_fds: dict[str, int], stub: int | None) -> NoReturn:
    """A process in between, for what has to be there before the first process of the container is born.

    It joins and makes namespaces, bears the real child as its own sibling, says its id, and ends.
    """
    names = plan.namespaces
    namespaces.join(namespace_fds, names.paths)
    if "user" in names.new:
        kernel.unshare(kernel.CLONE_NEWUSER)
    if "time" in names.new:
        kernel.unshare(kernel.CLONE_NEWTIME)
    if "user" in names.new:
        kernel.set_dumpable(True)  # else /proc/<pid>/uid_map belongs to root of the host alone
        limits = plan.process.rlimits
        maps = {"uid_maps": names.uid_maps, "gid_maps": names.gid_maps, "time_offsets": names.time_offsets}
        channel.send("map", (), **maps, rlimits=limits)
        channel.expect("mapped")
        kernel.set_dumpable(False)
    elif names.time_offsets:
        namespaces.write_time_offsets("self", names.time_offsets)
    if names.has("user"):
        credentials.become_root(plan.process.uid, plan.process.gid)
    pid = kernel.clone(kernel.CLONE_PARENT | names.clone_flags(staged=True))
    if pid:
        channel.send("stage", pid=pid)
        os._exit(0)
    channel.expect("go")
    init.run(init.Init(plan, channel, {}, stub))


def launch_exec(
    build: Callable[[], ProcessPlan],
    container_pid: int,
    cgroup_paths: dict[str, str],
    streams: tuple[int, int, int],
    *,
    cgroup_fd: int | None = None,
    leaf: Callable[[], int] | None = None,
    preserve_fds: int = 0,
) -> Launch:
    """Clone a process that joins the namespaces of a running container.

    It enters the pid namespace last, by bearing the process that will execve, when all privileges are gone already:
    what
    runs in the container can see, and perhaps trace, only something that may do no more than itself.

    Args:
        build: called in the child, while it still has the runtime's privileges and namespaces.
        cgroup_fd: v2 group to be born in.
        leaf: opens the one to take when that has groups of its own with controllers (`Cgroup.leaf_fd`).
    """
    pidfd = os.pidfd_open(container_pid)
    ours, theirs = Channel.pair()

    def child() -> None:
        ours.close()
        kernel.set_dumpable(False)
        process = build()
        if process.affinity[0] is not None:
            scheduling.set_affinity(process.affinity[0])
        init.seal_interpreter()
        kinds = _different_namespaces(container_pid)
        doors = _cgroup_doors(cgroup_paths)
        _settle(process, theirs, streams, keep={pidfd, *doors, *range(3, 3 + preserve_fds)})
        _enter_cgroup(doors)
        scheduling.set_affinity(process.affinity[1])
        scheduling.apply(process.scheduler, process.ioprio)
        _exec_child(process, theirs, pidfd, kinds, preserve_fds)

    try:
        pid = _clone(0, cgroup_fd, child, theirs)
    except KernelFailure as failure:
        if failure.errno != errno.EBUSY or leaf is None:
            raise
        leaf_fd = leaf()
        pid = _clone(0, leaf_fd, child, theirs)
        os.close(leaf_fd)
    finally:
        theirs.close()
        os.close(pidfd)
    return Launch(pid, ours)


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


def _exec_child(process: ProcessPlan, channel: Channel, pidfd: int, kinds: set[str], preserve_fds: int) -> None:
    kernel.setns(pidfd, sum(namespaces.FLAGS[kind] for kind in kinds), "of the container")
    os.close(pidfd)
    if "user" in kinds:
        credentials.become_root(process.uid, process.gid)
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

    init.finish(
        process,
        channel,
        ready_fds=() if master is None else (master,),
        before_exec=become_final,
        preserve_fds=preserve_fds,
    )


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
