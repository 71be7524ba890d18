"""A further process of a running container: cloned here, it joins the container's namespaces and becomes its program.

Source: setns(2), pid_namespaces(7).
"""

from __future__ import annotations

import errno
import os

from services.executor.runtime.errors import KernelFailure
from services.executor.runtime.kernel import calls as kernel
from services.executor.runtime.launch.conversation import Launch
from services.executor.runtime.launch.process import bear, cgroup_doors, enter_cgroup, settle
from services.executor.runtime.launch.sync import Channel
from services.executor.runtime.steps import credentials, init, namespaces, scheduling, tty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from services.executor.runtime.spec.plan import ProcessPlan


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
    what runs in the container can see, and perhaps trace, only something that may do no more than itself.

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
        plan = build()
        if plan.seccomp is not None:
            import services.executor.runtime.seccomp.verdict  # noqa: F401  (nothing can be imported later)
        if plan.affinity[0] is not None:
            scheduling.set_affinity(plan.affinity[0])
        init.seal_interpreter()
        kinds = _different_namespaces(container_pid)
        doors = cgroup_doors(cgroup_paths)
        settle(plan, theirs, streams, keep={pidfd, *doors, *range(3, 3 + preserve_fds)})
        enter_cgroup(doors)
        scheduling.set_affinity(plan.affinity[1])
        # A policy that a fork resets, or that cannot fork, is for the last process of all.
        bears = "pid" in kinds
        scheduling.apply(None if bears else plan.scheduler, plan.ioprio)
        _exec_child(plan, theirs, pidfd, kinds, preserve_fds)

    try:
        pid = bear(0, cgroup_fd, child, theirs)
    except KernelFailure as failure:
        if failure.errno != errno.EBUSY or leaf is None:
            raise
        leaf_fd = leaf()
        pid = bear(0, leaf_fd, child, theirs)
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


def _exec_child(plan: ProcessPlan, channel: Channel, pidfd: int, kinds: set[str], preserve_fds: int) -> None:
    kernel.setns(pidfd, sum(namespaces.FLAGS[kind] for kind in kinds), "of the container")
    os.close(pidfd)
    if "user" in kinds:
        credentials.become_root(plan.uid, plan.gid)
    master = _exec_terminal(plan) if plan.terminal else None

    def become_final() -> None:
        if "pid" in kinds:
            pid = kernel.clone(kernel.CLONE_PARENT)
            if pid:
                channel.send("stage", pid=pid, scheduler=plan.scheduler)
                os._exit(0)
            channel.expect("go")
        os.setsid()
        if plan.terminal:
            tty.take_control()

    init.finish(
        plan,
        channel,
        ready_fds=() if master is None else (master,),
        before_exec=become_final,
        preserve_fds=preserve_fds,
    )


def _exec_terminal(plan: ProcessPlan) -> int:
    """A terminal of the container's own devpts on the standard descriptors; returns the master."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    master, slave = tty.open_pair(root)
    os.close(root)
    rows, columns = plan.console_size
    if rows or columns:
        tty.set_size(slave, rows, columns)
    tty.use(slave)
    return master
