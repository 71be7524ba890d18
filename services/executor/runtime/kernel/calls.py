"""The seam to the kernel for processes: one function per system call, errors as `KernelFailure`.

Calls about mounts are in `mountcalls.py`. The C library is called with the interpreter's lock held (`PyDLL`): the
processes here are single-threaded, and `clone3` must not leave a lock behind that the child cannot release.

Needs Linux 5.12 (mount_setattr(2); the rest is older). Numbers of system calls from 424 on are the same on every
architecture.
"""

from __future__ import annotations

import ctypes
import errno
import os

from services.executor.runtime.errors import KernelFailure, NotSupported

libc = ctypes.PyDLL(None, use_errno=True)
_syscall = libc.syscall
_syscall.restype = ctypes.c_long

# Source: asm/unistd_64.h, asm-generic/unistd.h
_NUMBERS: dict[str, dict[str, int]] = {
    "x86_64": {
        "clone": 56,
        "keyctl": 250,
        "ioprio_set": 251,
        "sched_setattr": 314,
        "add_key": 248,
        "set_mempolicy": 238,
    },
    "aarch64": {
        "clone": 220,
        "keyctl": 219,
        "ioprio_set": 30,
        "sched_setattr": 274,
        "add_key": 217,
        "set_mempolicy": 237,
    },
}
_CLONE3, _CLOSE_RANGE, _OPENAT2, _PIDFD_GETFD = 435, 436, 437, 438

CLONE_NEWTIME = 0x00000080
CLONE_FS = 0x00000200
CLONE_PIDFD = 0x00001000
CLONE_PARENT = 0x00008000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_INTO_CGROUP = 0x200000000

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

CLOSE_RANGE_CLOEXEC = 4

_KEYCTL_JOIN_SESSION_KEYRING, _KEYCTL_SETPERM, _KEYCTL_DESCRIBE = 1, 5, 6
_KEY_SPEC_SESSION_KEYRING = -3


def _number(name: str) -> int:
    machine = os.uname().machine
    try:
        return _NUMBERS[machine][name]
    except KeyError:
        raise NotSupported("linux", f"{name}(2) is not known on {machine}") from None


def check(result: int, syscall: str, subject: str = "") -> int:
    """`result`, unless it is negative: then errno as a `KernelFailure`."""
    if result < 0:
        raise KernelFailure(syscall, subject, ctypes.get_errno())
    return result


def call(syscall: str, subject: str, number: int, *arguments: object) -> int:
    """`syscall(2)` by number. Arguments must be ctypes values, bytes, None or ints that fit an int."""
    return check(int(_syscall(ctypes.c_long(number), *arguments)), syscall, subject)


class _CloneArguments(ctypes.Structure):
    """struct clone_args of linux/sched.h, up to `cgroup` (Linux 5.7)."""

    _fields_ = [
        ("flags", ctypes.c_uint64),
        ("pidfd", ctypes.c_uint64),
        ("child_tid", ctypes.c_uint64),
        ("parent_tid", ctypes.c_uint64),
        ("exit_signal", ctypes.c_uint64),
        ("stack", ctypes.c_uint64),
        ("stack_size", ctypes.c_uint64),
        ("tls", ctypes.c_uint64),
        ("set_tid", ctypes.c_uint64),
        ("set_tid_size", ctypes.c_uint64),
        ("cgroup", ctypes.c_uint64),
    ]


def clone(flags: int, *, cgroup_fd: int | None = None, exit_signal: int = 17) -> int:
    """fork(2) with namespaces, by clone3(2). Returns 0 in the child, the child's id in the parent.

    Unlike `os.fork` no handlers run in the child: there are no threads here whose locks they would have to mend.

    Args:
        flags: CLONE_NEW*, CLONE_PARENT.
        cgroup_fd: directory of the v2 cgroup that the child is born in; spares the move of a living process, which
            waits for a grace period of the whole machine.
        exit_signal: 0 with CLONE_PARENT.
    """
    arguments = _CloneArguments(flags=flags, exit_signal=0 if flags & CLONE_PARENT else exit_signal)
    if cgroup_fd is not None:
        arguments.flags |= CLONE_INTO_CGROUP
        arguments.cgroup = cgroup_fd
    try:
        return call("clone3", f"flags={flags:#x}", _CLONE3, ctypes.byref(arguments), ctypes.c_size_t(88))
    except KernelFailure as failure:
        # Filters answer ENOSYS for clone3, whose flags they cannot read, so that callers take clone instead.
        if failure.errno != errno.ENOSYS or cgroup_fd is not None:
            raise
    return call("clone", f"flags={flags:#x}", _number("clone"), ctypes.c_ulong(flags | exit_signal), 0, 0, 0, 0)


