"""From Docker's record of a container to an OCI configuration. Pure but for what it asks about device files.

Source: OCI runtime-spec 1.2, config.md and config-linux.md; Docker Engine API 1.50, HostConfig.
"""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from services.executor.agent.mounts import OciMount, shm_size_bytes
from services.executor.runtime import capabilities, defaults, seccomp, seccomp_default
from services.executor.runtime.seccomp_profile import resolve_profile
from shared.contracts.containers import ExecSpec
from shared.contracts.docker import DeviceMapping, HostConfig
from shared.contracts.node import ContainerOrder
from shared.errors import InvalidArgument

OCI_VERSION = "1.2.0"
# Has all that is asked of other runtimes, some of which refuse what is newer.
COMMON_OCI_VERSION = "1.0.2"
CPU_PERIOD_US = 100_000
# Looked up like any user: the image's group file may give root more groups.
ROOT = "0"
INIT_TARGET = "/sbin/docker-init"


@dataclass(frozen=True, slots=True)
class SpecInput:
    """What the order does not say.

    Attributes:
        netns_path: Namespace file to join, where ``{fd:0}`` stands for the descriptor sent along; None for the
            host's or another container's.
        joined_pid: Pid of a running container by its full id and the kind of the namespace shared with it.
        mounts: OCI mounts beside the defaults, in order.
        init_path: Host path of the static init to run as PID 1; empty without ``--init``.
    """

    order: ContainerOrder
    netns_path: str | None
    joined_pid: Callable[[str, str], int]
    mounts: list[OciMount]
    init_path: str = ""
    cgroup_v2: bool = False


@dataclass(frozen=True, slots=True)
class ProcessPlan:
    """An OCI process, and what is resolved inside the root file system or compiled ahead.

    Attributes:
        user: As the client wrote it (``name``, ``uid:gid``…), looked up in the container's passwd and group.
        seccomp: The compiled filter in base64; empty for none.
    """

    process: dict[str, Any]
    user: dict[str, Any]
    seccomp: str = ""


@dataclass(frozen=True, slots=True)
class SpecPlan:
    spec: dict[str, Any]
    user: dict[str, Any]
    seccomp: str = ""


@dataclass(slots=True)
class SecurityOptions:
    """HostConfig.SecurityOpt, parsed. `profile`: "" is the default one, "unconfined" none, else a JSON text."""

    no_new_privileges: bool = False
    profile: str = ""
    unconfined_paths: bool = False
    labels: list[str] = field(default_factory=list)


def security_options(options: Iterable[str]) -> SecurityOptions:
    """Raises InvalidArgument for an option that is unknown or cannot be honoured here."""
    result = SecurityOptions()
    for option in options:
        key, separator, value = option.partition("=")
        if not separator:
            key, separator, value = option.partition(":")
        match key:
            case "no-new-privileges":
                result.no_new_privileges = value in ("", "1", "t", "T", "true", "TRUE", "True")
            case "seccomp":
                result.profile = "" if value == "builtin" else value
            case "systempaths" if value == "unconfined":
                result.unconfined_paths = True
            case "apparmor" if value in ("unconfined", ""):
                continue
            case "label" if value == "disable":
                continue
            case _:
                raise InvalidArgument(f"invalid --security-opt 2: {option!r}", field="HostConfig.SecurityOpt")
    return result


# Seccomp


@lru_cache(maxsize=64)
def _compiled(profile: str, caps: tuple[str, ...]) -> str:
    rules = seccomp_default.default_profile() if not profile else orjson.loads(profile)
    return base64.b64encode(seccomp.compile_profile(rules, caps).program).decode()


def seccomp_rules(options: SecurityOptions, privileged: bool, caps: list[str]) -> dict[str, Any] | None:
    """linux.seccomp, for a runtime that compiles it itself; None without a filter. Raises as `seccomp_filter`."""
    if options.profile == "unconfined" or (privileged and not options.profile):
        return None
    try:
        rules = orjson.loads(options.profile) if options.profile else seccomp_default.default_profile()
    except orjson.JSONDecodeError as error:
        raise InvalidArgument(f"Decoding seccomp profile failed: {error}", field="HostConfig.SecurityOpt") from error
    return resolve_profile(rules, caps, os.uname().release, os.uname().machine)


