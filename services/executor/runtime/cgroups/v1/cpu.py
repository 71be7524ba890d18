"""v1 `cpu`: shares, quota and period, burst, real time, idle.

Source: kernel sched-bwc.rst, sched-rt-group.rst; runtime-spec config-linux.md#cpu.
"""

from __future__ import annotations

from services.executor.runtime.cgroups import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from services.executor.runtime.cgroups.interface import Resources, Stats

NAME = "cpu"
_FIELDS = (
    ("burst", "cpu.cfs_burst_us"),
    ("period", "cpu.cfs_period_us"),
    ("quota", "cpu.cfs_quota_us"),
    ("realtimePeriod", "cpu.rt_period_us"),
    ("realtimeRuntime", "cpu.rt_runtime_us"),
)


def wanted(resources: Resources) -> str | None:
    cpu = files.section(resources, "cpu")
    keys = ("shares", "idle", *(key for key, _ in _FIELDS))
    return next((f"linux.resources.cpu.{key}" for key in keys if cpu.get(key)), None)


def validate(directory: str, resources: Resources) -> None:
    """Nothing beyond the common checks: the kernel's own (quota ≥ 1 ms, period ≤ 1 s) come when it is written."""


def apply(directory: str, resources: Resources) -> None:
    cpu = files.section(resources, "cpu")
    if cpu.get("shares"):
        files.write(directory, "cpu.shares", cpu["shares"], field="linux.resources.cpu.shares")
    files.write_settled(
        directory, [(name, cpu[key], f"linux.resources.cpu.{key}") for key, name in _FIELDS if cpu.get(key)]
    )
    if cpu.get("idle") is not None:
        files.write(directory, "cpu.idle", cpu["idle"], field="linux.resources.cpu.idle")


def stats(directory: str, into: Stats) -> None:
    counts = files.flat(files.read_optional(directory, "cpu.stat"))
    into.setdefault("cpu", {})["throttling"] = {
        "periods": counts.get("nr_periods", 0),
        "throttledPeriods": counts.get("nr_throttled", 0),
        "throttledTime": counts.get("throttled_time", 0),
    }
