"""v2 `cpu`: weight, bandwidth, burst, idle; and pressure.

Source: kernel cgroup-v2.rst#cpu; the conversion of shares is runc's, so that the same number means the same everywhere.
"""

from __future__ import annotations

from services.executor.runtime.cgroups import files
from services.executor.runtime.cgroups.v2 import pressure
from services.executor.runtime.errors import NotSupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from services.executor.runtime.cgroups.interface import Resources, Stats

NAME = "cpu"
_FIELD = "linux.resources.cpu"
_DEFAULT_PERIOD_US = 100_000


def wanted(resources: Resources) -> str | None:
    cpu = files.section(resources, "cpu")
    keys = ("shares", "quota", "period", "burst", "idle", "realtimePeriod", "realtimeRuntime")
    return next((f"{_FIELD}.{key}" for key in keys if cpu.get(key)), None)


def validate(directory: str, resources: Resources) -> None:
    cpu = files.section(resources, "cpu")
    for key in ("realtimePeriod", "realtimeRuntime"):
        if cpu.get(key):
            raise NotSupported(f"{_FIELD}.{key}", "cgroup v2 has no real-time bandwidth")


def apply(directory: str, resources: Resources) -> None:
    cpu = files.section(resources, "cpu")
    if cpu.get("idle") is not None:
        files.write(directory, "cpu.idle", cpu["idle"], field=f"{_FIELD}.idle")
    # An idle group has no weight, and refuses one.
    if cpu.get("shares") and cpu.get("idle") != 1:
        files.write(directory, "cpu.weight", weight(cpu["shares"]), field=f"{_FIELD}.shares")
    writes: list[tuple[str, str | int, str]] = []
    if cpu.get("burst"):
        writes.append(("cpu.max.burst", cpu["burst"], f"{_FIELD}.burst"))
    if cpu.get("quota") or cpu.get("period"):
        field = f"{_FIELD}.quota" if cpu.get("quota") else f"{_FIELD}.period"
        writes.append(("cpu.max", _maximum(directory, cpu.get("quota"), cpu.get("period")), field))
    files.write_settled(directory, writes)


def _maximum(directory: str, quota: int | None, period: int | None) -> str:
    if not quota:
        # The file takes both: keep the quota in force when only the period is to change.
        current = (files.read_optional(directory, "cpu.max") or "max").split()[0]
    else:
        current = "max" if quota < 0 else str(quota)
    return f"{current} {period or _DEFAULT_PERIOD_US}"


def weight(shares: int) -> int:
    """v1's 2…262144 (default 1024) on v2's 1…10000 (default 100), linearly."""
    return 1 + (shares - 2) * 9999 // 262142


def stats(directory: str, into: Stats) -> None:
    counts = files.flat(files.read_optional(directory, "cpu.stat"))
    cpu = into.setdefault("cpu", {})
    cpu["usage"] = {
        "total": counts.get("usage_usec", 0) * 1000,
        "kernel": counts.get("system_usec", 0) * 1000,
        "user": counts.get("user_usec", 0) * 1000,
    }
    cpu["throttling"] = {
        "periods": counts.get("nr_periods", 0),
        "throttledPeriods": counts.get("nr_throttled", 0),
        "throttledTime": counts.get("throttled_usec", 0) * 1000,
    }
    pressure.add(directory, "cpu.pressure", cpu)