def seccomp_filter(options: SecurityOptions, privileged: bool, caps: list[str]) -> str:
    """The compiled filter in base64. Raises InvalidArgument for a profile that cannot be read."""
    if options.profile == "unconfined" or (privileged and not options.profile):
        return ""
    try:
        return _compiled(options.profile, tuple(sorted(caps)))
    except orjson.JSONDecodeError as error:
        raise InvalidArgument(f"Decoding seccomp profile failed: {error}", field="HostConfig.SecurityOpt") from error


# Namespaces


def _shared(mode: str, kind: str, joined_pid: Callable[[str, str], int]) -> dict[str, str]:
    return {"type": kind, "path": f"/proc/{joined_pid(mode.partition(':')[2], kind)}/ns/{NS_FILE[kind]}"}


NS_FILE = {"network": "net", "pid": "pid", "ipc": "ipc"}


def _namespaces(source: SpecInput) -> list[dict[str, str]]:
    order, host = source.order, source.order.host_config
    result: list[dict[str, str]] = [{"type": "mount"}]
    if source.netns_path is not None:
        result.append({"type": "network", "path": source.netns_path})
    elif order.network_mode.startswith("container:"):
        result.append(_shared(order.network_mode, "network", source.joined_pid))
    for mode, kind in ((host.pid_mode, "pid"), (host.ipc_mode, "ipc")):
        if mode.startswith("container:"):
            result.append(_shared(mode, kind, source.joined_pid))
        elif mode != "host":
            result.append({"type": kind})
    if host.uts_mode != "host":
        result.append({"type": "uts"})
    private_cgroup = host.cgroupns_mode == "private" or (not host.cgroupns_mode and source.cgroup_v2)
    if private_cgroup and not (host.privileged and not host.cgroupns_mode):
        result.append({"type": "cgroup"})
    return result


# Devices and resources


def _device(path: str, in_container: str) -> dict[str, Any] | None:
    info = os.stat(path)
    kind = "c" if stat.S_ISCHR(info.st_mode) else "b" if stat.S_ISBLK(info.st_mode) else None
    if kind is None:
        return None
    return {
        "path": in_container,
        "type": kind,
        "major": os.major(info.st_rdev),
        "minor": os.minor(info.st_rdev),
        "fileMode": stat.S_IMODE(info.st_mode),
        "uid": info.st_uid,
        "gid": info.st_gid,
    }


def _devices_below(directory: str, in_container: str) -> list[dict[str, Any]]:
    found = []
    for root, folders, files in os.walk(directory):
        if root == "/dev":
            folders[:] = [name for name in folders if name not in ("pts", "shm", "fd", "mqueue", ".udev")]
        for name in files:
            path = os.path.join(root, name)
            if path in ("/dev/console",) or os.path.islink(path):
                continue
            device = _device(path, in_container + path[len(directory) :])
            if device is not None:
                found.append(device)
    return found


