"""Docker's profile format to OCI's `linux.seccomp`, its conditions decided: capabilities, kernel, architecture.

Source: Docker documentation, "Seccomp security profiles for Docker"; runtime-spec config-linux.md#seccomp.
"""

from __future__ import annotations

from services.executor.runtime.errors import InvalidSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_FIELD = "HostConfig.SecurityOpt.seccomp"

# uname -m -> the name in "arches", the native architecture of "archMap"
_MACHINES = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "armv7l": ("arm", "SCMP_ARCH_ARM"),
    "i686": ("386", "SCMP_ARCH_X86"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
}
_CONDITIONS = frozenset({"caps", "arches", "minKernel"})


def resolve_profile(profile: dict[str, Any], capabilities: Iterable[str], kernel: str, machine: str) -> dict[str, Any]:
    """The profile as it applies to one container.

    Args:
        profile: Docker's JSON, decoded.
        capabilities: names ("CAP_…") that the container's bounding set has.
        kernel: release of the kernel, "6.1.0-13-amd64".
        machine: as `uname -m` says it.

    Raises:
        InvalidSpec: the profile contradicts itself or has conditions that are not known.
    """
    if not isinstance(profile, dict) or not isinstance(profile.get("defaultAction"), str):
        raise InvalidSpec(_FIELD, "the seccomp profile has no defaultAction")
    architecture, native = _MACHINES.get(machine, (machine, ""))
    resolved: dict[str, Any] = {"defaultAction": profile["defaultAction"]}
    for key in ("defaultErrnoRet", "flags", "listenerPath", "listenerMetadata"):
        if profile.get(key) is not None:
            resolved[key] = profile[key]
    resolved["architectures"] = _architectures(profile, native)
    held = frozenset(capabilities)
    resolved["syscalls"] = [
        _rule(entry) for entry in profile.get("syscalls") or () if _applies(entry, held, _version(kernel), architecture)
    ]
    return resolved


def _architectures(profile: dict[str, Any], native: str) -> list[str]:
    plain, mapped = profile.get("architectures") or [], profile.get("archMap") or []
    if plain and mapped:
        raise InvalidSpec(
            _FIELD,
            "both 'architectures' and 'archMap' were specified in the seccomp profile, "
            "use either 'architectures' or 'archMap'",
        )
    for entry in mapped:
        if entry.get("architecture") == native:
            return [native, *(entry.get("subArchitectures") or [])]
    return list(plain)


def _rule(entry: dict[str, Any]) -> dict[str, Any]:
    name, names = entry.get("name"), entry.get("names")
    if name and names:
        raise InvalidSpec(
            _FIELD, "both 'name' and 'names' were specified in the seccomp profile, use either 'name' or 'names'"
        )
    rule: dict[str, Any] = {"names": list(names or ([name] if name else [])), "action": entry.get("action")}
    for key in ("errnoRet", "args"):
        if entry.get(key) is not None:
            rule[key] = entry[key]
    return rule


def _applies(entry: dict[str, Any], held: frozenset[str], kernel: tuple[int, int], architecture: str) -> bool:
    includes, excludes = entry.get("includes") or {}, entry.get("excludes") or {}
    for name, condition in (("includes", includes), ("excludes", excludes)):
        if unknown := set(condition) - _CONDITIONS:
            raise InvalidSpec(_FIELD, f"unknown condition {sorted(unknown)[0]!r} in {name}")
    if includes.get("arches") and architecture not in includes["arches"]:
        return False
    if not set(includes.get("caps") or ()) <= held:
        return False
    if includes.get("minKernel") and kernel < _version(includes["minKernel"]):
        return False
    if architecture in (excludes.get("arches") or ()):
        return False
    if set(excludes.get("caps") or ()) & held:
        return False
    return not (excludes.get("minKernel") and kernel >= _version(excludes["minKernel"]))


def _version(text: str) -> tuple[int, int]:
    parts = text.split(".")
    try:
        minor = "".join(character for character in parts[1][:4] if character.isdigit())
        return int(parts[0]), int(minor)
    except (ValueError, IndexError):
        raise InvalidSpec(_FIELD, f'{text!r} is not a kernel version such as "4.8"') from None
