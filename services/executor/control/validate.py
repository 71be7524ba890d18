"""What Docker refuses of a container's configuration, with its words: an ordered tuple of named checks.

Source: the reference engine's answers; Docker Engine API 1.50, ContainerCreate.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass

from services.executor.control.signals import parse_signal
from shared.contracts.containers import NodeFacts
from shared.contracts.docker import ContainerConfig, HostConfig, RestartPolicy
from shared.errors import InvalidArgument

MIB = 1024 * 1024
MIN_MEMORY = 6 * MIB
HOSTNAME = re.compile(r"^[a-zA-Z0-9_.-]+$")
MAX_HOSTNAME = 64
PORT = re.compile(r"^(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?$")
DEVICE_RULE = re.compile(r"^([acb]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})$")
CPUSET = re.compile(r"^\d+(-\d+)?(,\d+(-\d+)?)*$")
SIZE = re.compile(r"^(\d+(?:\.\d+)?) ?([bkmgt])?(?:ib|b)?$")
LOG_OPTIONS = frozenset(
    {"max-size", "max-file", "compress", "labels", "labels-regex", "env", "env-regex", "tag", "mode"}
)
ULIMITS = frozenset(
    {
        "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio",
        "rttime", "sigpending", "stack",
    }
)  # fmt: skip
# capabilities(7), Linux 5.9 and later.
CAPABILITIES = frozenset(
    {
        "AUDIT_CONTROL", "AUDIT_READ", "AUDIT_WRITE", "BLOCK_SUSPEND", "BPF", "CHECKPOINT_RESTORE", "CHOWN",
        "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "IPC_LOCK", "IPC_OWNER", "KILL", "LEASE",
        "LINUX_IMMUTABLE", "MAC_ADMIN", "MAC_OVERRIDE", "MKNOD", "NET_ADMIN", "NET_BIND_SERVICE", "NET_BROADCAST",
        "NET_RAW", "PERFMON", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYSLOG", "SYS_ADMIN", "SYS_BOOT", "SYS_CHROOT",
        "SYS_MODULE", "SYS_NICE", "SYS_PACCT", "SYS_PTRACE", "SYS_RAWIO", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG",
        "WAKE_ALARM",
    }
)  # fmt: skip
POLICIES = ("", "no", "always", "on-failure", "unless-stopped")
# Docker's spellings of a truth value.
TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})
CPU_PERIOD_RANGE_US = (1000, 1_000_000)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is checked, and the facts of the node it will run on."""

    config: ContainerConfig
    host: HostConfig
    node: NodeFacts
    daemon_runtimes: frozenset[str]

    @property
    def cpus(self) -> int:
        return self.node.cpus


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
    # Docker takes more than RFC 1123 does; what the kernel or a line of /etc/hosts cannot hold is refused.
    if name and (len(name) > MAX_HOSTNAME or not HOSTNAME.match(name)):
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
            raise _refuse("Conflicting options: Nano CPUs and CPU Period cannot both be set", "HostConfig.NanoCpus")
        if host.cpu_quota:
            raise _refuse("Conflicting options: Nano CPUs and CPU Quota cannot both be set", "HostConfig.NanoCpus")
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
    _cpuset("cpuset cpus", host.cpuset_cpus, subject.cpus, "CPUs", "HostConfig.CpusetCpus")


def _cpuset(name: str, text: str, count: int | None, things: str, field: str) -> None:
    """A list such as ``0-2,4``; `count` is how many there are, None when control does not know."""
    if not text:
        return
    if not CPUSET.match(text):
        raise _refuse(f"Invalid value {text} for {name}: invalid format: {text}", field)
    last = max(int(part.split("-")[-1]) for part in text.split(","))
    if count is not None and last >= count:
        available = f"0-{count - 1}" if count > 1 else "0"
        raise _refuse(f"Requested {things} are not available - requested {text}, available: {available}", field)


def memory_nodes(subject: Subject) -> None:
    _cpuset("cpuset mems", subject.host.cpuset_mems, None, "memory nodes", "HostConfig.CpusetMems")


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
    # "shareable" differs from "private" only in that others may join, which they cannot here.
    if host.ipc_mode not in ("", "private", "shareable", "host"):
        raise _unsupported("IpcMode", f"{host.ipc_mode!r}: use private, shareable or host")
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


def parse_size(text: str) -> int:
    """Bytes of ``10m``, ``1.5g``, ``100``. Raises InvalidArgument."""
    match = SIZE.match(text.lower())
    if not match:
        raise InvalidArgument(f"invalid size: '{text}'")
    return int(float(match[1]) * 1024 ** "bkmgt".index(match[2] or "b"))