def unshare(flags: int) -> None:
    """unshare(2)."""
    check(libc.unshare(ctypes.c_int(flags)), "unshare", f"flags={flags:#x}")


def setns(fd: int, kind: int, subject: str) -> None:
    """setns(2); `kind` is the CLONE_NEW* flag expected, or a set of them when `fd` is a pidfd."""
    check(libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)), "setns", subject)


def prctl(option: int, value: int = 0, third: int = 0) -> int:
    """prctl(2) with integer arguments."""
    result = libc.prctl(
        ctypes.c_int(option), ctypes.c_ulong(value), ctypes.c_ulong(third), ctypes.c_ulong(0), ctypes.c_ulong(0)
    )
    return check(result, "prctl", f"option={option}")


def set_process_name(name: str) -> None:
    """The name in /proc/<pid>/comm, cut to 15 bytes."""
    libc.prctl(ctypes.c_int(PR_SET_NAME), ctypes.c_char_p(name.encode()[:15]), 0, 0, 0)


def rename_process(name: str) -> None:
    """As `set_process_name`, through /proc: it takes longer, and touches less memory."""
    fd = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
    os.write(fd, name.encode())
    os.close(fd)


def set_no_new_privileges() -> None:
    """prctl(PR_SET_NO_NEW_PRIVS): execve grants nothing from now on; cannot be undone."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def set_dumpable(dumpable: bool) -> None:
    """prctl(PR_SET_DUMPABLE): false keeps others from ptrace, /proc/<pid>/exe and /proc/<pid>/fd until execve."""
    prctl(PR_SET_DUMPABLE, int(dumpable))


def become_subreaper() -> None:
    """Orphans among our descendants become our children instead of init's."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def set_parent_death_signal(number: int) -> None:
    """prctl(PR_SET_PDEATHSIG)."""
    prctl(PR_SET_PDEATHSIG, number)


def sethostname(name: str) -> None:
    """sethostname(2), in the current UTS namespace."""
    raw = name.encode()
    check(libc.sethostname(ctypes.c_char_p(raw), ctypes.c_size_t(len(raw))), "sethostname", name)


def setdomainname(name: str) -> None:
    """setdomainname(2), in the current UTS namespace."""
    raw = name.encode()
    check(libc.setdomainname(ctypes.c_char_p(raw), ctypes.c_size_t(len(raw))), "setdomainname", name)


def personality(persona: int) -> None:
    """personality(2)."""
    check(libc.personality(ctypes.c_ulong(persona)), "personality", hex(persona))


class reporting:  # noqa: N801  (a context manager, read as a verb)
    """`with reporting("open", path):` lets an `OSError` out as a `KernelFailure` that names both."""

    __slots__ = ("subject", "syscall")

    def __init__(self, syscall: str, subject: str = "") -> None:
        self.syscall = syscall
        self.subject = subject

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise KernelFailure(self.syscall, self.subject, error.errno or 0) from error


def setresuid(uid: int) -> None:
    """All three user ids at once."""
    with reporting("setresuid", str(uid)):
        os.setresuid(uid, uid, uid)


def setresgid(gid: int) -> None:
    """All three group ids at once."""
    with reporting("setresgid", str(gid)):
        os.setresgid(gid, gid, gid)


class _OpenHow(ctypes.Structure):
    """struct open_how of linux/openat2.h."""

    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def openat2(directory: int, path: str, flags: int, *, mode: int = 0, resolve: int = RESOLVE_IN_ROOT) -> int:
    """openat2(2), close-on-exec. Retries when a rename beneath the directory raced with the walk (EAGAIN)."""
    how = _OpenHow(flags=flags | os.O_CLOEXEC, mode=mode, resolve=resolve)
    raw = os.fsencode(path)
    for _ in range(64):
        fd = int(
            _syscall(
                ctypes.c_long(_OPENAT2),
                ctypes.c_int(directory),
                ctypes.c_char_p(raw),
                ctypes.byref(how),
                ctypes.c_size_t(ctypes.sizeof(how)),
            )
        )
        if fd >= 0 or ctypes.get_errno() != errno.EAGAIN:
            break
    return check(fd, "openat2", path)


