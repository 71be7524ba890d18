"""v2 `memory`: limit, swap beside it, protection, events; and pressure.

Source: kernel cgroup-v2.rst#memory. v1 (and OCI) limit memory and swap together, v2 swap by itself.
"""

from __future__ import annotations

import ctypes
import os

from services.executor.runtime.cgroups import files
from services.executor.runtime.cgroups.v2 import pressure
from services.executor.runtime.errors import InvalidSpec, NotSupported
from services.executor.runtime.kernel import calls as kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from services.executor.runtime.cgroups.interface import Resources, Stats

NAME = "memory"
_FIELD = "linux.resources.memory"
_IN_MODIFY, _IN_CLOEXEC, _IN_NONBLOCK = 0x2, os.O_CLOEXEC, os.O_NONBLOCK


def wanted(resources: Resources) -> str | None:
    memory = files.section(resources, "memory")
    if memory.get("swappiness") is not None:
        return f"{_FIELD}.swappiness"
    keys = ("limit", "reservation", "swap", "kernel", "kernelTCP", "disableOOMKiller", "checkBeforeUpdate")
    return next((f"{_FIELD}.{key}" for key in keys if memory.get(key)), None)


def validate(directory: str, resources: Resources) -> None:
    memory = files.section(resources, "memory")
    if memory.get("swappiness") is not None:
        raise NotSupported(f"{_FIELD}.swappiness", "cgroup v2 has no swappiness of a group")
    if memory.get("disableOOMKiller"):
        raise NotSupported(f"{_FIELD}.disableOOMKiller", "cgroup v2 cannot switch the OOM killer off")
    for key in ("kernel", "kernelTCP"):
        if (memory.get(key) or -1) != -1:
            raise NotSupported(f"{_FIELD}.{key}", "cgroup v2 has no limit of its own for kernel memory")
    if memory.get("useHierarchy") is False:
        raise NotSupported(f"{_FIELD}.useHierarchy", "cgroup v2 always accounts hierarchically")


def swap_limit(limit: int, swap: int) -> int:
    """memory.swap.max for OCI's sum of memory and swap; -1 unlimited; 0 unchanged unless both were given and equal.

    Raises:
        InvalidSpec: a sum without the memory in it.
    """
    if swap in {0, -1}:
        # No limit of memory leaves nothing that swap could be counted on top of.
        return -1 if limit == -1 else swap
    if limit <= 0:
        raise InvalidSpec(f"{_FIELD}.swap", f"needs {_FIELD}.limit beside it")
    return swap - limit


def apply(directory: str, resources: Resources) -> None:
    memory = files.section(resources, "memory")
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    if memory.get("checkBeforeUpdate"):
        _check_usage(directory, limit, swap)
    swap_max = swap_limit(limit or _limit_in_force(directory), swap)
    # Without swap on this machine, "none" and "unlimited" are what there is anyway.
    if (swap or swap_max) and (swap_max > 0 or os.path.exists(f"{directory}/memory.swap.max")):
        files.write(directory, "memory.swap.max", _text(swap_max), field=f"{_FIELD}.swap")
    if limit:
        files.write(directory, "memory.max", _text(limit), field=f"{_FIELD}.limit")
    if memory.get("reservation"):
        files.write(directory, "memory.low", _text(memory["reservation"]), field=f"{_FIELD}.reservation")


def _limit_in_force(directory: str) -> int:
    limit = files.read_int(directory, "memory.max")
    return 0 if limit == files.UNLIMITED else limit


def _text(value: int) -> str:
    return "max" if value == -1 else str(value)


def _check_usage(directory: str, limit: int, swap: int) -> None:
    """Refuse a limit below what is in use. On v2 the kernel would take it, and kill until it holds."""
    usage = files.read_int(directory, "memory.current")
    if 0 < limit < usage:
        raise InvalidSpec(f"{_FIELD}.limit", f"{limit} is less than the {usage} bytes in use (checkBeforeUpdate)")
    swapped = files.read_int(directory, "memory.swap.current")
    if swap > 0 and swap - limit < swapped:
        raise InvalidSpec(f"{_FIELD}.swap", f"{swap} leaves less than the {swapped} bytes swapped (checkBeforeUpdate)")


def stats(directory: str, into: Stats) -> None:
    raw = files.flat(files.read_optional(directory, "memory.stat"))
    events = files.flat(files.read_optional(directory, "memory.events"))
    usage = _entry(directory, "memory.", "max", events.get("max", 0))
    swap = _entry(directory, "memory.swap.", "max", 0)
    # The sum, as on v1.
    swap["usage"] += usage["usage"]
    if swap["limit"] != files.UNLIMITED:
        swap["limit"] = min(swap["limit"] + usage["limit"], files.UNLIMITED)
    memory = {"cache": raw.get("file", 0), "usage": usage, "swap": swap, "raw": raw}
    memory["kernel"] = {"limit": files.UNLIMITED, "usage": raw.get("kernel", 0), "max": 0, "failcnt": 0}
    pressure.add(directory, "memory.pressure", memory)
    into["memory"] = memory


def _entry(directory: str, prefix: str, limit: str, failures: int) -> dict[str, int]:
    return {
        "limit": files.read_int(directory, prefix + limit, files.UNLIMITED),
        "usage": files.read_int(directory, prefix + "current"),
        "max": files.read_int(directory, prefix + "peak"),
        "failcnt": failures,
    }


def oom_kill_count(directory: str) -> int:
    """Processes killed here or below."""
    return files.flat(files.read_optional(directory, "memory.events")).get("oom_kill", 0)


def oom_notify_fd(directory: str) -> int:
    """An inotify descriptor on memory.events. Source: cgroup-v2.rst, "generates a file modified event"."""
    libc = kernel.libc
    fd = kernel.check(libc.inotify_init1(ctypes.c_int(_IN_CLOEXEC | _IN_NONBLOCK)), "inotify_init1")
    path = f"{directory}/memory.events"
    try:
        watch = libc.inotify_add_watch(
            ctypes.c_int(fd), ctypes.c_char_p(os.fsencode(path)), ctypes.c_uint32(_IN_MODIFY)
        )
        kernel.check(watch, "inotify_add_watch", path)
    except BaseException:
        os.close(fd)
        raise
    return fd
