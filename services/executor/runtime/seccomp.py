"""System call filters: OCI's `linux.seccomp` compiled to classic BPF, and its installation.

Compiling costs milliseconds and needs nothing of the container, so it is done once per profile and the bytes are
kept (`CompiledFilter.pack`); the child only installs.

    load architecture ─┬─ x86_64 ─ load number ─┬─ x32 bit ─ search tree ─ …
                       │                        └─ search tree ─┬─ return action
                       ├─ x86 ─ …                               ├─ compare arguments, return action or default
                       └─ other: kill                           └─ newer than the profile: ENOSYS

Source: runtime-spec config-linux.md#seccomp; seccomp(2); what they leave open is as in libseccomp and runc.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from services.executor.runtime import bpf, kernel
from services.executor.runtime.errors import InvalidSpec, KernelFailure, NotSupported
from services.executor.runtime.syscalls import X32_BIT, numbers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from services.executor.runtime.bpf import Instruction

_ACTIONS = {
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
ACTIONS: tuple[str, ...] = tuple(_ACTIONS)
_WITH_ERRNO = frozenset({"SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"})
_PERMISSIVE = frozenset({_ACTIONS["SCMP_ACT_ALLOW"], _ACTIONS["SCMP_ACT_LOG"]})
_KILL, _ERRNO, _NOTIFY = 0x00000000, 0x00050000, 0x7FC00000

OPERATORS: tuple[str, ...] = tuple("SCMP_CMP_" + name for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"))

# A child is single-threaded when it installs its filter, so TSYNC has nothing to synchronize and is left out.
_FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 0,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 0x20,
}
FLAGS: tuple[str, ...] = tuple(_FLAGS)
_NEW_LISTENER = 8

# name -> audit architecture, table, registers of 64 bits. linux/audit.h
_ARCHITECTURES = {
    "SCMP_ARCH_X86_64": (0xC000003E, "x86_64", True),
    "SCMP_ARCH_X32": (0xC000003E, "x32", False),
    "SCMP_ARCH_X86": (0x40000003, "x86", False),
    "SCMP_ARCH_AARCH64": (0xC00000B7, "aarch64", True),
    "SCMP_ARCH_ARM": (0x40000028, "arm", False),
}
# Known to the specification; their code cannot run on the machines above, so there is nothing to filter.
_FOREIGN_NAMES = (
    "MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 PPC64LE S390 S390X PARISC PARISC64 RISCV64 "
    "LOONGARCH64 M68K SH SHEB"
)
_FOREIGN = frozenset("SCMP_ARCH_" + name for name in _FOREIGN_NAMES.split())
ARCHITECTURES: tuple[str, ...] = tuple(_ARCHITECTURES)
_NATIVE = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64", "i686": "SCMP_ARCH_X86"}

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

if TYPE_CHECKING:
    Argument = tuple[int, str, int, int]
    """Index, operator, value, second value."""
    Rule = tuple[tuple[Argument, ...], int]
    """All of the arguments must match for the action (a seccomp return value); no arguments always match."""


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


def compile_profile(
    profile: dict[str, Any], capabilities: Iterable[str] = (), machine: str | None = None
) -> CompiledFilter:
    """The filter for a profile in OCI's format, or in Docker's, whose conditions are decided first.

    Args:
        capabilities: names that the container may have; of meaning to Docker's format only.

    Raises:
        InvalidSpec, NotSupported: as `compile_filter`.
    """
    machine = machine or os.uname().machine
    conditional = any(rule.get("includes") or rule.get("excludes") for rule in profile.get("syscalls") or ())
    if profile.get("archMap") or conditional:
        from services.executor.runtime.seccomp_profile import resolve_profile

        profile = resolve_profile(profile, capabilities, os.uname().release, machine)
    return compile_filter(profile, machine)


def compile_filter(seccomp: dict[str, Any], machine: str | None = None) -> CompiledFilter:
    """The filter for `linux.seccomp`.

    Calls that a profile names and we do not know are left out. The machine's own architecture is always part of the
    filter; other architectures that are not kill the caller. Unless the default lets calls through, calls newer than
    any that the profile names answer ENOSYS, so that C libraries fall back to what they did before there were such.

    Args:
        machine: as `uname -m` says it; this machine by default.

    Raises:
        InvalidSpec: names the field.
        NotSupported: the machine has no tables here.
    """
    machine = machine or os.uname().machine
    if machine not in _NATIVE:
        raise NotSupported("linux.seccomp", f"system calls of {machine} are not known")
    default = _action(seccomp, "defaultAction", "defaultErrnoRet", "linux.seccomp")
    if default == _NOTIFY:
        raise InvalidSpec("linux.seccomp.defaultAction", "SCMP_ACT_NOTIFY cannot be used as default action")
    architectures = _architectures(seccomp, _NATIVE[machine])
    rules = _rules(seccomp, default)
    try:
        program = bpf.assemble(_program(architectures, rules, default))
    except ValueError as error:
        raise InvalidSpec("linux.seccomp.syscalls", str(error)) from error
    notifies = any(action == _NOTIFY for _, _, action in rules)
    return CompiledFilter(program, _flags(seccomp, notifies), *_listener(seccomp, notifies))


def _action(owner: dict[str, Any], key: str, errno_key: str, field: str) -> int:
    name = owner.get(key)
    if name not in _ACTIONS:
        raise InvalidSpec(f"{field}.{key}", f"{name!r} is no action")
    number = owner.get(errno_key)
    if name not in _WITH_ERRNO:
        if number is not None:
            raise InvalidSpec(f"{field}.{errno_key}", f"{name} returns no error number")
        return _ACTIONS[name]
    number = errno.EPERM if number is None else number
    if not isinstance(number, int) or not 0 <= number <= 0xFFFF:
        raise InvalidSpec(f"{field}.{errno_key}", f"{number!r} is not between 0 and 65535")
    return _ACTIONS[name] | number


def _architectures(seccomp: dict[str, Any], native: str) -> list[str]:
    wanted = [native]
    for name in seccomp.get("architectures") or ():
        if name in _ARCHITECTURES:
            if name not in wanted:
                wanted.append(name)
        elif name not in _FOREIGN:
            raise InvalidSpec("linux.seccomp.architectures", f"{name!r} is no architecture")
    return wanted


def _rules(seccomp: dict[str, Any], default: int) -> list[tuple[str, tuple[Argument, ...], int]]:
    """Name, arguments, action; one for each alternative."""
    found: list[tuple[str, tuple[Argument, ...], int]] = []
    for index, entry in enumerate(seccomp.get("syscalls") or ()):
        field = f"linux.seccomp.syscalls[{index}]"
        action = _action(entry, "action", "errnoRet", field)
        names = entry.get("names")
        if not names or not all(isinstance(name, str) and name for name in names):
            raise InvalidSpec(f"{field}.names", "must name at least one system call")
        if action == _NOTIFY and "write" in names:
            # The runtime itself writes between the installation and the hand-over of the listener.
            raise InvalidSpec(f"{field}.action", "SCMP_ACT_NOTIFY cannot be used for the write syscall")
        arguments = tuple(
            _argument(argument, f"{field}.args[{number}]") for number, argument in enumerate(entry.get("args") or ())
        )
        for alternative in _alternatives(arguments):
            found += [(name, alternative, action) for name in names]
    return found


def _argument(argument: dict[str, Any], field: str) -> Argument:
    index, operator = argument.get("index"), argument.get("op")
    if not isinstance(index, int) or not 0 <= index <= 5:
        raise InvalidSpec(f"{field}.index", f"{index!r} is not between 0 and 5")
    if operator not in OPERATORS:
        raise InvalidSpec(f"{field}.op", f"{operator!r} is no operator")
    values = [argument.get(key) or 0 for key in ("value", "valueTwo")]
    if not all(isinstance(value, int) and 0 <= value < 2**64 for value in values):
        raise InvalidSpec(f"{field}.value", "is not a number of 64 bits")
    return index, str(operator), values[0], values[1]


def _alternatives(arguments: tuple[Argument, ...]) -> list[tuple[Argument, ...]]:
    """As runc: several conditions on one argument are alternatives, all others hold together."""
    indices = [argument[0] for argument in arguments]
    if len(set(indices)) < len(indices):
        return [(argument,) for argument in arguments]
    return [arguments]


def _flags(seccomp: dict[str, Any], notifies: bool) -> int:
    flags = _NEW_LISTENER if notifies else 0
    if seccomp.get("flags") is None:
        # as with runc: a filter by itself need not cost the process its speculation
        return flags | _FLAGS["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]
    for name in seccomp["flags"]:
        if name not in _FLAGS:
            raise InvalidSpec("linux.seccomp.flags", f"{name!r} is no flag")
        flags |= _FLAGS[name]
    return flags


def _listener(seccomp: dict[str, Any], notifies: bool) -> tuple[str | None, str]:
    path, metadata = seccomp.get("listenerPath") or None, seccomp.get("listenerMetadata") or ""
    if metadata and not path:
        raise InvalidSpec("linux.seccomp.listenerMetadata", "needs linux.seccomp.listenerPath")
    if notifies and not path:
        raise InvalidSpec("linux.seccomp.listenerPath", "is needed by SCMP_ACT_NOTIFY")
    return path, metadata


def _program(
    architectures: list[str], rules: list[tuple[str, tuple[Argument, ...], int]], default: int
) -> list[Instruction]:
    program = [bpf.load(_ARCHITECTURE)]
    by_audit: dict[int, list[str]] = {}
    for name in architectures:
        by_audit.setdefault(_ARCHITECTURES[name][0], []).append(name)
    for audit, members in by_audit.items():
        section = [bpf.load(_NUMBER), *_section(members, rules, default)]
        # A section outgrows the 8 bits of a conditional jump.
        program += [bpf.jump(bpf.JEQ, audit, true=1), (bpf.JA, 0, 0, len(section)), *section]
    program.append(bpf.ret(_KILL))
    return program


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
    tables = {table: wide for _, table, wide in (_ARCHITECTURES[name] for name in members)}
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


_SYSCALL_NUMBER = {"x86_64": 317, "aarch64": 277, "armv7l": 383, "i686": 354}
_SET_MODE_FILTER, _GET_ACTION_AVAILABLE = 1, 2


class _FilterProgram(ctypes.Structure):
    """struct sock_fprog of linux/filter.h."""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def install(compiled: CompiledFilter) -> int | None:
    """CompiledFilter the calling process from now on, irrevocably; needs no_new_privs or CAP_SYS_ADMIN.

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
    return result if compiled.flags & _NEW_LISTENER else None


