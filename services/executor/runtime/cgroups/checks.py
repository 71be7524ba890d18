"""Checks of linux.resources that hold on both versions: types, ranges, and fields that contradict each other."""

from __future__ import annotations

from services.executor.runtime.cgroups.files import section
from services.executor.runtime.errors import InvalidSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MIN_SHARES, _MAX_SHARES = 2, 262144
_INTEGERS = {
    "cpu": ("shares", "quota", "period", "burst", "realtimeRuntime", "realtimePeriod", "idle"),
    "memory": ("limit", "reservation", "swap", "kernel", "kernelTCP", "swappiness"),
    "pids": ("limit",),
    "blockIO": ("weight", "leafWeight"),
    "network": ("classID",),
}
_THROTTLES = ("throttleReadBpsDevice", "throttleWriteBpsDevice", "throttleReadIOPSDevice", "throttleWriteIOPSDevice")


def integer(value: Any, field: str) -> int:
    """`value`, if JSON had a whole number there.

    Raises:
        InvalidSpec: it had something else.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidSpec(field, f"{value!r} is not a whole number")
    return value


def check_resources(resources: dict[str, Any]) -> None:
    """All checks of this module.

    Raises:
        InvalidSpec: names the first field at fault.
    """
    for name, keys in _INTEGERS.items():
        for key in keys:
            value = section(resources, name).get(key)
            if value is not None:
                integer(value, f"linux.resources.{name}.{key}")
    for check in (_check_cpu, _check_memory, _check_block_io, _check_devices, _check_limits, _check_unified):
        check(resources)


def _check_cpu(resources: dict[str, Any]) -> None:
    cpu = section(resources, "cpu")
    shares = cpu.get("shares")
    # The kernel clamps silently, so the text has to come from here; it is runc's, which Docker hands on.
    if shares and shares < _MIN_SHARES:
        raise InvalidSpec("linux.resources.cpu.shares", f"the minimum allowed cpu-shares is {_MIN_SHARES}")
    if shares and shares > _MAX_SHARES:
        raise InvalidSpec("linux.resources.cpu.shares", f"the maximum allowed cpu-shares is {_MAX_SHARES}")
    if cpu.get("idle") not in {None, 0, 1}:
        raise InvalidSpec("linux.resources.cpu.idle", f"{cpu['idle']} is neither 0 nor 1")
    for key in ("cpus", "mems"):
        if not isinstance(cpu.get(key, ""), str):
            raise InvalidSpec(f"linux.resources.cpu.{key}", f'{cpu[key]!r} is not a list such as "0-2,7"')


def _check_memory(resources: dict[str, Any]) -> None:
    memory = section(resources, "memory")
    swappiness = memory.get("swappiness")
    if swappiness is not None and not 0 <= swappiness <= 100:
        raise InvalidSpec(
            "linux.resources.memory.swappiness", f"invalid value: {swappiness}, valid memory swappiness range is 0-100"
        )
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    if limit > 0 and 0 < swap < limit:
        raise InvalidSpec("linux.resources.memory.swap", f"{swap} is less than the memory limit {limit} it includes")
    for key in ("limit", "reservation", "swap", "kernel", "kernelTCP"):
        if (memory.get(key) or 0) < -1:
            raise InvalidSpec(f"linux.resources.memory.{key}", f"{memory[key]} is below -1, which means unlimited")


def _check_block_io(resources: dict[str, Any]) -> None:
    block = section(resources, "blockIO")
    for key in ("weight", "leafWeight"):
        weight = block.get(key)
        if weight and not 10 <= weight <= 1000:
            raise InvalidSpec(f"linux.resources.blockIO.{key}", f"{weight} is not between 10 and 1000")
    for key in ("weightDevice", *_THROTTLES):
        for index, entry in enumerate(block.get(key) or ()):
            field = f"linux.resources.blockIO.{key}[{index}]"
            for number in ("major", "minor", *(() if key == "weightDevice" else ("rate",))):
                integer(entry.get(number), f"{field}.{number}")


def _check_devices(resources: dict[str, Any]) -> None:
    for index, rule in enumerate(resources.get("devices") or ()):
        field = f"linux.resources.devices[{index}]"
        if not isinstance(rule.get("allow"), bool):
            raise InvalidSpec(f"{field}.allow", "is required, and true or false")
        if (rule.get("type") or "a") not in {"a", "b", "c", "u", "p"}:
            raise InvalidSpec(f"{field}.type", f"{rule['type']!r} is none of a, b, c")
        if not rule.get("access"):
            raise InvalidSpec(f"{field}.access", f"device access at {index} field cannot be empty")


def _check_limits(resources: dict[str, Any]) -> None:
    for index, entry in enumerate(resources.get("hugepageLimits") or ()):
        field = f"linux.resources.hugepageLimits[{index}]"
        integer(entry.get("limit"), f"{field}.limit")
        size = entry.get("pageSize")
        if not isinstance(size, str) or not size.endswith("B") or not size[:1].isdigit() or "/" in size:
            raise InvalidSpec(f"{field}.pageSize", f'{size!r} is not of the form "2MB"')
    for device, limits in section(resources, "rdma").items():
        for key in ("hcaHandles", "hcaObjects"):
            if limits.get(key) is not None:
                integer(limits[key], f"linux.resources.rdma.{device}.{key}")


def _check_unified(resources: dict[str, Any]) -> None:
    for key, value in section(resources, "unified").items():
        if "/" in key or key in {"", ".", ".."}:
            raise InvalidSpec("linux.resources.unified", f"{key!r} must be a file name (no slashes)")
        if not isinstance(value, str):
            raise InvalidSpec(f"linux.resources.unified[{key}]", f"{value!r} is not a string")
