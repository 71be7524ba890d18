"""v2 devices: no files, but a program that the kernel asks about every access.

Source: kernel cgroup-v2.rst#device-controller; bpf(2), linux/bpf.h.
"""

from __future__ import annotations

import ctypes
import errno
import os

from services.executor.runtime.cgroups.device_rules import WILDCARD, DeviceRules
from services.executor.runtime.errors import KernelFailure
from services.executor.runtime.kernel import bpf
from services.executor.runtime.kernel import calls as kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from services.executor.runtime.cgroups.interface import Resources, Stats

NAME = "devices"
_BPF = {"x86_64": 321, "aarch64": 280, "armv7l": 386, "i686": 357}
_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH, _PROG_GET_FD_BY_ID, _PROG_QUERY = 5, 8, 9, 13, 16
_PROG_TYPE_CGROUP_DEVICE, _ATTACH_CGROUP_DEVICE = 15, 6
_F_ALLOW_MULTI, _F_REPLACE = 2, 4
_MAX_PROGRAMS = 64  # the kernel's limit for one group and type
_TYPES = {"b": 1, "c": 2}
_ACCESSES = {"m": 1, "r": 2, "w": 4}


class _Load(ctypes.Structure):
    _fields_ = [
        ("prog_type", ctypes.c_uint32),
        ("insn_cnt", ctypes.c_uint32),
        ("insns", ctypes.c_uint64),
        ("license", ctypes.c_uint64),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_uint64),
        ("kern_version", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_name", ctypes.c_char * 16),
    ]


class _Attach(ctypes.Structure):
    _fields_ = [
        ("target_fd", ctypes.c_uint32),
        ("attach_bpf_fd", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("attach_flags", ctypes.c_uint32),
        ("replace_bpf_fd", ctypes.c_uint32),
    ]


class _Query(ctypes.Structure):
    _fields_ = [
        ("target_fd", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("query_flags", ctypes.c_uint32),
        ("attach_flags", ctypes.c_uint32),
        ("prog_ids", ctypes.c_uint64),
        ("prog_cnt", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
    ]


class _ById(ctypes.Structure):
    _fields_ = [("prog_id", ctypes.c_uint32), ("next_id", ctypes.c_uint32), ("open_flags", ctypes.c_uint32)]


def wanted(resources: Resources) -> str | None:
    return "linux.resources.devices" if resources.get("devices") else None


def validate(directory: str, resources: Resources) -> None:
    DeviceRules.for_container(resources.get("devices") or ())


def stats(directory: str, into: Stats) -> None:
    """There are none."""


def apply(directory: str, resources: Resources) -> None:
    """Put a program for the rules in the place of the one in force, without a moment in between.

    Raises:
        KernelFailure: EPERM without CAP_BPF or CAP_SYS_ADMIN, EINVAL when the kernel lacks CONFIG_CGROUP_BPF.
    """
    if not resources.get("devices"):
        return
    program = _loaded(_program(DeviceRules.for_container(resources["devices"])))
    try:
        with kernel.reporting("open", directory):
            group = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _attach(group, program)
        finally:
            os.close(group)
    finally:
        os.close(program)


def _program(rules: DeviceRules) -> bytes:
    exceptions: list[tuple[int | None, int | None, int | None, int]] = []
    for (kind, major, minor), access in rules.ordered():
        numbers = [None if number == WILDCARD else number for number in (major, minor)]
        exceptions.append((_TYPES[kind], numbers[0], numbers[1], sum(_ACCESSES[letter] for letter in access)))
    return bpf.device_program(rules.allow_by_default, exceptions)


def _call(command: int, what: str, argument: ctypes.Structure) -> int:
    number = _BPF.get(os.uname().machine)
    if number is None:
        raise KernelFailure("bpf", what, errno.ENOSYS)
    size = ctypes.c_uint(ctypes.sizeof(argument))
    return kernel.call("bpf", what, number, ctypes.c_int(command), ctypes.byref(argument), size)


def _loaded(code: bytes) -> int:
    instructions = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    argument = _Load(
        prog_type=_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt=len(code) // 8,
        insns=ctypes.addressof(instructions),
        license=ctypes.addressof(licence),
        prog_name=b"devices",
    )
    return _call(_PROG_LOAD, "load device rules", argument)


def _attach(group: int, program: int) -> None:
    attached = _attached(group)
    argument = _Attach(
        target_fd=group, attach_bpf_fd=program, attach_type=_ATTACH_CGROUP_DEVICE, attach_flags=_F_ALLOW_MULTI
    )
    old = [_call(_PROG_GET_FD_BY_ID, "find device rules", _ById(prog_id=number)) for number in attached]
    try:
        if len(old) == 1:
            # Linux 5.6; before, the new one first comes beside the old one, and access needs the consent of both.
            argument.attach_flags |= _F_REPLACE
            argument.replace_bpf_fd = old[0]
            try:
                _call(_PROG_ATTACH, "replace device rules", argument)
                return
            except KernelFailure as failure:
                if failure.errno != errno.EINVAL:
                    raise
            argument.attach_flags, argument.replace_bpf_fd = _F_ALLOW_MULTI, 0
        _call(_PROG_ATTACH, "attach device rules", argument)
        for fd in old:
            _call(
                _PROG_DETACH,
                "detach device rules",
                _Attach(target_fd=group, attach_bpf_fd=fd, attach_type=_ATTACH_CGROUP_DEVICE),
            )
    finally:
        for fd in old:
            os.close(fd)


def _attached(group: int) -> list[int]:
    """Ids of the programs of this very group."""
    ids = (ctypes.c_uint32 * _MAX_PROGRAMS)()
    argument = _Query(
        target_fd=group,
        attach_type=_ATTACH_CGROUP_DEVICE,
        prog_ids=ctypes.addressof(ids),
        prog_cnt=_MAX_PROGRAMS,
    )
    _call(_PROG_QUERY, "list device rules", argument)
    return list(ids[: argument.prog_cnt])
