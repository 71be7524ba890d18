"""What Docker refuses of a container's configuration, with its words: an ordered tuple of named checks.

Source: the reference engine's answers; Docker Engine API 1.50, ContainerCreate.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from services.executor.control.signals import parse_signal
from shared.contracts.docker import ContainerConfig, HostConfig, RestartPolicy
from shared.errors import InvalidArgument

MIB = 1024 * 1024
MIN_MEMORY = 6 * MIB
HOSTNAME = re.compile(r"^(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9_-]*[a-zA-Z0-9])(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9_-]*[a-zA-Z0-9]))*$")  # fmt: skip
PORT = re.compile(r"^(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?$")
DEVICE_RULE = re.compile(r"^([acb]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})$")
CPUSET = re.compile(r"^\d+(-\d+)?(,\d+(-\d+)?)*$")
POLICIES = ("", "no", "always", "on-failure", "unless-stopped")
CPU_PERIOD_RANGE_US = (1000, 1_000_000)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is checked, and the facts of the node it will run on."""

    config: ContainerConfig
    host: HostConfig
    cpus: int
    daemon_runtimes: frozenset[str]


def _refuse(text: str, field: str) -> InvalidArgument:
    return InvalidArgument(text, field=field)


def _unsupported(name: str, why: str) -> InvalidArgument:
    return InvalidArgument(f"HostConfig.{name} is not supported by this engine: {why}", field=f"HostConfig.{name}")


def environment(subject: Subject) -> None:
    for entry in subject.config.env:
        if not entry.partition("=")[0]:
            raise _refuse(f"invalid environment variable: {entry}", "Env")


def hostname(subject: Subject) -> None:
    name = subject.config.hostname
    if name and (len(name) > 63 or not HOSTNAME.match(name)):
        raise _refuse(f"invalid hostname format: {name}", "Hostname")


def working_dir(subject: Subject) -> None:
    path = subject.config.working_dir
    if path and not path.startswith("/"):
        raise _refuse(f"the working directory '{path}' is invalid, it needs to be an absolute path", "WorkingDir")


def stop_signal(subject: Subject) -> None:
    if subject.config.stop_signal:
        parse_signal(subject.config.stop_signal)


def health(subject: Subject) -> None:
    check = subject.config.healthcheck
    if check is None:
        return
    for name in ("interval", "timeout", "start_period", "start_interval"):
        value = getattr(check, name)
        if value and value < 1_000_000:
            words = name.replace("_", " ").title().replace(" ", "")
            raise _refuse(f"{words} in Healthcheck cannot be less than 1ms", f"Healthcheck.{words}")
    if check.retries < 0:
        raise _refuse("Retries in Healthcheck cannot be negative", "Healthcheck.Retries")
    if check.test and check.test[0] not in ("NONE", "CMD", "CMD-SHELL"):
        raise _refuse(f"Unknown/Invalid health check type '{check.test[0]}'", "Healthcheck.Test")


def memory(subject: Subject) -> None:
    host = subject.host
    if host.memory and host.memory < MIN_MEMORY:
        raise _refuse("Minimum memory limit allowed is 6MB", "HostConfig.Memory")
    if host.memory and 0 < host.memory_swap < host.memory:
        raise _refuse("Minimum memoryswap limit should be larger than memory limit, see usage", "HostConfig.MemorySwap")
    if not host.memory and host.memory_swap > 0:
        raise _refuse(
            "You should always set the Memory limit when using Memoryswap limit, see usage", "HostConfig.MemorySwap"
        )
    if host.memory_swappiness is not None and not -1 <= host.memory_swappiness <= 100:
        raise _refuse(
            f"Invalid value: {host.memory_swappiness}, valid memory swappiness range is 0-100",
            "HostConfig.MemorySwappiness",
        )
    if host.memory_reservation and host.memory_reservation < MIN_MEMORY:
        raise _refuse("Minimum memory reservation allowed is 6MB", "HostConfig.MemoryReservation")
    if host.memory and host.memory_reservation and host.memory < host.memory_reservation:
        raise _refuse(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
            "HostConfig.MemoryReservation",
        )
    if host.shm_size < 0:
        raise _refuse("SHM size can not be less than 0", "HostConfig.ShmSize")
    if not -1000 <= host.oom_score_adj <= 1000:
        raise _refuse(
            f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]", "HostConfig.OomScoreAdj"
        )


