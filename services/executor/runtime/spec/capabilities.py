"""Capabilities: names and numbers, the five sets of a process, and Docker's way of adding and dropping them.

Source: capabilities(7), linux/capability.h; runtime-spec config.md#linux-process; Docker Engine API, HostConfig.CapAdd.
"""

from __future__ import annotations

import ctypes
import errno

from services.executor.runtime.errors import InvalidSpec, KernelFailure
from services.executor.runtime.kernel import calls as kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_NAMES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT "
    "SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL "
    "SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)
NAMES: tuple[str, ...] = tuple("CAP_" + name for name in _NAMES.split())
"""By number: `NAMES[21] == "CAP_SYS_ADMIN"`."""

NUMBERS: dict[str, int] = {name: number for number, name in enumerate(NAMES)}

_DEFAULT = (
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL "
    "AUDIT_WRITE"
)
DEFAULT: tuple[str, ...] = tuple("CAP_" + name for name in _DEFAULT.split())
"""What a container has unless it says otherwise: Docker's fourteen, in its order."""

SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")

_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_CAP_AMBIENT = 23, 24, 47
_PR_CAP_AMBIENT_RAISE, _PR_CAP_AMBIENT_CLEAR_ALL = 2, 4
_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Data(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


def mask(names: Iterable[str]) -> int:
    """A set of names as bits. Names that no kernel has are left out, with which runc only warns."""
    bits = 0
    for name in names:
        number = NUMBERS.get(name)
        if number is not None:
            bits |= 1 << number
    return bits


def names(bits: int) -> list[str]:
    """The names of the bits that are set, by number; bits without a name are left out."""
    return [name for number, name in enumerate(NAMES) if bits >> number & 1]


def current() -> dict[str, int]:
    """The calling process's sets as bits, by the names that OCI gives them. Source: proc_pid_status(5)."""
    keys = {"CapInh": "inheritable", "CapPrm": "permitted", "CapEff": "effective", "CapBnd": "bounding"}
    keys["CapAmb"] = "ambient"
    with open("/proc/self/status", encoding="utf-8", errors="replace") as status:
        pairs = (line.rstrip("\n").partition(":\t") for line in status if line.startswith("Cap"))
        return {keys[key]: int(value, 16) for key, _, value in pairs if key in keys}


def permitted() -> int:
    """The caller's permitted set as bits, by capget(2): it works where /proc is of another pid namespace."""
    data = (_Data * 2)()
    header = _Header(_VERSION_3, 0)
    kernel.check(kernel.libc.capget(ctypes.byref(header), ctypes.byref(data)), "capget", "")
    return int(data[0].permitted) | int(data[1].permitted) << 32


def unknown(capabilities: dict[str, Any]) -> list[str]:
    """Names in any of the sets that mean nothing here: they are left out, and whoever runs the container is told."""
    found = {name: None for key in SETS for name in capabilities.get(key) or () if name not in NUMBERS}
    return list(found)


def not_ambient(capabilities: dict[str, Any]) -> list[str]:
    """Names that are to be ambient, and cannot: they are not both permitted and inheritable (capabilities(7))."""
    both = set(capabilities.get("permitted") or ()) & set(capabilities.get("inheritable") or ())
    return [name for name in capabilities.get("ambient") or () if name in NUMBERS and name not in both]


def validate(capabilities: dict[str, Any] | None) -> None:
    """Refuse sets that are none. Names that are not known are no reason (runtime-spec config.md "Linux Process").

    Raises:
        InvalidSpec: there is no such set, or it is not a list of names.
    """
    sets = capabilities or {}
    for key in sets:
        if key not in SETS:
            raise InvalidSpec(f"process.capabilities.{key}", f"is none of the sets {', '.join(SETS)}")
        for name in sets[key] or ():
            if not isinstance(name, str):
                raise InvalidSpec(f"process.capabilities.{key}", f"{name!r} is not the name of a capability")


def drop_bounding(sets: dict[str, Any]) -> None:
    """Drop everything but `sets["bounding"]` from the bounding set, also what is newer than our names.

    Comes before the change of user, while CAP_SETPCAP is still there.

    Raises:
        KernelFailure: EPERM.
    """
    keep = mask(sets.get("bounding") or ())
    for number in range(64):
        if keep >> number & 1:
            continue
        try:
            if kernel.prctl(_PR_CAPBSET_READ, number):
                kernel.prctl(_PR_CAPBSET_DROP, number)
        except KernelFailure as failure:
            if failure.errno == errno.EINVAL:
                return  # past the last capability of this kernel
            raise


def apply(sets: dict[str, Any]) -> None:
    """Set effective, permitted and inheritable, then ambient, which needs permitted and inheritable to be there.

    Comes after the change of user, with keep-caps armed before it, and `clear_ambient`. An absent set is an empty one.

    Raises:
        KernelFailure: EPERM, the sets have what this process does not.
    """
    bits = {name: mask(sets.get(name) or ()) for name in SETS}
    capset(bits["effective"], bits["permitted"], bits["inheritable"])
    _raise_ambient(bits["ambient"])


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2) of the calling process.

    Raises:
        KernelFailure: EPERM, permitted would grow, or effective is not within permitted.
    """
    data = (_Data * 2)()
    for half in range(2):
        shift = 32 * half
        data[half].effective = effective >> shift & 0xFFFFFFFF
        data[half].permitted = permitted >> shift & 0xFFFFFFFF
        data[half].inheritable = inheritable >> shift & 0xFFFFFFFF
    header = _Header(_VERSION_3, 0)
    kernel.check(kernel.libc.capset(ctypes.byref(header), ctypes.byref(data)), "capset", hex(permitted))


def clear_ambient() -> None:
    """Empty the ambient set; a kernel before 4.3 has none."""
    try:
        kernel.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    except KernelFailure as failure:
        if failure.errno != errno.EINVAL:
            raise


def _raise_ambient(bits: int) -> None:
    """Those that are not both permitted and inheritable are skipped, as in runc."""
    for number in range(64):
        if bits >> number & 1:
            try:
                kernel.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number)
            except KernelFailure as failure:
                if failure.errno not in {errno.EPERM, errno.EINVAL}:
                    raise


def available() -> list[str]:
    """What a privileged container can be given: all that this process may hand on."""
    return names(current()["permitted"])


def docker_capabilities(
    add: Iterable[str] | None,
    drop: Iterable[str] | None,
    privileged: bool = False,
    *,
    all_names: list[str] | None = None,
) -> list[str]:
    """Docker's arithmetic of CapAdd, CapDrop and Privileged.

    "ALL" added means everything but what is dropped; "ALL" dropped means nothing but what is added; otherwise the
    default fourteen less the dropped, then the added. Names go with or without "CAP_", in any case.

    Args:
        all_names: what "ALL" and privileged stand for; by default what this process may hand on, since more than that
            would keep every such container from starting.

    Raises:
        InvalidSpec: an unknown name; `message` ends in Docker's words.
    """
    adds = _normalized(add, "CapAdd")
    drops = _normalized(drop, "CapDrop")
    everything = available() if all_names is None else all_names
    if privileged:
        return list(everything)
    if "ALL" in adds:
        return [name for name in everything if name not in drops]
    if "ALL" in drops:
        return adds
    kept = [name for name in DEFAULT if name not in drops]
    return kept + [name for name in adds if name not in kept]


def _normalized(given: Iterable[str] | None, field: str) -> list[str]:
    result: list[str] = []
    for text in given or ():
        name = text.strip().upper()
        if name == "ALL":
            result.append(name)
            continue
        if not name.startswith("CAP_"):
            name = "CAP_" + name
        if name not in NUMBERS:
            failure = InvalidSpec(f"HostConfig.{field}", f'unknown capability: "{text}"')
            failure.message = f'invalid {field}: unknown capability: "{name}"'
            failure.args = (failure.message,)
            raise failure
        if name not in result:
            result.append(name)
    return result
