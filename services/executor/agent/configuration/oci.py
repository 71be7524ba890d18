"""From Docker's record of a container to an OCI configuration. Pure but for what it asks about device files.

Source: OCI runtime-spec 1.2, config.md and config-linux.md; Docker Engine API 1.50, HostConfig.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.executor.agent.configuration.confinement import SecurityOptions, seccomp_filter, security_options
from services.executor.agent.configuration.mounts import OciMount, shm_size_bytes
from services.executor.agent.configuration.resources import devices_below, mapped_devices, oci_resources
from services.executor.runtime.spec import capabilities, defaults
from shared.contracts.containers import ExecSpec
from shared.contracts.docker import HostConfig
from shared.contracts.node import ContainerOrder

OCI_VERSION = "1.2.0"
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
        cgroup: Path of the container's control group below the hierarchy's root.
    """

    order: ContainerOrder
    netns_path: str | None
    joined_pid: Callable[[str, str], int]
    mounts: list[OciMount]
    init_path: str = ""
    cgroup_v2: bool = False
    cgroup: str = ""


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
    return devices_below("/dev", "/dev") + mapped_devices(elsewhere)[0]


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
            "cgroupsPath": source.cgroup,
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


def _propagation(order: ContainerOrder) -> str:
    """The root's propagation must let through what the most open mount asks for."""
    modes = {mount.propagation for mount in order.mounts}
    if modes & {"rshared", "shared"}:
        return "rshared"
    if modes & {"rslave", "slave"}:
        return "rslave"
    return "rprivate"
