"""Clone the process that becomes a container, and what it does before it is one (`steps/init.py`).

The parent clones at once and learns from the child what it has to do: reading the spec, making the cgroup and
everything else happens in the child, whose memory goes away with execve. Page faults after a fork are the larger part
of a start; the parent, which stays, shall have few. The dialogue is drawn in `sync.py`.

Source: clone(2), pid_namespaces(7).
"""

from __future__ import annotations

import os

from services.executor.runtime.kernel import calls as kernel
from services.executor.runtime.launch.conversation import Launch
from services.executor.runtime.launch.sync import Channel
from services.executor.runtime.steps import credentials, init, mounts, namespaces, scheduling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from services.executor.runtime.spec.plan import ContainerPlan, ProcessPlan


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


def launch_container(build: Callable[[], ContainerPlan], birth: Birth, streams: tuple[int, int, int]) -> Launch:
    """Clone a container's first process; `streams` become its standard descriptors.

    Returns at once; `Launch.until_ready` says how it went.

    Args:
        build: called in the child, still with the runtime's privileges and namespaces other than the new ones: makes
            the plan, and the cgroup if nobody has yet.
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
        doors = cgroup_doors(plan.cgroup_paths)
        trees = mounts.open_sources(plan.mounts, plan.namespaces)
        settle(
            plan.process,
            theirs,
            streams,
            keep=_kept(plan, namespace_fds, doors) | trees | ({stub} if stub is not None else set()),
        )
        enter_cgroup(doors)
        scheduling.set_affinity(None)
        if birth.staged:
            _stage(plan, theirs, namespace_fds, stub)
        init.run(init.Init(plan, theirs, namespace_fds, stub))

    pid = bear(0 if birth.staged else birth.flags, birth.cgroup_fd, child, theirs)
    theirs.close()
    return Launch(pid, ours)


def _stub(process: ProcessPlan, channel: Channel) -> int | None:
    if not process.stubbed:
        return None
    from services.executor.runtime.steps import execstub

    return execstub.make(channel.fileno())


def _preload(plan: ContainerPlan) -> None:
    """Import what the child may need: it cannot import any more (`init.seal_interpreter`)."""
    if any(mount.kind in {"cgroup", "cgroup2"} for mount in plan.mounts):
        import services.executor.runtime.steps.cgroupmount
    if any(mount.options.copy_up for mount in plan.mounts):
        import services.executor.runtime.steps.copytree
    if plan.linux.get("netDevices"):
        import services.executor.runtime.steps.netdevices  # noqa: F401


def _kept(plan: ContainerPlan, namespace_fds: dict[str, int], doors: list[int]) -> set[int]:
    kept = {*namespace_fds.values(), *doors}
    if plan.start_listener is not None:
        kept.add(plan.start_listener.fileno())
    return kept | set(range(3, 3 + plan.preserve_fds))


def bear(flags: int, cgroup_fd: int | None, child: Callable[[], None], channel: Channel) -> int:
    pid = kernel.clone(flags, cgroup_fd=cgroup_fd)
    if pid == 0:
        init.guarded(channel, child)
    return pid


def settle(process: ProcessPlan, channel: Channel, streams: tuple[int, int, int], *, keep: set[int]) -> None:
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


def cgroup_doors(paths: dict[str, str]) -> list[int]:
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


def enter_cgroup(doors: list[int]) -> None:
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
