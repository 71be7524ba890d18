"""Limits: what Docker refuses of memory, processors, block I/O and ulimits, with its words.

Source: the reference engine's answers; Docker Engine API 1.50, Resources.
"""

from __future__ import annotations

import re

from services.executor.control.creation.subject import Subject, refuse
from shared.contracts.containers import NodeFacts
from shared.contracts.docker import ULIMITS, HostConfig

MIB = 1024 * 1024
MIN_MEMORY = 6 * MIB
CPUSET = re.compile(r"^\d+(-\d+)?(,\d+(-\d+)?)*$")
# Attribute -> Docker's name.
THROTTLES = {
    "blkio_device_read_bps": "BlkioDeviceReadBps",
    "blkio_device_write_bps": "BlkioDeviceWriteBps",
    "blkio_device_read_iops": "BlkioDeviceReadIOps",
    "blkio_device_write_iops": "BlkioDeviceWriteIOps",
}
CPU_PERIOD_RANGE_US = (1000, 1_000_000)


def memory(subject: Subject) -> None:
    host = subject.host
    if host.memory and host.memory < MIN_MEMORY:
        raise refuse("Minimum memory limit allowed is 6MB", "HostConfig.Memory")
    if host.memory and 0 < host.memory_swap < host.memory:
        raise refuse("Minimum memoryswap limit should be larger than memory limit, see usage", "HostConfig.MemorySwap")
    if not host.memory and host.memory_swap > 0:
        raise refuse(
            "You should always set the Memory limit when using Memoryswap limit, see usage", "HostConfig.MemorySwap"
        )
    if host.memory_swappiness is not None and not -1 <= host.memory_swappiness <= 100:
        raise refuse(
            f"Invalid value: {host.memory_swappiness}, valid memory swappiness range is 0-100",
            "HostConfig.MemorySwappiness",
        )
    if host.memory_reservation and host.memory_reservation < MIN_MEMORY:
        raise refuse("Minimum memory reservation allowed is 6MB", "HostConfig.MemoryReservation")
    if host.memory and host.memory_reservation and host.memory < host.memory_reservation:
        raise refuse(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
            "HostConfig.MemoryReservation",
        )
    if host.shm_size < 0:
        raise refuse("SHM size can not be less than 0", "HostConfig.ShmSize")
    if not -1000 <= host.oom_score_adj <= 1000:
        raise refuse(
            f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]", "HostConfig.OomScoreAdj"
        )


def cpu(subject: Subject) -> None:
    host = subject.host
    if host.nano_cpus:
        if host.cpu_period:
            raise refuse("Conflicting options: Nano CPUs and CPU Period cannot both be set", "HostConfig.NanoCpus")
        if host.cpu_quota:
            raise refuse("Conflicting options: Nano CPUs and CPU Quota cannot both be set", "HostConfig.NanoCpus")
        if host.nano_cpus < 0 or host.nano_cpus > subject.cpus * 1_000_000_000:
            raise refuse(
                f"Range of CPUs is from 0.01 to {subject.cpus}.00, as there are only {subject.cpus} CPUs available",
                "HostConfig.NanoCpus",
            )
    low, high = CPU_PERIOD_RANGE_US
    if host.cpu_period and not low <= host.cpu_period <= high:
        raise refuse(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
            "HostConfig.CpuPeriod",
        )
    if 0 < host.cpu_quota < low:
        raise refuse("CPU cfs quota can not be less than 1ms (i.e. 1000)", "HostConfig.CpuQuota")
    if host.cpu_shares < 0:
        raise refuse(
            f"invalid CPU shares ({host.cpu_shares}): value must be a positive integer", "HostConfig.CpuShares"
        )
    _cpuset("cpuset cpus", host.cpuset_cpus, subject.cpus, "CPUs", "HostConfig.CpusetCpus")


def _cpuset(name: str, text: str, count: int | None, things: str, field: str) -> None:
    """A list such as ``0-2,4``; `count` is how many there are, None when control does not know."""
    if not text:
        return
    if not CPUSET.match(text):
        raise refuse(f"Invalid value {text} for {name}: invalid format: {text}", field)
    last = max(int(part.split("-")[-1]) for part in text.split(","))
    if count is not None and last >= count:
        available = f"0-{count - 1}" if count > 1 else "0"
        raise refuse(f"Requested {things} are not available - requested {text}, available: {available}", field)


def memory_nodes(subject: Subject) -> None:
    _cpuset("cpuset mems", subject.host.cpuset_mems, None, "memory nodes", "HostConfig.CpusetMems")


def blkio(subject: Subject) -> None:
    host = subject.host
    if host.blkio_weight and not 10 <= host.blkio_weight <= 1000:
        raise refuse("Range of blkio weight is from 10 to 1000", "HostConfig.BlkioWeight")
    for weight in host.blkio_weight_device:
        _device_path(weight.path, "BlkioWeightDevice")
        if weight.weight and not 10 <= weight.weight <= 1000:
            raise refuse(f"invalid weight for device: {weight.path}:{weight.weight}", "HostConfig.BlkioWeightDevice")
    for attribute, name in THROTTLES.items():
        for limit in getattr(host, attribute):
            _device_path(limit.path, name)
            if limit.rate < 0:
                raise refuse(f"invalid rate for device: {limit.path}:{limit.rate}", f"HostConfig.{name}")


def _device_path(path: str, name: str) -> None:
    if not path.startswith("/"):
        raise refuse(f"invalid device path '{path}' in {name}: an absolute path is needed", f"HostConfig.{name}")


def ulimits(subject: Subject) -> None:
    for limit in subject.host.ulimits:
        if limit.name not in ULIMITS:
            raise refuse(f"invalid ulimit type: {limit.name}", "HostConfig.Ulimits")
        if min(limit.soft, limit.hard) < -1:
            raise refuse(
                f"invalid ulimit {limit.name}={limit.soft}:{limit.hard}: -1 is the least, for no limit",
                "HostConfig.Ulimits",
            )
        if limit.hard != -1 and (limit.soft == -1 or limit.soft > limit.hard):
            raise refuse(
                f"ulimit soft limit must be less than or equal to hard limit: {limit.soft} > {limit.hard}",
                "HostConfig.Ulimits",
            )


def check_limits(subject: Subject) -> None:
    """Those of the checks that an update repeats. Raises InvalidArgument."""
    for one in (memory, cpu, memory_nodes, blkio):
        one(subject)


def discard(host: HostConfig, node: NodeFacts) -> list[str]:
    """Take out the limits that the node's kernel does not have, as Docker does; the warnings that say so.

    A feature the node says nothing of counts as there.
    """
    found: list[str] = []

    def missing(feature: str) -> bool:
        return not node.features.get(feature, True)

    if host.memory and host.memory_swap != -1 and missing("swap_limit"):
        host.memory_swap = -1
        found.append(
            "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without "
            "swap."
        )
    if host.memory_swappiness is not None and missing("memory_swappiness"):
        host.memory_swappiness = None
        found.append(
            "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory "
            "swappiness discarded."
        )
    if host.oom_kill_disable is not None and missing("oom_kill_disable"):
        if host.oom_kill_disable:
            found.append("Your kernel does not support OomKillDisable. OomKillDisable discarded.")
        host.oom_kill_disable = None
    if host.blkio_weight and missing("blkio_weight"):
        host.blkio_weight = 0
        found.append("Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.")
    if host.blkio_weight_device and missing("blkio_weight_device"):
        host.blkio_weight_device = []
        found.append(
            "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device "
            "discarded."
        )
    return found
