"""Docker's stats object from a container's cgroup and its interfaces. Pure but for reading /proc.

Source: Docker Engine API 1.50, ContainerStats; runc's `events --stats` for the cgroup part.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from services.executor.agent import host
from shared.docker.moments import rfc3339_now

ZERO_TIME = "0001-01-01T00:00:00Z"


def network_counters(pid: int) -> dict[str, dict[str, int]]:
    """Counters by interface of a process's network namespace, without loopback."""
    result: dict[str, dict[str, int]] = {}
    try:
        lines = Path(f"/proc/{pid}/net/dev").read_text(encoding="ascii").splitlines()[2:]
    except OSError:  # the process has just ended: no namespace, no counters
        return {}
    for line in lines:
        name, _, rest = line.partition(":")
        if name.strip() == "lo":
            continue
        n = [int(word) for word in rest.split()]
        result[name.strip()] = {
            "rx_bytes": n[0],
            "rx_packets": n[1],
            "rx_errors": n[2],
            "rx_dropped": n[3],
            "tx_bytes": n[8],
            "tx_packets": n[9],
            "tx_errors": n[10],
            "tx_dropped": n[11],
        }
    return result


def _blkio(entries: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    return [
        {"major": entry["major"], "minor": entry["minor"], "op": entry.get("op", ""), "value": entry["value"]}
        for entry in entries or []
    ]


def cpu_stats(cgroup: dict[str, Any]) -> dict[str, Any]:
    cpu = cgroup.get("cpu") or {}
    usage = cpu.get("usage") or {}
    throttling = cpu.get("throttling") or {}
    counters: dict[str, Any] = {
        "total_usage": usage.get("total", 0),
        "usage_in_kernelmode": usage.get("kernel", 0),
        "usage_in_usermode": usage.get("user", 0),
    }
    if usage.get("percpu"):
        counters["percpu_usage"] = usage["percpu"]
    return {
        "cpu_usage": counters,
        "system_cpu_usage": host.cpu_ns(),
        "online_cpus": host.cpus(),
        "throttling_data": {
            "periods": throttling.get("periods", 0),
            "throttled_periods": throttling.get("throttledPeriods", 0),
            "throttled_time": throttling.get("throttledTime", 0),
        },
    }


def memory_stats(cgroup: dict[str, Any]) -> dict[str, Any]:
    memory = cgroup.get("memory") or {}
    usage = memory.get("usage") or {}
    limit = usage.get("limit") or 0
    total = host.memory_bytes()
    result: dict[str, Any] = {
        "usage": usage.get("usage", 0),
        "limit": total if limit <= 0 or limit > total else limit,
        "stats": memory.get("raw") or {},
    }
    if usage.get("max"):
        result["max_usage"] = usage["max"]
    if usage.get("failcnt") is not None:
        result["failcnt"] = usage["failcnt"]
    return result


EMPTY_CPU: dict[str, Any] = {
    "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
    "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
}


def docker_stats(cgroup: dict[str, Any], *, name: str, container_id: str, pid: int) -> dict[str, Any]:
    """One sample, without the previous one.

    Args:
        pid: Of a process whose interfaces are counted; 0 when they are not the container's.
    """
    blkio = cgroup.get("blkio") or {}
    pids = cgroup.get("pids") or {}
    sample: dict[str, Any] = {
        "name": "/" + name,
        "id": container_id,
        "read": rfc3339_now(),
        "num_procs": 0,
        "storage_stats": {},
        "pids_stats": {"current": pids.get("current", 0)},
        "cpu_stats": cpu_stats(cgroup),
        "memory_stats": memory_stats(cgroup),
        "blkio_stats": {
            "io_service_bytes_recursive": _blkio(blkio.get("ioServiceBytesRecursive")),
            "io_serviced_recursive": _blkio(blkio.get("ioServicedRecursive")),
            "io_queue_recursive": _blkio(blkio.get("ioQueueRecursive")),
            "io_service_time_recursive": _blkio(blkio.get("ioServiceTimeRecursive")),
            "io_wait_time_recursive": _blkio(blkio.get("ioWaitTimeRecursive")),
            "io_merged_recursive": _blkio(blkio.get("ioMergedRecursive")),
            "io_time_recursive": _blkio(blkio.get("ioTimeRecursive")),
            "sectors_recursive": _blkio(blkio.get("sectorsRecursive")),
        },
    }
    if pids.get("limit"):
        sample["pids_stats"]["limit"] = pids["limit"]
    networks = network_counters(pid) if pid else {}
    if networks:
        sample["networks"] = networks
    return sample


def with_previous(sample: dict[str, Any], previous: dict[str, Any] | None) -> dict[str, Any]:
    """The sample with its predecessor's CPU counters, from which clients compute percentages."""
    if previous is None:
        return sample | {"preread": ZERO_TIME, "precpu_stats": EMPTY_CPU}
    return sample | {"preread": previous["read"], "precpu_stats": previous["cpu_stats"]}
