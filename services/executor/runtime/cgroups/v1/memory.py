"""v1 `memory`: limits with and without swap, reservation, kernel buffers, swappiness, what to do when it runs out.

Source: kernel cgroup-v1/memory.rst; runtime-spec config-linux.md#memory.
"""

from __future__ import annotations

import errno
import os

from services.executor.runtime.cgroups import files
from services.executor.runtime.errors import InvalidSpec, KernelFailure, NotSupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from services.executor.runtime.cgroups.interface import Resources, Stats

NAME = "memory"
_LIMIT, _SWAP = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
_OTHERS = (
    ("reservation", "memory.soft_limit_in_bytes"),
    # Deprecated: the kernel still takes kernel's number, but enforces nothing since Linux 5.11 or so.
    ("kernel", "memory.kmem.limit_in_bytes"),
    ("kernelTCP", "memory.kmem.tcp.limit_in_bytes"),
)
_USAGES = (("usage", ""), ("swap", "memsw."), ("kernel", "kmem."), ("kernelTCP", "kmem.tcp."))


def wanted(resources: Resources) -> str | None:
    memory = files.section(resources, "memory")
    keys = ("limit", "reservation", "swap", "kernel", "kernelTCP", "disableOOMKiller", "checkBeforeUpdate")
    if memory.get("swappiness") is not None:
        return "linux.resources.memory.swappiness"
    return next((f"linux.resources.memory.{key}" for key in keys if memory.get(key)), None)


def validate(directory: str, resources: Resources) -> None:
    memory = files.section(resources, "memory")
    if (memory.get("swap") or 0) > 0 and not os.path.exists(f"{directory}/{_SWAP}"):
        raise NotSupported("linux.resources.memory.swap", "this kernel does not account for swap")
    if memory.get("useHierarchy") is False and not os.path.exists(f"{directory}/memory.use_hierarchy"):
        raise NotSupported("linux.resources.memory.useHierarchy", "this kernel always accounts hierarchically")


def apply(directory: str, resources: Resources) -> None:
    memory = files.section(resources, "memory")
    if memory.get("useHierarchy") is not None:
        value = int(memory["useHierarchy"])
        # Only 1 is left to be written since Linux 5.11.
        if files.read_int(directory, "memory.use_hierarchy", 1) != value:
            files.write(directory, "memory.use_hierarchy", value, field="linux.resources.memory.useHierarchy")
    _apply_limits(directory, memory.get("limit") or 0, memory.get("swap") or 0, bool(memory.get("checkBeforeUpdate")))
    for key, name in _OTHERS:
        if memory.get(key):
            files.write(directory, name, memory[key], field=f"linux.resources.memory.{key}")
    if memory.get("disableOOMKiller"):
        files.write(directory, "memory.oom_control", 1, field="linux.resources.memory.disableOOMKiller")
    if memory.get("swappiness") is not None:
        files.write(directory, "memory.swappiness", memory["swappiness"], field="linux.resources.memory.swappiness")


def _apply_limits(directory: str, limit: int, swap: int, check: bool) -> None:
    # Unlimited memory below a finite sum of memory and swap is impossible, so that goes too.
    if limit == -1 and swap == 0 and os.path.exists(f"{directory}/{_SWAP}"):
        swap = -1
    if check and limit > 0:
        usage = files.read_int(directory, "memory.usage_in_bytes")
        if limit < usage:
            raise InvalidSpec(
                "linux.resources.memory.limit", f"{limit} is less than the {usage} bytes in use (checkBeforeUpdate)"
            )
    writes = []
    if limit:
        writes.append((_LIMIT, limit, "linux.resources.memory.limit"))
    if swap:
        writes.append((_SWAP, swap, "linux.resources.memory.swap"))
    # At every moment memory ≤ memory + swap must hold: upwards the sum goes first.
    if len(writes) == 2 and (swap == -1 or files.read_int(directory, _LIMIT) < swap):
        writes.reverse()
    for name, value, field in writes:
        _write_limit(directory, name, value, field)


def _write_limit(directory: str, name: str, value: int, field: str) -> None:
    try:
        files.write(directory, name, value, field=field)
    except InvalidSpec as failure:
        if failure.errno != errno.EBUSY:
            raise
        usage = files.read_int(directory, "memory.usage_in_bytes")
        peak = files.read_int(directory, "memory.max_usage_in_bytes")
        raise InvalidSpec(
            field,
            f"unable to set memory limit to {value} (current usage: {usage}, peak usage: {peak})",
            errno=errno.EBUSY,
        ) from failure


def stats(directory: str, into: Stats) -> None:
    raw = files.flat(files.read_optional(directory, "memory.stat"))
    memory: dict[str, object] = {"cache": raw.get("cache", 0)}
    for key, prefix in _USAGES:
        limit = files.read_optional(directory, f"memory.{prefix}limit_in_bytes")
        if limit is not None:
            memory[key] = {
                "limit": int(limit),
                "usage": files.read_int(directory, f"memory.{prefix}usage_in_bytes"),
                "max": files.read_int(directory, f"memory.{prefix}max_usage_in_bytes"),
                "failcnt": files.read_int(directory, f"memory.{prefix}failcnt"),
            }
    memory["raw"] = raw
    into["memory"] = memory


def oom_kill_count(directory: str) -> int:
    """Processes killed here. Linux 4.13; 0 before."""
    return files.flat(files.read_optional(directory, "memory.oom_control")).get("oom_kill", 0)


def oom_notify_fd(directory: str) -> int:
    """An eventfd that the kernel counts up at each "out of memory". Source: cgroup-v1/memory.rst, section 10."""
    try:
        control = os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelFailure("open", f"{directory}/memory.oom_control", error.errno or 0) from error
    event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        files.write(directory, "cgroup.event_control", f"{event} {control}")
    except BaseException:
        os.close(event)
        raise
    finally:
        os.close(control)
    return event
