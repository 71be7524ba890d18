"""What the machine has and what it has used of it, for node facts and statistics.

Source: psutil's documentation, "System related functions"; proc_stat(5) for what the times are.
"""

from __future__ import annotations

import psutil

NANOSECONDS = 1_000_000_000
# The columns of /proc/stat that Docker counts; those of guests are in the first two already.
_COUNTED = 8


def cpus() -> int:
    """Processors that this process may run on."""
    return len(psutil.Process().cpu_affinity())


def memory_bytes() -> int:
    """All of the machine's memory."""
    return int(psutil.virtual_memory().total)


def memory_available_bytes() -> int:
    """What could be given to programs without swapping."""
    return int(psutil.virtual_memory().available)


def load() -> float:
    """Processes that ran or waited to, on average over the last minute."""
    return float(psutil.getloadavg()[0])


def cpu_ns() -> int:
    """CPU time of the whole machine since its start, idle time included, as Docker counts it."""
    return round(sum(psutil.cpu_times()[:_COUNTED]) * NANOSECONDS)
