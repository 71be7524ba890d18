"""A program of some hundred bytes between the interpreter and the container's program.

Between clone and execve a container's first process runs the interpreter, which the container could then have executed
in its own environment (`#!/proc/self/exe`), get a descriptor of, and overwrite (CVE-2019-5736). Executing the
interpreter from a read-only mount prevents it (`selfexe`), but needs a second start of it, a good part of a short
command's time. This does it otherwise: what calls execve(2) on the container's program is this stub, out of a sealed
file in memory, so that is all that /proc/self/exe can stand for.

    init (interpreter) ── execveat(stub: path, args…) ──► stub ── execve(path, args…) ──► the container's program
                                                            └─ failed: one byte, the error number, to the parent

It suits a process that nothing of the container's can look at before: the first one of a new pid namespace, without
programs of the container's run by the interpreter itself (startContainer hooks), and without filters and labels, which
would judge the stub as well. Others take `selfexe`.

Source: elf(5), execveat(2), memfd_create(2), fcntl(2) "File Sealing"; System V ABI, AMD64, "Process Initialization".
"""

from __future__ import annotations

import ctypes
import errno
import os

from services.executor.runtime.errors import KernelFailure
from services.executor.runtime.kernel import calls as kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from services.executor.runtime.spec.plan import ContainerPlan

_ADDRESS = 0x400000
_HEADERS = 64 + 2 * 56
_MFD_EXEC = 0x10
_F_ADD_SEALS, _ALL_SEALS = 1033, 0xF
_EXECVEAT, _AT_EMPTY_PATH = 322, 0x1000


def suits(plan: ContainerPlan) -> bool:
    """Whether the container's first process can be executed this way."""
    process = plan.process
    plain = process.seccomp is None and not process.apparmor and not process.selinux
    return (
        plain
        and "pid" in plan.namespaces.new
        and not plan.hooks.get("startContainer")
        and os.uname().machine == "x86_64"
        and _memory_is_executable()
    )


def _memory_is_executable() -> bool:
    """Files in memory may be executed unless an administrator forbade it (Linux 6.3, sysctl vm.memfd_noexec)."""
    try:
        with open("/proc/sys/vm/memfd_noexec", "rb") as setting:
            return setting.read().strip() != b"2"
    except FileNotFoundError:
        return True


def make(channel: int) -> int:
    """A descriptor of the stub, sealed.

    Args:
        channel: descriptor that a failure is reported on, and that the container's program does not get.

    Raises:
        KernelFailure: no memory.
    """
    import fcntl

    image = _image(_code(channel))
    with kernel.reporting("memfd_create", "stub"):
        try:
            fd = os.memfd_create("davit-runc", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | _MFD_EXEC)
        except OSError as error:
            if error.errno != errno.EINVAL:  # before Linux 6.3
                raise
            fd = os.memfd_create("davit-runc", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.write(fd, image)
        fcntl.fcntl(fd, _F_ADD_SEALS, _ALL_SEALS)
    return fd


def _number(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _code(channel: int) -> bytes:
    """On entry the stack has: count, path, arguments…, 0, environment…, 0."""
    fd = _number(channel)
    execute_or_tell = b"".join(
        (
            # execve(path, arguments, environment)
            b"\x48\x8b\x7c\x24\x08",  # mov rdi, [rsp+8]
            b"\x48\x8d\x74\x24\x10",  # lea rsi, [rsp+16]
            b"\x48\x8b\x0c\x24",  # mov rcx, [rsp]
            b"\x48\x8d\x54\xcc\x10",  # lea rdx, [rsp+rcx*8+16]
            b"\xb8" + _number(59),  # mov eax, 59
            b"\x0f\x05",  # syscall
            # write(channel, the error number, 1)
            b"\xf7\xd8",  # neg eax
            b"\x50",  # push rax
            b"\xbf" + fd,  # mov edi, channel
            b"\x48\x89\xe6",  # mov rsi, rsp
            b"\xba" + _number(1),  # mov edx, 1
            b"\xb8" + _number(1),  # mov eax, 1
            b"\x0f\x05",  # syscall
        )
    )
    return b"".join(
        (
            # fcntl(channel, F_SETFD, FD_CLOEXEC): success is told by its end
            b"\xbf" + fd,  # mov edi, channel
            b"\xbe" + _number(2),  # mov esi, 2
            b"\xba" + _number(1),  # mov edx, 1
            b"\xb8" + _number(72),  # mov eax, 72
            b"\x0f\x05",  # syscall
            # it is closed when the container's program is this stub once more, by way of /proc/self/exe
            b"\x85\xc0",  # test eax, eax
            b"\x78" + bytes([len(execute_or_tell)]),  # js exit
            execute_or_tell,
            # exit: exit_group(1)
            b"\xbf" + _number(1),  # mov edi, 1
            b"\xb8" + _number(231),  # mov eax, 231
            b"\x0f\x05",  # syscall
        )
    )


def _image(code: bytes) -> bytes:
    """An ELF file of one segment, which is loaded whole, and a stack that cannot be executed."""

    def wide(*values: int) -> bytes:
        return b"".join(value.to_bytes(8, "little") for value in values)

    def short(*values: int) -> bytes:
        return b"".join(value.to_bytes(2, "little") for value in values)

    size = _HEADERS + len(code)
    header = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)
    header += short(2, 62) + _number(1) + wide(_ADDRESS + _HEADERS, 64, 0) + _number(0) + short(64, 56, 2, 64, 0, 0)
    segment = _number(1) + _number(5) + wide(0, _ADDRESS, _ADDRESS, size, size, 4096)
    stack = _number(0x6474E551) + _number(6) + wide(0, 0, 0, 0, 0, 16)
    return header + segment + stack + code


def execute(stub: int, channel: int, path: str, args: list[str], environment: dict[str, str]) -> None:
    """Become the container's program by way of the stub; returns only by raising.

    Raises:
        KernelFailure: the stub itself could not be executed.
    """
    os.set_inheritable(channel, True)
    words = _strings([path, *args])
    variables = _strings([f"{name}={value}" for name, value in environment.items()])
    empty, flags = ctypes.c_char_p(b""), ctypes.c_int(_AT_EMPTY_PATH)
    kernel.call("execveat", path, _EXECVEAT, ctypes.c_int(stub), empty, words, variables, flags)


def _strings(texts: list[str]) -> ctypes.Array[ctypes.c_char_p]:
    raw = [os.fsencode(text) for text in texts]
    if any(b"\0" in text for text in raw):
        raise KernelFailure("execve", "arguments with a zero byte", errno.EINVAL, step="exec")
    return (ctypes.c_char_p * (len(raw) + 1))(*raw, None)
