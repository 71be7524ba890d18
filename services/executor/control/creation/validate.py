"""What Docker refuses of a container's configuration, with its words: an ordered tuple of named checks.

Source: the reference engine's answers; Docker Engine API 1.50, ContainerCreate.
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
from collections.abc import Callable

from services.executor.control.creation.confinement import (
    capabilities,
    devices,
    namespaces,
    security_options,
    sysctls,
)
from services.executor.control.creation.limits import blkio, cpu, memory, memory_nodes, ulimits
from services.executor.control.creation.subject import Subject, refuse, unsupported
from shared.contracts.docker import RestartPolicy
from shared.docker.logconfig import check_driver, check_options
from shared.docker.signals import parse_signal

HOSTNAME = re.compile(r"^[a-zA-Z0-9_.-]+$")
MAX_HOSTNAME = 64
MAX_PORT = 65535
MAX_TERMINAL = 65535
PORT = re.compile(r"^(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?$")
# tmpfs(5), and the flags of mount(8) that apply to it.
TMPFS_VALUES = frozenset({"size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"})
TMPFS_FLAGS = frozenset(
    {
        "async", "atime", "defaults", "dev", "diratime", "dirsync", "exec", "mand", "noatime", "nodev", "nodiratime",
        "noexec", "nomand", "norelatime", "nostrictatime", "nosuid", "private", "relatime", "ro", "rprivate", "rshared",
        "rslave", "runbindable", "rw", "shared", "slave", "strictatime", "suid", "sync", "tmpcopyup", "unbindable",
    }
)  # fmt: skip
POLICIES = ("", "no", "always", "on-failure", "unless-stopped")


def environment(subject: Subject) -> None:
    for entry in subject.config.env:
        if not entry.partition("=")[0]:
            raise refuse(f"invalid environment variable: {entry}", "Env")


def no_nul(subject: Subject) -> None:
    """What the kernel takes as texts that end at a NUL cannot have one inside."""
    config = subject.config
    for name, values in (
        ("Env", config.env),
        ("Entrypoint", config.entrypoint or ()),
        ("Cmd", config.cmd or ()),
        ("WorkingDir", (config.working_dir,)),
        ("User", (config.user,)),
    ):
        if any("\0" in value for value in values):
            raise refuse(f"invalid {name}: it has a NUL character inside", name)


def hostname(subject: Subject) -> None:
    name = subject.config.hostname
    # Docker takes more than RFC 1123 does; what the kernel or a line of /etc/hosts cannot hold is refused.
    if name and (len(name) > MAX_HOSTNAME or not HOSTNAME.match(name)):
        raise refuse(f"invalid hostname format: {name}", "Hostname")


def working_dir(subject: Subject) -> None:
    path = subject.config.working_dir
    if path and not path.startswith("/"):
        raise refuse(f"the working directory '{path}' is invalid, it needs to be an absolute path", "WorkingDir")


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
            raise refuse(f"{words} in Healthcheck cannot be less than 1ms", f"Healthcheck.{words}")
    if check.retries < 0:
        raise refuse("Retries in Healthcheck cannot be negative", "Healthcheck.Retries")


def check_restart_policy(policy: RestartPolicy) -> None:
    """Raises InvalidArgument; also used by updates."""
    if policy.name not in POLICIES:
        raise refuse(
            f"invalid restart policy: unknown policy '{policy.name}'; use one of 'no', 'always', 'on-failure', or "
            "'unless-stopped'",
            "HostConfig.RestartPolicy.Name",
        )
    if policy.maximum_retry_count < 0:
        raise refuse(
            "invalid restart policy: maximum retry count cannot be negative",
            "HostConfig.RestartPolicy.MaximumRetryCount",
        )
    if policy.maximum_retry_count and policy.name != "on-failure":
        raise refuse(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
            "HostConfig.RestartPolicy.MaximumRetryCount",
        )


def restart(subject: Subject) -> None:
    policy = subject.host.restart_policy
    check_restart_policy(policy)
    if subject.host.auto_remove and policy.name not in ("", "no"):
        raise refuse("can't create 'AutoRemove' container with restart policy", "HostConfig.AutoRemove")


def ports(subject: Subject) -> None:
    for port in [*subject.config.exposed_ports, *subject.host.port_bindings]:
        match = PORT.match(port)
        if not match or not 0 < int(match[1]) <= MAX_PORT:
            raise refuse(f'invalid port specification: "{port}"', "HostConfig.PortBindings")
    for bindings in subject.host.port_bindings.values():
        for binding in bindings:
            if binding.host_port and not _is_port_or_range(binding.host_port):
                raise refuse(f'invalid port specification: "{binding.host_port}"', "HostConfig.PortBindings")


def _is_port_or_range(text: str) -> bool:
    if not re.fullmatch(r"\d{1,5}(-\d{1,5})?", text):
        return False
    first, _, last = text.partition("-")
    return int(first) <= int(last or first) <= MAX_PORT


def network_mode(subject: Subject) -> None:
    host, config = subject.host, subject.config
    shared = host.network_mode.startswith("container:")
    if not shared and host.network_mode != "host":
        return
    if shared and not host.network_mode.partition(":")[2]:
        raise refuse("Invalid network mode: invalid container format container:<name|id>", "HostConfig.NetworkMode")
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
            raise refuse(text, "HostConfig.NetworkMode")


def runtime(subject: Subject) -> None:
    name = subject.host.runtime
    if name and name not in subject.daemon_runtimes:
        raise refuse(f"unknown or invalid runtime name: {name}", "HostConfig.Runtime")


def log_driver(subject: Subject) -> None:
    log = subject.host.log_config
    driver = log.type or "json-file"
    check_driver(driver, "HostConfig.LogConfig.Type")
    check_options(driver, log.config, "HostConfig.LogConfig.Config")


def extra_hosts(subject: Subject) -> None:
    for entry in subject.host.extra_hosts:
        name, separator, address = entry.replace("=", ":", 1).partition(":")
        if not separator or not name:
            raise refuse(f'bad format for add-host: "{entry}"', "HostConfig.ExtraHosts")
        if address != "host-gateway":
            _check_address(address.strip("[]"), f'invalid IP address in add-host: "{address}"', "HostConfig.ExtraHosts")


def name_servers(subject: Subject) -> None:
    for address in subject.host.dns:
        _check_address(address, f"{address} is not an IP address", "HostConfig.Dns")


def _check_address(address: str, text: str, field: str) -> None:
    try:
        ipaddress.ip_address(address)
    except ValueError as error:
        raise refuse(text, field) from error


def tmpfs(subject: Subject) -> None:
    for target, options in subject.host.tmpfs.items():
        if not target.startswith("/"):
            raise refuse(f"invalid mount path: '{target}' mount path must be absolute", "HostConfig.Tmpfs")
        if posixpath.normpath(target).strip("/") == "":
            raise refuse("invalid specification: destination can't be '/'", "HostConfig.Tmpfs")
        for word in filter(None, options.split(",")):
            name, separator, value = word.partition("=")
            if (name not in TMPFS_VALUES or not value) if separator else word not in TMPFS_FLAGS:
                raise refuse(f'invalid tmpfs option ["{word}"]', "HostConfig.Tmpfs")


def check_terminal_size(rows: int, columns: int, *fields: str) -> None:
    """Also used by resizes and execs. A terminal has 16 bits for each; Docker takes what is left of a larger number.

    Args:
        fields: One for both, or one for each.
    """
    for number, field in ((rows, fields[0]), (columns, fields[-1])):
        if not 0 <= number <= MAX_TERMINAL:
            raise refuse(f"invalid terminal size: {number} is not from 0 to {MAX_TERMINAL} ({field})", field)


def check_console_size(size: list[int], field: str) -> None:
    """Rows and columns, or nothing."""
    if not size:
        return
    if len(size) != 2:
        raise refuse(f"invalid {field}: it is [height, width]", field)
    check_terminal_size(size[0], size[1], field)


def console_size(subject: Subject) -> None:
    check_console_size(subject.host.console_size, "HostConfig.ConsoleSize")


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
            raise unsupported(name, why)


CHECKS: tuple[Callable[[Subject], None], ...] = (
    environment,
    no_nul,
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
    sysctls,
    extra_hosts,
    name_servers,
    ulimits,
    tmpfs,
    console_size,
    refused_fields,
)


def check(subject: Subject) -> None:
    """Raises InvalidArgument for the first thing that is wrong, naming its field."""
    for one in CHECKS:
        one(subject)


def warnings(subject: Subject) -> list[str]:
    """What Docker tells a client whose container was created all the same."""
    host, found = subject.host, []
    if host.oom_kill_disable and not host.memory:
        found.append(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system "
            "running out of resources."
        )
    if host.network_mode == "host" and (host.port_bindings or host.publish_all_ports):
        found.append("Published ports are discarded when using host network mode")
    check = subject.config.healthcheck
    if check is not None and check.test and check.test[0] not in ("NONE", "CMD", "CMD-SHELL"):
        found.append(
            f"Healthcheck.Test begins with {check.test[0]!r}, which is none of NONE, CMD and CMD-SHELL: "
            "the container's health is not looked at"
        )
    return found
