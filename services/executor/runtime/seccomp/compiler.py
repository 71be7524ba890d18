"""System call filters: OCI's `linux.seccomp`, checked and compiled to classic BPF.

Compiling costs milliseconds and needs nothing of the container, so it is done once per profile and the bytes are
kept (`CompiledFilter.pack`); the child only installs.

Source: runtime-spec config-linux.md#seccomp; seccomp(2); what they leave open is as in libseccomp and runc.
"""

from __future__ import annotations

import errno
import os

from services.executor.runtime.errors import InvalidSpec, NotSupported
from services.executor.runtime.kernel import bpf
from services.executor.runtime.seccomp import code as seccomp_code
from services.executor.runtime.seccomp.code import ARCHITECTURES
from services.executor.runtime.seccomp.filter import ACTIONS, FLAGS, NEW_LISTENER, CompiledFilter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from services.executor.runtime.seccomp.code import Argument

_WITH_ERRNO = frozenset({"SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"})

_NOTIFY = ACTIONS["SCMP_ACT_NOTIFY"]
OPERATORS: tuple[str, ...] = tuple("SCMP_CMP_" + name for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"))

# Known to the specification; their code cannot run on the machines above, so there is nothing to filter.
_FOREIGN_NAMES = (
    "MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 PPC64LE S390 S390X PARISC PARISC64 RISCV64 "
    "LOONGARCH64 M68K SH SHEB"
)
_FOREIGN = frozenset("SCMP_ARCH_" + name for name in _FOREIGN_NAMES.split())
_NATIVE = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64", "i686": "SCMP_ARCH_X86"}


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
        from services.executor.runtime.seccomp.profile import resolve_profile

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
        program = bpf.assemble(seccomp_code.program(architectures, rules, default))
    except ValueError as error:
        raise InvalidSpec("linux.seccomp.syscalls", str(error)) from error
    notifies = any(action == _NOTIFY for _, _, action in rules)
    return CompiledFilter(program, _flags(seccomp, notifies), *_listener(seccomp, notifies))


def _action(owner: dict[str, Any], key: str, errno_key: str, field: str) -> int:
    name = owner.get(key)
    if name not in ACTIONS:
        raise InvalidSpec(f"{field}.{key}", f"{name!r} is no action")
    number = owner.get(errno_key)
    if name not in _WITH_ERRNO:
        if number is not None:
            raise InvalidSpec(f"{field}.{errno_key}", f"{name} returns no error number")
        return ACTIONS[name]
    number = errno.EPERM if number is None else number
    if not isinstance(number, int) or not 0 <= number <= 0xFFFF:
        raise InvalidSpec(f"{field}.{errno_key}", f"{number!r} is not between 0 and 65535")
    return ACTIONS[name] | number


def _architectures(seccomp: dict[str, Any], native: str) -> list[str]:
    wanted = [native]
    for name in seccomp.get("architectures") or ():
        if name in ARCHITECTURES:
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
    flags = NEW_LISTENER if notifies else 0
    if seccomp.get("flags") is None:
        # as with runc: a filter by itself need not cost the process its speculation
        return flags | FLAGS["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]
    for name in seccomp["flags"]:
        if name not in FLAGS:
            raise InvalidSpec("linux.seccomp.flags", f"{name!r} is no flag")
        flags |= FLAGS[name]
    return flags


def _listener(seccomp: dict[str, Any], notifies: bool) -> tuple[str | None, str]:
    path, metadata = seccomp.get("listenerPath") or None, seccomp.get("listenerMetadata") or ""
    if metadata and not path:
        raise InvalidSpec("linux.seccomp.listenerMetadata", "needs linux.seccomp.listenerPath")
    if notifies and not path:
        raise InvalidSpec("linux.seccomp.listenerPath", "is needed by SCMP_ACT_NOTIFY")
    return path, metadata