def cpu(subject: Subject) -> None:
    host = subject.host
    if host.nano_cpus:
        if host.cpu_period:
            raise _refuse("Conflicting options: Nano CPUs and CPU Period cannot both be set.", "HostConfig.NanoCpus")
        if host.cpu_quota:
            raise _refuse("Conflicting options: Nano CPUs and CPU Quota cannot both be set.", "HostConfig.NanoCpus")
        if host.nano_cpus < 0 or host.nano_cpus > subject.cpus * 1_000_000_000:
            raise _refuse(
                f"Range of CPUs is from 0.01 to {subject.cpus}.00, as there are only {subject.cpus} CPUs available",
                "HostConfig.NanoCpus",
            )
    low, high = CPU_PERIOD_RANGE_US
    if host.cpu_period and not low <= host.cpu_period <= high:
        raise _refuse(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
            "HostConfig.CpuPeriod",
        )
    if 0 < host.cpu_quota < low:
        raise _refuse("CPU cfs quota can not be less than 1ms (i.e. 1000)", "HostConfig.CpuQuota")
    if host.cpu_shares < 0:
        raise _refuse(
            f"invalid CPU shares ({host.cpu_shares}): value must be a positive integer", "HostConfig.CpuShares"
        )
    for name, value in (("cpuset cpus", host.cpuset_cpus), ("cpuset mems", host.cpuset_mems)):
        if value and not CPUSET.match(value):
            raise _refuse(f"Invalid value {value} for {name}", "HostConfig.Cpuset" + name[7:].title())
    for part in host.cpuset_cpus.split(",") if host.cpuset_cpus else ():
        if int(part.split("-")[-1]) >= subject.cpus:
            raise _refuse(
                f"Requested CPUs are not available - requested {host.cpuset_cpus}, available: 0-{subject.cpus - 1}",
                "HostConfig.CpusetCpus",
            )


def blkio(subject: Subject) -> None:
    weight = subject.host.blkio_weight
    if weight and not 10 <= weight <= 1000:
        raise _refuse("Range of blkio weight is from 10 to 1000", "HostConfig.BlkioWeight")


def check_restart_policy(policy: RestartPolicy) -> None:
    """Raises InvalidArgument; also used by updates."""
    if policy.name not in POLICIES:
        raise _refuse(
            f"invalid restart policy: unknown policy '{policy.name}'; use one of 'no', 'always', 'on-failure', or "
            "'unless-stopped'",
            "HostConfig.RestartPolicy.Name",
        )
    if policy.maximum_retry_count < 0:
        raise _refuse(
            "invalid restart policy: maximum retry count cannot be negative",
            "HostConfig.RestartPolicy.MaximumRetryCount",
        )
    if policy.maximum_retry_count and policy.name != "on-failure":
        raise _refuse(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
            "HostConfig.RestartPolicy.MaximumRetryCount",
        )


def restart(subject: Subject) -> None:
    policy = subject.host.restart_policy
    check_restart_policy(policy)
    if subject.host.auto_remove and policy.name not in ("", "no"):
        raise _refuse("can't create 'AutoRemove' container with restart policy", "HostConfig.AutoRemove")


def ports(subject: Subject) -> None:
    for port in [*subject.config.exposed_ports, *subject.host.port_bindings]:
        match = PORT.match(port)
        if not match or not 0 < int(match[1]) <= 65535:
            raise _refuse(f'invalid port specification: "{port}"', "HostConfig.PortBindings")
    for bindings in subject.host.port_bindings.values():
        for binding in bindings:
            if binding.host_port and not re.fullmatch(r"\d{1,5}(-\d{1,5})?", binding.host_port):
                raise _refuse(f'invalid port specification: "{binding.host_port}"', "HostConfig.PortBindings")