def _seccomp(operation: int, flags: int, argument: object) -> int:
    number = _SYSCALL_NUMBER.get(os.uname().machine)
    if number is None:
        raise NotSupported("linux.seccomp", f"seccomp(2) is not known on {os.uname().machine}")
    return kernel.call("seccomp", "", number, ctypes.c_uint(operation), ctypes.c_uint(flags), argument)


def supported_flags() -> list[str]:
    """Which of `FLAGS` this kernel takes: without a program it says EFAULT to those, EINVAL to others."""
    found = []
    for name, flag in _FLAGS.items():
        # Only makes sense, and is only taken, with a listener.
        extra = _NEW_LISTENER if name.endswith("WAIT_KILLABLE_RECV") else 0
        try:
            _seccomp(_SET_MODE_FILTER, flag | extra, None)
        except KernelFailure as failure:
            if failure.errno == errno.EFAULT:
                found.append(name)
    return found


def supported_actions() -> list[str]:
    """Which of `ACTIONS` this kernel knows."""
    found = []
    for name, action in _ACTIONS.items():
        try:
            _seccomp(_GET_ACTION_AVAILABLE, 0, ctypes.byref(ctypes.c_uint32(action)))
        except KernelFailure as failure:
            if failure.errno != errno.EOPNOTSUPP:
                raise
        else:
            found.append(name)
    return found
