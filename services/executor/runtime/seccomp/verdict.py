"""What a compiled filter says of a call, asked before it is in force: afterwards a call is refused, or ends the caller.

Source: seccomp(2); kernel networking/filter.rst, "BPF engine and instruction set".
"""

from __future__ import annotations

import os
import struct

from services.executor.runtime.seccomp.filter import ACTIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# By what uname(2) says: audit architecture (linux/audit.h), and the numbers of the calls that are asked about. The
# whole table would have to be unpacked by each process that asks.
_MACHINES = {
    "x86_64": (
        0xC000003E,
        {"write": 1, "close": 3, "ioctl": 16, "sendmsg": 46, "recvmsg": 47, "clone": 56, "setsid": 112, "prctl": 157}
        | {"exit_group": 231},
    ),
    "aarch64": (
        0xC00000B7,
        {"ioctl": 29, "close": 57, "write": 64, "exit_group": 94, "setsid": 157, "prctl": 167, "sendmsg": 211}
        | {"recvmsg": 212, "clone": 220},
    ),
}
_LOAD, _JUMP, _AND, _RETURN = 0x20, 0x05, 0x54, 0x06
_TESTS: dict[int, Callable[[int, int], bool]] = {
    0x15: lambda value, wanted: value == wanted,
    0x25: lambda value, wanted: value > wanted,
    0x35: lambda value, wanted: value >= wanted,
    0x45: lambda value, wanted: bool(value & wanted),
}


def permits(program: bytes, calls: tuple[tuple[str, tuple[int, ...]], ...]) -> bool:
    """Whether a process under the filter may make all of these calls.

    Args:
        calls: Names with what is known of their arguments; the others count as 0.

    Returns:
        False also where it cannot be known: another architecture, an instruction that filters of ours do not have.
    """
    machine = _MACHINES.get(os.uname().machine)
    if machine is None:
        return False
    architecture, numbers = machine
    allowed = (ACTIONS["SCMP_ACT_ALLOW"], ACTIONS["SCMP_ACT_LOG"])
    return all(_result(program, numbers[name], architecture, arguments) in allowed for name, arguments in calls)


def _result(program: bytes, number: int, architecture: int, arguments: tuple[int, ...]) -> int | None:
    words = (*arguments, *(0 for _ in range(6 - len(arguments))))
    data = struct.pack("=iIQ6Q", number, architecture, 0, *words)
    at = value = 0
    while at < len(program) // 8:
        code, true, false, operand = struct.unpack_from("=HBBI", program, at * 8)
        at += 1
        if code == _RETURN:
            return operand  # type: ignore[no-any-return]
        if code == _LOAD:
            value = struct.unpack_from("=I", data, operand)[0]
        elif code == _AND:
            value &= operand
        elif code == _JUMP:
            at += operand
        elif code in _TESTS:
            at += true if _TESTS[code](value, operand) else false
        else:
            return None
    return None