def mapped_devices(mappings: Iterable[DeviceMapping]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """OCI devices and their cgroup rules. Raises InvalidArgument when a host path is no device."""
    devices: list[dict[str, Any]] = []
    rules: list[dict[str, Any]] = []
    for mapping in mappings:
        target = mapping.path_in_container or mapping.path_on_host
        try:
            path = os.path.realpath(mapping.path_on_host, strict=True)
            one = _device(path, target)
            found = [one] if one else _devices_below(path, target) if os.path.isdir(path) else []
        except OSError as error:
            raise InvalidArgument(
                f'error gathering device information while adding custom device "{mapping.path_on_host}": '
                f"{(error.strerror or str(error)).lower()}",
                field="HostConfig.Devices",
            ) from error
        if not found:
            raise InvalidArgument(
                f'error gathering device information while adding custom device "{mapping.path_on_host}": '
                "not a device node",
                field="HostConfig.Devices",
            )
        devices += found
        rules += [
            {
                "allow": True,
                "type": device["type"],
                "major": device["major"],
                "minor": device["minor"],
                "access": mapping.cgroup_permissions or "rwm",
            }
            for device in found
        ]
    return devices, rules


def device_rule(text: str) -> dict[str, Any]:
    """``c 42:* rmw`` as an OCI rule. Control has checked the grammar."""
    kind, numbers, access = text.split()
    major, _, minor = numbers.partition(":")
    rule: dict[str, Any] = {"allow": True, "type": kind, "access": access}
    if major != "*":
        rule["major"] = int(major)
    if minor != "*":
        rule["minor"] = int(minor)
    return rule


def _cpu(host: HostConfig) -> dict[str, Any]:
    cpu: dict[str, Any] = {}
    if host.cpu_shares:
        cpu["shares"] = host.cpu_shares
    if host.nano_cpus:
        cpu["period"] = CPU_PERIOD_US
        cpu["quota"] = host.nano_cpus * CPU_PERIOD_US // 1_000_000_000
    if host.cpu_period:
        cpu["period"] = host.cpu_period
    if host.cpu_quota:
        cpu["quota"] = host.cpu_quota
    if host.cpu_realtime_period:
        cpu["realtimePeriod"] = host.cpu_realtime_period
    if host.cpu_realtime_runtime:
        cpu["realtimeRuntime"] = host.cpu_realtime_runtime
    if host.cpuset_cpus:
        cpu["cpus"] = host.cpuset_cpus
    if host.cpuset_mems:
        cpu["mems"] = host.cpuset_mems
    return cpu


def _memory(host: HostConfig) -> dict[str, Any]:
    memory: dict[str, Any] = {}
    if host.memory:
        memory["limit"] = host.memory
        memory["swap"] = host.memory_swap or host.memory * 2
    if host.memory_swap and not host.memory:
        memory["swap"] = host.memory_swap
    if host.memory_reservation:
        memory["reservation"] = host.memory_reservation
    if host.memory_swappiness is not None and host.memory_swappiness >= 0:
        memory["swappiness"] = host.memory_swappiness
    if host.oom_kill_disable:
        memory["disableOOMKiller"] = True
    if host.kernel_memory_tcp:
        memory["kernelTCP"] = host.kernel_memory_tcp
    return memory


def _throttle(devices: Iterable[Any]) -> list[dict[str, int]]:
    result = []
    for device in devices:
        try:
            number = os.stat(device.path).st_rdev
        except OSError as error:
            raise InvalidArgument(
                f"stat {device.path}: {(error.strerror or str(error)).lower()}", field="HostConfig.Blkio"
            ) from error
        entry = {"major": os.major(number), "minor": os.minor(number)}
        entry["rate" if hasattr(device, "rate") else "weight"] = (
            device.rate if hasattr(device, "rate") else device.weight
        )
        result.append(entry)
    return result


def _block_io(host: HostConfig) -> dict[str, Any]:
    block: dict[str, Any] = {}
    if host.blkio_weight:
        block["weight"] = host.blkio_weight
    for name, key in (
        ("blkio_weight_device", "weightDevice"),
        ("blkio_device_read_bps", "throttleReadBpsDevice"),
        ("blkio_device_write_bps", "throttleWriteBpsDevice"),
        ("blkio_device_read_iops", "throttleReadIOPSDevice"),
        ("blkio_device_write_iops", "throttleWriteIOPSDevice"),
    ):
        if devices := getattr(host, name):
            block[key] = _throttle(devices)
    return block


def oci_resources(host: HostConfig, *, devices: bool = True) -> dict[str, Any]:
    """linux.resources of a container; without device rules for an update."""
    resources: dict[str, Any] = {}
    for key, part in (("cpu", _cpu(host)), ("memory", _memory(host)), ("blockIO", _block_io(host))):
        if part:
            resources[key] = part
    if host.pids_limit:
        resources["pids"] = {"limit": host.pids_limit if host.pids_limit > 0 else -1}
    if devices:
        if host.privileged:
            resources["devices"] = defaults.device_rules(privileged=True)
        else:
            rules = [device_rule(text) for text in host.device_cgroup_rules]
            resources["devices"] = defaults.device_rules(privileged=False) + mapped_devices(host.devices)[1] + rules
    return resources


# Process


def _rlimits(host: HostConfig) -> list[dict[str, Any]]:
    return [
        {"type": f"RLIMIT_{limit.name.upper()}", "soft": limit.soft & (2**64 - 1), "hard": limit.hard & (2**64 - 1)}
        for limit in host.ulimits
    ]


def _process(
    args: list[str], env: list[str], cwd: str, tty: bool, console_size: list[int], caps: list[str]
) -> dict[str, Any]:
    process: dict[str, Any] = {
        "terminal": tty,
        "user": {"uid": 0, "gid": 0},
        "args": args,
        # Docker leaves out what has no value, which the runtime would refuse
        "env": [entry for entry in env if entry.find("=") > 0],
        "cwd": cwd or "/",
        "capabilities": defaults.capability_sets(caps, 0),
    }
    if tty and len(console_size) == 2 and all(console_size):
        process["consoleSize"] = {"height": console_size[0], "width": console_size[1]}
    return process


def exec_process(order: ContainerOrder, spec: ExecSpec, console_size: list[int]) -> ProcessPlan:
    """The OCI process of an exec: the container's environment and limits, its own user, directory and variables."""
    host = order.host_config
    privileged = host.privileged or spec.privileged
    caps = capabilities.docker_capabilities(host.cap_add, host.cap_drop, privileged)
    options = security_options(host.security_opt)
    env = _merged_env(order.config.env + (["TERM=xterm"] if spec.tty else []), spec.env)
    cwd = spec.working_dir or order.config.working_dir
    process = _process(spec.cmd, env, cwd, spec.tty, console_size or spec.console_size, caps)
    process["noNewPrivileges"] = options.no_new_privileges
    process["oomScoreAdj"] = host.oom_score_adj
    process["rlimits"] = _rlimits(host)
    return ProcessPlan(
        process,
        {"user": spec.user or order.config.user or ROOT, "groups": host.group_add},
        seccomp_filter(options, privileged, caps),
    )


def _merged_env(base: list[str], more: list[str]) -> list[str]:
    merged = {entry.partition("=")[0]: entry for entry in base}
    for entry in more:
        name, separator, _ = entry.partition("=")
        if separator:
            merged[name] = entry
        else:  # a bare name removes the variable
            merged.pop(name, None)
    return list(merged.values())


# The whole


def _paths(host: HostConfig, options: SecurityOptions) -> tuple[list[str], list[str]]:
    masked, read_only = host.masked_paths, host.readonly_paths
    open_ = host.privileged or options.unconfined_paths
    return (
        ([] if open_ else list(defaults.MASKED_PATHS)) if masked is None else masked,
        ([] if open_ else list(defaults.READONLY_PATHS)) if read_only is None else read_only,
    )


def _shared_memory(host: HostConfig, base: list[OciMount]) -> list[OciMount]:
    """The default mounts with /dev/shm as the IPC mode wants it: one's own, another's, the host's, or none."""
    others = [mount for mount in base if mount["destination"] != "/dev/shm"]
    match host.ipc_mode.partition(":")[0]:
        case "none":
            return others
        case "container":  # of which the launch sends the mount itself along
            return [*others, {"destination": "/dev/shm", "type": "bind", "source": "/dev/shm", "options": ["bind"]}]
        case "host":
            others = [mount for mount in others if mount["destination"] != "/dev/mqueue"]
            return others + [
                {"destination": path, "type": "bind", "source": path, "options": ["rbind", "nosuid", "noexec", "nodev"]}
                for path in ("/dev/shm", "/dev/mqueue")
                if Path(path).is_dir()
            ]
        case _:
            return base


def _mounts(source: SpecInput) -> list[OciMount]:
    host = source.order.host_config
    taken = {mount["destination"].rstrip("/") or "/" for mount in source.mounts}
    base = _shared_memory(host, defaults.mounts(privileged=host.privileged, shm_bytes=shm_size_bytes(host)))
    tmpfs: list[OciMount] = [
        {
            "destination": target,
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["noexec", "nosuid", "nodev", *[word for word in options.split(",") if word]],
        }
        for target, options in host.tmpfs.items()
        if target.rstrip("/") not in taken
    ]
    taken |= {mount["destination"].rstrip("/") for mount in tmpfs}
    result = [mount for mount in base if mount["destination"] not in taken] + tmpfs + source.mounts
    if source.init_path:
        result.append(
            {"destination": INIT_TARGET, "type": "bind", "source": source.init_path, "options": ["bind", "ro"]}
        )
    return result


def _devices(host: HostConfig) -> list[dict[str, Any]]:
    """Privileged: all of the host's, and those mapped to another path."""
    if not host.privileged:
        return mapped_devices(host.devices)[0]
    elsewhere = [one for one in host.devices if one.path_in_container not in ("", one.path_on_host)]
    return _devices_below("/dev", "/dev") + mapped_devices(elsewhere)[0]


def oci_spec(source: SpecInput) -> SpecPlan:
    """The OCI configuration of an order.

    Raises:
        InvalidArgument: A device, profile or option that cannot be honoured, with its field.
    """
    order, host = source.order, source.order.host_config
    options = security_options(host.security_opt)
    caps = capabilities.docker_capabilities(host.cap_add, host.cap_drop, host.privileged)
    args = [order.path, *order.args]
    if source.init_path:
        args = [INIT_TARGET, "--", *args]
    process = _process(args, order.config.env, order.config.working_dir, order.config.tty, host.console_size, caps)
    process["noNewPrivileges"] = options.no_new_privileges
    process["oomScoreAdj"] = host.oom_score_adj
    process["rlimits"] = _rlimits(host)
    masked, read_only = _paths(host, options)
    parent = host.cgroup_parent or "/davit"
    spec = {
        "ociVersion": OCI_VERSION,
        "process": process,
        "root": {"path": "rootfs", "readonly": host.readonly_rootfs},
        "hostname": order.hostname if host.uts_mode != "host" else "",
        "domainname": order.domainname,
        "mounts": _mounts(source),
        "annotations": host.annotations,
        "linux": {
            "namespaces": _namespaces(source),
            "devices": _devices(host),
            "cgroupsPath": f"/{parent.strip('/')}/{order.id}",
            "resources": oci_resources(host),
            "sysctl": defaults.sysctls(network=source.netns_path is not None) | host.sysctls,
            "maskedPaths": masked,
            "readonlyPaths": read_only,
            "rootfsPropagation": _propagation(order),
        },
    }
    if not spec["hostname"]:
        del spec["hostname"]
    if not order.domainname:
        del spec["domainname"]
    return SpecPlan(
        spec,
        {"user": order.config.user or ROOT, "groups": host.group_add},
        seccomp_filter(options, host.privileged, caps),
    )


def foreign_spec(order: ContainerOrder, spec: dict[str, Any]) -> dict[str, Any]:
    """The same configuration for another runtime: in words that old ones know too."""
    host = order.host_config
    caps = capabilities.docker_capabilities(host.cap_add, host.cap_drop, host.privileged)
    linux = dict(spec["linux"])
    rules = seccomp_rules(security_options(host.security_opt), host.privileged, caps)
    if rules is not None:
        linux["seccomp"] = rules
    adapted = {**spec, "ociVersion": COMMON_OCI_VERSION, "linux": linux}
    if domainname := adapted.pop("domainname", ""):
        linux["sysctl"] = {**linux["sysctl"], "kernel.domainname": domainname}
    return adapted


def _propagation(order: ContainerOrder) -> str:
    """The root's propagation must let through what the most open mount asks for."""
    modes = {mount.propagation for mount in order.mounts}
    if modes & {"rshared", "shared"}:
        return "rshared"
    if modes & {"rslave", "slave"}:
        return "rslave"
    return "rprivate"