def network_mode(subject: Subject) -> None:
    host, config = subject.host, subject.config
    shared = host.network_mode.startswith("container:")
    if not shared and host.network_mode != "host":
        return
    if shared and not host.network_mode.partition(":")[2]:
        raise _refuse("Invalid network mode: invalid container format container:<name|id>", "HostConfig.NetworkMode")
    for wrong, text in (
        (shared and config.hostname, "conflicting options: hostname and the network mode"),
        (
            shared and host.links,
            "conflicting options: container type network can't be used with links. "
            "This would result in undefined behavior",
        ),
        (shared and host.dns, "conflicting options: dns and the network mode"),
        (shared and host.extra_hosts, "conflicting options: custom host-to-IP mapping and the network mode"),
        (
            shared and (host.port_bindings or host.publish_all_ports),
            "conflicting options: port publishing and the container type network mode",
        ),
        (
            shared and config.exposed_ports and not config.image,
            "conflicting options: port exposing and the container type network mode",
        ),
        (
            host.network_mode == "host" and host.links,
            "conflicting options: host type networking can't be used with links. "
            "This would result in undefined behavior",
        ),
    ):
        if wrong:
            raise _refuse(text, "HostConfig.NetworkMode")


def namespaces(subject: Subject) -> None:
    host = subject.host
    if host.ipc_mode not in ("", "private", "host", "none"):
        raise _unsupported("IpcMode", f"{host.ipc_mode} (private, host)")
    if host.ipc_mode == "none":
        raise _unsupported("IpcMode", "none")
    if host.pid_mode not in ("", "host") and not host.pid_mode.startswith("container:"):
        raise _refuse(f"invalid PID mode: {host.pid_mode}", "HostConfig.PidMode")
    if host.uts_mode not in ("", "host"):
        raise _refuse(f"invalid UTS mode: {host.uts_mode}", "HostConfig.UTSMode")
    if host.userns_mode not in ("", "host"):
        raise _refuse(f"invalid USER mode: {host.userns_mode}", "HostConfig.UsernsMode")
    if host.cgroupns_mode not in ("", "private", "host"):
        raise _refuse(f"invalid cgroup namespace mode: {host.cgroupns_mode}", "HostConfig.CgroupnsMode")


def devices(subject: Subject) -> None:
    for rule in subject.host.device_cgroup_rules:
        if not DEVICE_RULE.match(rule):
            raise _refuse(f"invalid device cgroup rule format: '{rule}'", "HostConfig.DeviceCgroupRules")
    if subject.host.device_requests:
        raise _unsupported("DeviceRequests", "there is no driver for device requests (GPUs)")


def runtime(subject: Subject) -> None:
    name = subject.host.runtime
    if name and name not in subject.daemon_runtimes:
        raise _refuse(f"unknown or invalid runtime name: {name}", "HostConfig.Runtime")


def log_driver(subject: Subject) -> None:
    log = subject.host.log_config
    if log.type not in ("", "json-file", "none", "local"):
        raise _refuse(f"logger: no log driver named '{log.type}' is registered", "HostConfig.LogConfig.Type")
    allowed = {"max-size", "max-file", "compress", "labels", "labels-regex", "env", "env-regex", "tag", "mode"}
    for option in log.config:
        if option not in allowed:
            raise _refuse(
                f"unknown log opt '{option}' for {log.type or 'json-file'} log driver", "HostConfig.LogConfig.Config"
            )


def refused_fields(subject: Subject) -> None:
    """Fields that this engine does not honour are never ignored."""
    host = subject.host
    for name, value, why in (
        ("StorageOpt", host.storage_opt, "the overlay storage has no size limits per container"),
        ("Isolation", host.isolation not in ("", "default"), "it is for Windows"),
        ("CpuCount", host.cpu_count, "it is for Windows"),
        ("CpuPercent", host.cpu_percent, "it is for Windows"),
        ("IOMaximumIOps", host.io_maximum_iops, "it is for Windows"),
        ("IOMaximumBandwidth", host.io_maximum_bandwidth, "it is for Windows"),
        ("KernelMemory", host.kernel_memory, "the kernel has dropped it"),
        ("Cgroup", host.cgroup, "it was never used by Docker"),
        ("VolumeDriver", host.volume_driver not in ("", "local"), "only the local driver is there"),
    ):
        if value:
            raise _unsupported(name, why)


CHECKS: tuple[Callable[[Subject], None], ...] = (
    environment,
    hostname,
    working_dir,
    stop_signal,
    health,
    memory,
    cpu,
    blkio,
    restart,
    ports,
    network_mode,
    namespaces,
    devices,
    runtime,
    log_driver,
    refused_fields,
)


def check(subject: Subject) -> None:
    """Raises InvalidArgument for the first thing that is wrong, naming its field."""
    for one in CHECKS:
        one(subject)
