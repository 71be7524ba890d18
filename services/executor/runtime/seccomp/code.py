"""A profile's rules as code of classic BPF: by architecture, by number of the call, by its arguments.

    load architecture ─┬─ x86_64 ─ load number ─┬─ x32 bit ─ search tree ─ …
                       │                        └─ search tree ─┬─ return action
                       ├─ x86 ─ …                               ├─ compare arguments, return action or default
                       └─ other: kill                           └─ newer than the profile: ENOSYS

Source: seccomp(2); what the specification leaves open is as in libseccomp and runc.
"""

from __future__ import annotations

import errno

from services.executor.runtime.kernel import bpf
from services.executor.runtime.kernel.syscalls import X32_BIT, numbers
from services.executor.runtime.seccomp.filter import ACTIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from services.executor.runtime.kernel.bpf import Instruction

    Argument = tuple[int, str, int, int]
    """Index, operator, value, second value."""
    Rule = tuple[tuple[Argument, ...], int]
    """All of the arguments must match for the action (a seccomp return value); no arguments always match."""

_PERMISSIVE = frozenset({ACTIONS["SCMP_ACT_ALLOW"], ACTIONS["SCMP_ACT_LOG"]})
_KILL, _ERRNO = 0x00000000, 0x00050000

# name -> audit architecture, table, registers of 64 bits. linux/audit.h
ARCHITECTURES = {
    "SCMP_ARCH_X86_64": (0xC000003E, "x86_64", True),
    "SCMP_ARCH_X32": (0xC000003E, "x32", False),
    "SCMP_ARCH_X86": (0x40000003, "x86", False),
    "SCMP_ARCH_AARCH64": (0xC00000B7, "aarch64", True),
    "SCMP_ARCH_ARM": (0x40000028, "arm", False),
}

# struct seccomp_data: int nr, u32 arch, u64 instruction_pointer, u64 args[6]
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16

# x86 has one call for all of sockets: allowing "bind" must allow that call with bind's number (linux/net.h).
_SOCKET_NAMES = (
    "socket bind connect listen accept getsockname getpeername socketpair send recv sendto recvfrom shutdown "
    "setsockopt getsockopt sendmsg recvmsg accept4 recvmmsg sendmmsg"
)
_SOCKETCALLS = {name: number for number, name in enumerate(_SOCKET_NAMES.split(), start=1)}
# and one for System V's (linux/ipc.h)
_IPC_CALLS = {
    "semop": 1,
    "semget": 2,
    "semctl": 3,
    "semtimedop": 4,
    "msgsnd": 11,
    "msgrcv": 12,
    "msgget": 13,
    "msgctl": 14,
    "shmat": 21,
    "shmdt": 22,
    "shmget": 23,
    "shmctl": 24,
}


def program(
    architectures: list[str], rules: list[tuple[str, tuple[Argument, ...], int]], default: int
) -> list[Instruction]:
    """The whole filter: for each architecture (keys of `ARCHITECTURES`) the rules by name, else the default."""
    code = [bpf.load(_ARCHITECTURE)]
    by_audit: dict[int, list[str]] = {}
    for name in architectures:
        by_audit.setdefault(ARCHITECTURES[name][0], []).append(name)
    for audit, members in by_audit.items():
        section = [bpf.load(_NUMBER), *_section(members, rules, default)]
        # A section outgrows the 8 bits of a conditional jump.
        code += [bpf.jump(bpf.JEQ, audit, true=1), (bpf.JA, 0, 0, len(section)), *section]
    code.append(bpf.ret(_KILL))
    return code


def _section(members: list[str], rules: list[tuple[str, tuple[Argument, ...], int]], default: int) -> list[Instruction]:
    """Code for the architectures that share an audit number: one, or x86_64 and x32, told apart by a bit."""
    starts: list[int] = []
    outcomes: list[tuple[Rule, ...]] = []

    def interval(start: int, outcome: tuple[Rule, ...]) -> None:
        if not outcomes or outcomes[-1] != outcome:
            starts.append(start)
            outcomes.append(outcome)

    by_default: tuple[Rule, ...] = (((), default),)
    # What was not there when the profile was written: old software copes with ENOSYS, but not with EPERM.
    newer = by_default if default in _PERMISSIVE else (((), _ERRNO | errno.ENOSYS),)
    tables = {table: wide for _, table, wide in (ARCHITECTURES[name] for name in members)}
    for table, wide in sorted(tables.items(), key=lambda item: item[0] == "x32"):
        base = X32_BIT if table == "x32" else 0
        calls = _calls(table, wide, rules)
        position = 0
        for number in sorted(calls):
            if number > position:
                interval(base + position, by_default)
            interval(base + number, (*(rule for rule in calls[number] if rule[1] != default), *by_default))
            position = number + 1
        interval(base + position, newer if calls else by_default)
    if "x86_64" in tables and "x32" not in tables and newer == by_default:
        interval(X32_BIT, (((), _KILL),))
    return bpf.search_tree(starts, lambda index: _leaf(outcomes[index]))


