"""Compiled system call filters: what they are, whether this kernel takes them, and their installation.

Source: seccomp(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from services.executor.runtime.errors import KernelFailure, NotSupported
from services.executor.runtime.kernel import calls as kernel

#: name -> return value of a filter
ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
}

# A child is single-threaded when it installs its filter, so TSYNC has nothing to synchronize and is left out.
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 0,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 0x20,
}
NEW_LISTENER = 8
_SYSCALL_NUMBER = {"x86_64": 317, "aarch64": 277, "armv7l": 383, "i686": 354}
_SET_MODE_FILTER, _GET_ACTION_AVAILABLE = 1, 2


class CompiledFilter:
    """A compiled filter.

    Attributes:
        program: array of `struct sock_filter`.
        flags: for seccomp(2).
        listener_path: unix socket that the listener of SCMP_ACT_NOTIFY goes to, or None.
        listener_metadata: opaque text to go with it.
    """

    __slots__ = ("flags", "listener_metadata", "listener_path", "program")

    def __init__(
        self, program: bytes, flags: int = 0, listener_path: str | None = None, listener_metadata: str = ""
    ) -> None:
        self.program = program
        self.flags = flags
        self.listener_path = listener_path
        self.listener_metadata = listener_metadata

    def pack(self) -> bytes:
        """For a cache or a socket; `unpack` is the inverse."""
        path, metadata = (self.listener_path or "").encode(), self.listener_metadata.encode()
        return struct.pack("=III", self.flags, len(path), len(metadata)) + path + metadata + self.program

    @classmethod
    def unpack(cls, data: bytes) -> CompiledFilter:
        flags, path_size, metadata_size = struct.unpack_from("=III", data)
        path_end = 12 + path_size
        end = path_end + metadata_size
        return cls(data[end:], flags, data[12:path_end].decode() or None, data[path_end:end].decode())


class _FilterProgram(ctypes.Structure):
    """struct sock_fprog of linux/filter.h."""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def install(compiled: CompiledFilter) -> int | None:
    """Filter the calling process from now on, irrevocably; needs no_new_privs or CAP_SYS_ADMIN.

    Returns:
        The descriptor of the listener when the filter notifies, which the caller owns; else None.

    Raises:
        NotSupported: this kernel lacks a flag that is asked for.
        KernelFailure: EACCES, neither no_new_privs nor CAP_SYS_ADMIN; EBUSY, there is a listener already.
    """
    program = _FilterProgram(len(compiled.program) // 8, compiled.program)
    try:
        result = _seccomp(_SET_MODE_FILTER, compiled.flags, ctypes.byref(program))
    except KernelFailure as failure:
        if failure.errno == errno.EINVAL and compiled.flags:
            raise NotSupported("linux.seccomp.flags", f"this kernel lacks one of {compiled.flags:#x}") from failure
        raise
    return result if compiled.flags & NEW_LISTENER else None


def _seccomp(operation: int, flags: int, argument: object) -> int:
    number = _SYSCALL_NUMBER.get(os.uname().machine)
    if number is None:
        raise NotSupported("linux.seccomp", f"seccomp(2) is not known on {os.uname().machine}")
    return kernel.call("seccomp", "", number, ctypes.c_uint(operation), ctypes.c_uint(flags), argument)


def supported_flags() -> list[str]:
    """Which of `FLAGS` this kernel takes: without a program it says EFAULT to those, EINVAL to others."""
    found = []
    for name, flag in FLAGS.items():
        # Only makes sense, and is only taken, with a listener.
        extra = NEW_LISTENER if name.endswith("WAIT_KILLABLE_RECV") else 0
        try:
            _seccomp(_SET_MODE_FILTER, flag | extra, None)
        except KernelFailure as failure:
            if failure.errno == errno.EFAULT:
                found.append(name)
    return found


def supported_actions() -> list[str]:
    """Which of `ACTIONS` this kernel knows."""
    found = []
    for name, action in ACTIONS.items():
        try:
            _seccomp(_GET_ACTION_AVAILABLE, 0, ctypes.byref(ctypes.c_uint32(action)))
        except KernelFailure as failure:
            if failure.errno != errno.EOPNOTSUPP:
                raise
        else:
            found.append(name)
    return found