def log_driver(subject: Subject) -> None:
    log = subject.host.log_config
    if log.type == "none":
        return
    if log.type not in ("", "json-file", "local"):
        raise _refuse(
            f'error looking up logging plugin {log.type}: plugin "{log.type}" not found', "HostConfig.LogConfig.Type"
        )
    field = "HostConfig.LogConfig.Config"
    for option, value in log.config.items():
        if option not in LOG_OPTIONS:
            raise _refuse(f"unknown log opt '{option}' for {log.type or 'json-file'} log driver", field)
        if option == "max-size" and value != "-1":
            parse_size(value)
        if option == "max-file" and (not value.isdigit() or int(value) < 1):
            raise _refuse("max-file cannot be less than 1", field)
        if option == "compress" and value not in ("true", "false"):
            raise _refuse(f"invalid value for compress: {value}", field)
        if option == "mode" and value != "blocking":
            raise _refuse(
                f"log mode {value} is not supported by this engine: containers never wait for a reader", field
            )
        if option.endswith("-regex"):
            _check_pattern(value, field)


def _check_pattern(pattern: str, field: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise _refuse(f"invalid pattern {pattern!r}: {error}", field) from error


def capabilities(subject: Subject) -> None:
    for name, values in (("CapAdd", subject.host.cap_add), ("CapDrop", subject.host.cap_drop)):
        for value in values:
            word = value.upper().removeprefix("CAP_")
            if word != "ALL" and word not in CAPABILITIES:
                raise _refuse(f'invalid {name}: unknown capability: "CAP_{word}"', f"HostConfig.{name}")


def security_options(subject: Subject) -> None:
    for position, option in enumerate(subject.host.security_opt, start=1):
        name, separator, value = option.replace("=", ":", 1).partition(":")
        if option == "no-new-privileges" or (name == "no-new-privileges" and value in TRUE | FALSE):
            continue
        if separator and name in ("label", "apparmor", "seccomp", "systempaths"):
            continue
        raise _refuse(f'invalid --security-opt {position}: "{option}"', "HostConfig.SecurityOpt")


def extra_hosts(subject: Subject) -> None:
    for entry in subject.host.extra_hosts:
        name, separator, address = entry.replace("=", ":", 1).partition(":")
        if not separator or not name:
            raise _refuse(f'bad format for add-host: "{entry}"', "HostConfig.ExtraHosts")
        if address != "host-gateway":
            _check_address(address.strip("[]"), f'invalid IP address in add-host: "{address}"', "HostConfig.ExtraHosts")


def name_servers(subject: Subject) -> None:
    for address in subject.host.dns:
        _check_address(address, f"{address} is not an IP address", "HostConfig.Dns")


def _check_address(address: str, text: str, field: str) -> None:
    try:
        ipaddress.ip_address(address)
    except ValueError as error:
        raise _refuse(text, field) from error


def ulimits(subject: Subject) -> None:
    for limit in subject.host.ulimits:
        if limit.name not in ULIMITS:
            raise _refuse(f"invalid ulimit type: {limit.name}", "HostConfig.Ulimits")
        if limit.hard != -1 and (limit.soft == -1 or limit.soft > limit.hard):
            raise _refuse(
                f"ulimit soft limit must be less than or equal to hard limit: {limit.soft} > {limit.hard}",
                "HostConfig.Ulimits",
            )


def tmpfs(subject: Subject) -> None:
    for target in subject.host.tmpfs:
        if not target.startswith("/"):
            raise _refuse(f"invalid mount path: '{target}' mount path must be absolute", "HostConfig.Tmpfs")


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
        ("ContainerIDFile", host.container_id_file, "it is the client's to write"),
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
    memory_nodes,
    blkio,
    restart,
    ports,
    network_mode,
    namespaces,
    devices,
    runtime,
    log_driver,
    capabilities,
    security_options,
    extra_hosts,
    name_servers,
    ulimits,
    tmpfs,
    refused_fields,
)


def check(subject: Subject) -> None:
    """Raises InvalidArgument for the first thing that is wrong, naming its field."""
    for one in CHECKS:
        one(subject)


def check_limits(subject: Subject) -> None:
    """Those of the checks that an update repeats. Raises InvalidArgument."""
    for one in (memory, cpu, memory_nodes, blkio):
        one(subject)


def warnings(subject: Subject) -> list[str]:
    """What Docker tells a client whose container was created all the same."""
    host, found = subject.host, []
    if host.memory and not subject.node.features.get("swap_limit", True):
        found.append(
            "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without "
            "swap."
        )
    if host.oom_kill_disable and not host.memory:
        found.append(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system "
            "running out of resources."
        )
    if host.network_mode == "host" and (host.port_bindings or host.publish_all_ports):
        found.append("Published ports are discarded when using host network mode")
    return found