def close_from(first: int, *, on_exec: bool = False) -> None:
    """Close every descriptor from `first` on, now or at execve."""
    flags = CLOSE_RANGE_CLOEXEC if on_exec else 0
    last = ctypes.c_uint(0xFFFFFFFF)
    try:
        call("close_range", str(first), _CLOSE_RANGE, ctypes.c_uint(first), last, ctypes.c_uint(flags))
    except KernelFailure:  # an old kernel, or a filter that is in force already, with whatever error it gives
        _close_listed(first, on_exec=on_exec)


def _close_listed(first: int, *, on_exec: bool) -> None:
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            if fd >= first and on_exec:
                os.set_inheritable(fd, False)
            elif fd >= first:
                os.close(fd)
        except OSError as error:
            if error.errno != errno.EBADF:  # of the listing itself
                raise KernelFailure("close", name, error.errno or 0) from error


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """A copy of another process's descriptor (Linux 5.6)."""
    return call("pidfd_getfd", str(fd), _PIDFD_GETFD, ctypes.c_int(pidfd), ctypes.c_int(fd), ctypes.c_uint(0))


def join_session_keyring(name: str) -> None:
    """A session keyring of one's own, so that the host's keys are out of reach; searchable by its owner.

    Source: keyctl(2). A kernel without keys is fine: there is nothing to reach.
    """
    number = _number("keyctl")
    try:
        ring = call(
            "keyctl",
            f"join session keyring {name}",
            number,
            ctypes.c_int(_KEYCTL_JOIN_SESSION_KEYRING),
            ctypes.c_char_p(name.encode()),
        )
    except KernelFailure as failure:
        if failure.errno == errno.ENOSYS:
            return
        raise
    # possessor: all; user: view, read, search. Only the owner may set it, so a failure leaves it tighter.
    _syscall(
        ctypes.c_long(number), ctypes.c_int(_KEYCTL_SETPERM), ctypes.c_int(ring), ctypes.c_uint(0x3F000000 | 0x000B0000)
    )


def ioprio_set(value: int) -> None:
    """ioprio_set(2) of the calling process; `value` is class << 13 | level."""
    call("ioprio_set", hex(value), _number("ioprio_set"), ctypes.c_int(1), ctypes.c_int(0), ctypes.c_int(value))


def set_mempolicy(mode: int, nodes: int, size: int) -> None:
    """set_mempolicy(2) of the calling process; `nodes` is a set of bits, of which the kernel looks at `size`."""
    words = (ctypes.c_ulong * (size // 64))(*(nodes >> start & 0xFFFFFFFFFFFFFFFF for start in range(0, size, 64)))
    # the kernel counts one more than it reads
    length = ctypes.c_ulong(size + 1)
    call("set_mempolicy", hex(mode), _number("set_mempolicy"), ctypes.c_int(mode), ctypes.byref(words), length)


class SchedulingAttributes(ctypes.Structure):
    """struct sched_attr of linux/sched/types.h, first version (48 bytes)."""

    _fields_ = [
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    ]


def sched_setattr(attributes: SchedulingAttributes, pid: int = 0) -> None:
    """sched_setattr(2); 0 is the calling process."""
    attributes.size = 48
    number = _number("sched_setattr")
    call("sched_setattr", "", number, ctypes.c_int(pid), ctypes.byref(attributes), ctypes.c_uint(0))


def restore_signals() -> None:
    """Default action for every signal, none blocked: an interpreter ignores SIGPIPE and SIGXFSZ, a program must not."""
    import _signal  # type: ignore[import-not-found]  # `signal` itself costs an enum module

    for number in range(1, 65):
        try:
            if _signal.getsignal(number) != _signal.SIG_DFL:
                _signal.signal(number, _signal.SIG_DFL)
        except (OSError, ValueError):  # SIGKILL, SIGSTOP, and those of the C library
            continue
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def malloc_trim() -> None:
    """Give free heap pages back to the kernel; a C library without the call keeps them."""
    trim = getattr(libc, "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))
