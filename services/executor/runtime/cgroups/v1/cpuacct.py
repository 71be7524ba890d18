"""v1 `cpuacct`: processor time used. It has nothing to set.

Source: kernel cgroup-v1/cpuacct.rst.
"""

from __future__ import annotations

import os

from services.executor.runtime.cgroups import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from services.executor.runtime.cgroups.interface import Resources, Stats

NAME = "cpuacct"
_NANOS_PER_SECOND = 1_000_000_000


def wanted(resources: Resources) -> str | None:
    return None


def validate(directory: str, resources: Resources) -> None:
    """Nothing to set."""


def apply(directory: str, resources: Resources) -> None:
    """Nothing to set."""


def stats(directory: str, into: Stats) -> None:
    ticks = files.flat(files.read_optional(directory, "cpuacct.stat"))
    nanos_per_tick = _NANOS_PER_SECOND // os.sysconf("SC_CLK_TCK")
    user, kernel = _per_cpu(files.read_optional(directory, "cpuacct.usage_all"))
    into.setdefault("cpu", {})["usage"] = {
        "total": files.read_int(directory, "cpuacct.usage"),
        "percpu": [int(part) for part in (files.read_optional(directory, "cpuacct.usage_percpu") or "").split()],
        "percpu_kernel": kernel,
        "percpu_user": user,
        "kernel": ticks.get("system", 0) * nanos_per_tick,
        "user": ticks.get("user", 0) * nanos_per_tick,
    }


def _per_cpu(text: str | None) -> tuple[list[int], list[int]]:
    """User and system nanoseconds by processor, from a table with the columns cpu, user, system."""
    rows = [line.split() for line in (text or "").splitlines()[1:]]
    rows = [row for row in rows if len(row) >= 3]
    return [int(row[1]) for row in rows], [int(row[2]) for row in rows]
