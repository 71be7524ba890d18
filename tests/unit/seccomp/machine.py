"""A classic BPF machine, to ask a filter what it answers without installing it."""

from __future__ import annotations

import ctypes
import ctypes.util
import struct
from typing import Any

AUDIT = {"x86_64": 0xC000003E, "x32": 0xC000003E, "x86": 0x40000003, "aarch64": 0xC00000B7, "arm": 0x40000028}

ALLOW, LOG, TRACE, TRAP, ERRNO, KILL, KILL_PROCESS, NOTIFY = (
    0x7FFF0000,
    0x7FFC0000,
    0x7FF00000,
    0x00030000,
    0x00050000,
    0,
    0x80000000,
    0x7FC00000,
)


def run(program: bytes, architecture: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """What the kernel would do: the filter's return value for one call."""
    values = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("=IIQ6Q", number & 0xFFFFFFFF, architecture, 0, *values)
    code = list(struct.iter_unpack("=HBBI", program))
    position = accumulator = 0
    while True:
        operation, true, false, value = code[position]
        position += 1
        match operation:
            case 0x20:
                assert value % 4 == 0
                (accumulator,) = struct.unpack_from("=I", data, value)
            case 0x54:
                accumulator &= value
            case 0x05:
                position += value
            case 0x15:
                position += true if accumulator == value else false
            case 0x25:
                position += true if accumulator > value else false
            case 0x35:
                position += true if accumulator >= value else false
            case 0x45:
                position += true if accumulator & value else false
            case 0x06:
                return int(value)
            case _:
                raise AssertionError(f"unknown instruction {operation:#x}")


class _Argument(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


_OPERATORS = {name: number for number, name in enumerate(("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"), start=1)}
_ACTIONS = {"SCMP_ACT_ALLOW": ALLOW, "SCMP_ACT_KILL": KILL, "SCMP_ACT_TRAP": TRAP, "SCMP_ACT_LOG": LOG}


def libseccomp() -> Any:
    """The reference compiler, or None where it is not installed."""
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return None
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_syscall_resolve_name_arch.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
    return library


def reference_filter(library: Any, profile: dict[str, Any], architectures: list[int]) -> bytes:
    """The same profile compiled by libseccomp. Rules: one condition list each, as runc hands them over."""
    import os

    def action(entry: dict[str, Any], key: str, errno_key: str) -> int:
        name = entry[key]
        return ERRNO | int(entry.get(errno_key, 1)) if name == "SCMP_ACT_ERRNO" else _ACTIONS[name]

    default = action(profile, "defaultAction", "defaultErrnoRet")
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(default)))
    assert context
    for token in architectures:
        library.seccomp_arch_add(context, ctypes.c_uint32(token))
    for rule in profile["syscalls"]:
        wanted = action(rule, "action", "errnoRet")
        arguments = [
            _Argument(
                one["index"], _OPERATORS[one["op"].removeprefix("SCMP_CMP_")], one["value"], one.get("valueTwo", 0)
            )
            for one in rule.get("args", [])
        ]
        for name in rule["names"]:
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number == -1 or wanted == default:
                continue
            array = (_Argument * max(1, len(arguments)))(*arguments)
            result = library.seccomp_rule_add_array(
                context, ctypes.c_uint32(wanted), ctypes.c_int(number), ctypes.c_uint(len(arguments)), array
            )
            assert result == 0, (name, result)
    fd = os.memfd_create("filter")
    try:
        assert library.seccomp_export_bpf(context, ctypes.c_int(fd)) == 0
        return os.pread(fd, 1 << 20, 0)
    finally:
        os.close(fd)
        library.seccomp_release(context)
