"""The answer of /containers/{ref}/stats: made by the agent, shown as it is.

Source: Docker Engine API 1.50, ContainerStats.
"""

from __future__ import annotations

from typing import Annotated, NotRequired

from typing_extensions import TypedDict

from services.api.versions import Since
from shared.docker.integers import Int64, UInt64


class CpuUsage(TypedDict):
    """Nanoseconds."""

    total_usage: UInt64
    usage_in_kernelmode: UInt64
    usage_in_usermode: UInt64
    percpu_usage: NotRequired[list[UInt64]]


class ThrottlingData(TypedDict):
    periods: UInt64
    throttled_periods: UInt64
    throttled_time: UInt64


class CpuStats(TypedDict):
    cpu_usage: CpuUsage
    system_cpu_usage: NotRequired[UInt64]
    online_cpus: NotRequired[Int64]
    throttling_data: ThrottlingData


class MemoryStats(TypedDict):
    """Bytes. `stats` is the kernel's own table."""

    usage: NotRequired[UInt64]
    limit: NotRequired[UInt64]
    max_usage: NotRequired[UInt64]
    failcnt: NotRequired[UInt64]
    stats: NotRequired[dict[str, UInt64]]


class PidsStats(TypedDict):
    current: NotRequired[UInt64]
    limit: NotRequired[UInt64]


class BlkioEntry(TypedDict):
    major: UInt64
    minor: UInt64
    op: str
    value: UInt64


class BlkioStats(TypedDict):
    io_service_bytes_recursive: list[BlkioEntry] | None
    io_serviced_recursive: list[BlkioEntry] | None
    io_queue_recursive: list[BlkioEntry] | None
    io_service_time_recursive: list[BlkioEntry] | None
    io_wait_time_recursive: list[BlkioEntry] | None
    io_merged_recursive: list[BlkioEntry] | None
    io_time_recursive: list[BlkioEntry] | None
    sectors_recursive: list[BlkioEntry] | None


class NetworkStats(TypedDict):
    rx_bytes: UInt64
    rx_packets: UInt64
    rx_errors: UInt64
    rx_dropped: UInt64
    tx_bytes: UInt64
    tx_packets: UInt64
    tx_errors: UInt64
    tx_dropped: UInt64


class Stats(TypedDict):
    """A sample of what a container uses, and the CPU counters of the one before it."""

    name: str
    id: str
    read: str
    preread: str
    os_type: NotRequired[Annotated[str, Since(1, 52)]]
    num_procs: Int64
    storage_stats: dict[str, UInt64]
    pids_stats: PidsStats
    cpu_stats: CpuStats
    precpu_stats: CpuStats
    memory_stats: MemoryStats
    blkio_stats: BlkioStats
    networks: NotRequired[dict[str, NetworkStats]]
