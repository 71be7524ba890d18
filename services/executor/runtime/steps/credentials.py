"""Who the process is and what it may do: ids, capabilities, labels, system call filter.

Source: capabilities(7), credentials(7), OCI runtime-spec 1.2 config.md "User", "Linux Process".
"""

from __future__ import annotations

import errno
import os
import stat

from services.executor.runtime.errors import InvalidSpec, KernelFailure, RuntimeFailure
from services.executor.runtime.kernel import calls as kernel
from services.executor.runtime.spec import capabilities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

    from services.executor.runtime.launch.sync import Channel
    from services.executor.runtime.spec.plan import ProcessPlan
    from services.executor.runtime.steps.users import Identity


def label(process: ProcessPlan) -> None:
    """Security labels that take effect at execve; through the container's /proc, which nothing was mounted over."""
    if process.apparmor and process.apparmor != "unconfined":
        _write_attribute("apparmor/exec", f"exec {process.apparmor}")
    if process.selinux:
        _write_attribute("exec", process.selinux)


def _write_attribute(name: str, value: str) -> None:
    path = f"/proc/thread-self/attr/{name}"
    with kernel.reporting("write", path):
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)


def own_standard_streams(uid: int) -> None:
    """Give pipes and terminals on the standard descriptors to the process's user, so that /dev/stdout can be opened.

    Shared things are left alone: /dev/null, and whatever does not let itself be changed (the spec does not ask for it).
    """
    null = os.stat("/dev/null").st_rdev if os.path.exists("/dev/null") else None
    for fd in (0, 1, 2):
        try:
            found = os.fstat(fd)
            if found.st_uid != uid and not (stat.S_ISCHR(found.st_mode) and found.st_rdev == null):
                os.fchown(fd, uid, -1)
        except OSError:
            continue


def become_root(uid: int, gid: int) -> None:
    """Root of the user namespace just entered, for what is to be set up in it.

    One that maps no root has the privileges of its maker all the same; its own files are then made by the process's
    user, since an id that is not mapped cannot own any.

    Args:
        uid, gid: of the process that is to be executed.
    """
    for change, wanted in ((kernel.setresgid, gid), (kernel.setresuid, uid)):
        try:
            change(0)
        except KernelFailure as failure:
            if failure.errno != errno.EINVAL or wanted == 0:
                raise
            change(wanted)


def change_user(process: ProcessPlan, identity: Identity) -> None:
    """Bounding set, then groups, gid, uid. What is permitted survives the change until `drop`."""
    capabilities.drop_bounding(process.capabilities)
    kernel.prctl(kernel.PR_SET_KEEPCAPS, 1)
    if _may_set_groups():
        with kernel.reporting("setgroups", str(identity.groups)):
            os.setgroups(identity.groups)
    elif identity.groups:
        raise InvalidSpec("process.user.additionalGids", "this user namespace does not allow setgroups")
    kernel.setresgid(identity.gid)
    kernel.setresuid(identity.uid)
    kernel.prctl(kernel.PR_SET_KEEPCAPS, 0)  # what was kept stays
    capabilities.clear_ambient()


def with_final_capabilities(process: ProcessPlan, action: Callable[[], T]) -> T:
    """Do something with the rights that the process is going to have, and keep what is permitted until `drop`."""
    permitted = capabilities.permitted()
    capabilities.capset(capabilities.mask(process.capabilities.get("effective") or ()) & permitted, permitted, 0)
    return action()


def drop(process: ProcessPlan) -> None:
    """Reduce the sets to what the spec says; a filter that is in force needs to allow capset, as with runc."""
    capabilities.apply(process.capabilities)


# What a process that enters a pid namespace last does with its filter in force: clone, where clone3 is refused;
# TIOCSCTTY (ioctl_tty(2)) for a terminal.
_JOINING = (
    ("prctl", (1, 9)),
    ("setsid", ()),
    ("ioctl", (0, 0x540E)),
    ("sendmsg", ()),
    ("recvmsg", ()),
    ("write", ()),
    ("close", ()),
    ("exit_group", ()),
    ("clone", (kernel.CLONE_PARENT | 17,)),
)


def filter_permits_joining(process: ProcessPlan) -> bool:
    """Whether an exec can enter its pid namespace after its privileges are gone, which is better, and not before."""
    from services.executor.runtime.seccomp import verdict

    return verdict.permits(process.seccomp.program, _JOINING)


def _may_set_groups() -> bool:
    # an exec is not in the container's pid namespace yet, and has no "self" there; the first process shares its users
    for name in ("self", "1"):
        try:
            fd = os.open(f"/proc/{name}/setgroups", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            return os.read(fd, 16).strip() != b"deny"
        finally:
            os.close(fd)
    return True


def install_filter_privileged(process: ProcessPlan, channel: Channel) -> None:
    """Without no_new_privs the kernel wants CAP_SYS_ADMIN in effect, which a change of user has taken out of it."""
    permitted = capabilities.permitted()
    capabilities.capset(permitted, permitted, 0)
    install_filter(process, channel)


def install_filter(process: ProcessPlan, channel: Channel) -> None:
    """Install the compiled filter; hand its listener to the parent when it has one.

    The parent fetches the descriptor itself: the filter may already trap the calls that would send it.
    """
    from services.executor.runtime.seccomp import filter as seccomp_filter

    listener = seccomp_filter.install(process.seccomp)
    if listener is not None and listener >= 0:
        channel.send("seccomp", fd=listener)
        if channel.receive() is None:
            raise RuntimeFailure("the runtime did not take the seccomp listener", step="seccomp")
        os.close(listener)