def _calls(table: str, wide: bool, rules: list[tuple[str, tuple[Argument, ...], int]]) -> dict[int, tuple[Rule, ...]]:
    """The rules by number of the call; one without arguments comes first and hides the others."""
    known = numbers(table)
    found: dict[int, list[Rule]] = {}
    for name, arguments, action in rules:
        number = known.get(name)
        if number is not None:
            found.setdefault(number, []).append((_narrowed(arguments, wide), action))
        if table == "x86" and not arguments:
            for shared, numbered in (("socketcall", _SOCKETCALLS), ("ipc", _IPC_CALLS)):
                if name in numbered:
                    argument = (0, "SCMP_CMP_EQ", numbered[name], 0)
                    found.setdefault(known[shared], []).append(((argument,), action))
    return {number: _effective(entries) for number, entries in found.items()}


def _narrowed(arguments: tuple[Argument, ...], wide: bool) -> tuple[Argument, ...]:
    """For registers of 32 bits the upper half of a value has nothing to be compared with."""
    if wide:
        return arguments
    return tuple((index, operator, one & 0xFFFFFFFF, two & 0xFFFFFFFF) for index, operator, one, two in arguments)


def _effective(entries: list[Rule]) -> tuple[Rule, ...]:
    for arguments, action in entries:
        if not arguments:
            return (((), action),)
    return tuple(dict.fromkeys(entries))


def _leaf(outcome: tuple[Rule, ...]) -> list[Instruction]:
    code: list[Instruction] = []
    for arguments, action in outcome:
        fragment = [instruction for argument in arguments for instruction in _comparison(*argument)]
        code += bpf.patched([*fragment, bpf.ret(action)])
        if not arguments:
            break
    return code


def _comparison(index: int, operator: str, value: int, second: int) -> list[Instruction]:
    """Compare an argument of 64 bits by halves; go on when it matches, to the end of the fragment when not."""
    low = bpf.load(_ARGUMENTS + 8 * index)
    high = bpf.load(_ARGUMENTS + 8 * index + 4)
    high_value, low_value = value >> 32, value & 0xFFFFFFFF
    fail = bpf.FAIL
    if operator == "SCMP_CMP_MASKED_EQ":
        second &= value
        code: list[Instruction] = []
        for load, mask, wanted in ((high, high_value, second >> 32), (low, low_value, second & 0xFFFFFFFF)):
            if mask:
                code += [load, (bpf.ALU_AND, 0, 0, mask), bpf.jump(bpf.JEQ, wanted, false=fail)]
        return code
    if operator == "SCMP_CMP_EQ":
        return [high, bpf.jump(bpf.JEQ, high_value, false=fail), low, bpf.jump(bpf.JEQ, low_value, false=fail)]
    if operator == "SCMP_CMP_NE":
        return [high, bpf.jump(bpf.JEQ, high_value, false=2), low, bpf.jump(bpf.JEQ, low_value, true=fail)]
    comparison = bpf.JGE if operator in {"SCMP_CMP_GE", "SCMP_CMP_LT"} else bpf.JGT
    if operator in {"SCMP_CMP_GT", "SCMP_CMP_GE"}:
        return [
            high,
            bpf.jump(bpf.JGT, high_value, true=3),
            bpf.jump(bpf.JEQ, high_value, false=fail),
            low,
            bpf.jump(comparison, low_value, false=fail),
        ]
    return [
        high,
        bpf.jump(bpf.JGT, high_value, true=fail),
        bpf.jump(bpf.JEQ, high_value, false=2),
        low,
        bpf.jump(comparison, low_value, true=fail),
    ]
