"""Containers and execs as Docker shows them.

Source: Docker Engine API 1.50, ContainerInspectResponse, ContainerSummary, ExecInspectResponse.
"""

from __future__ import annotations

from services.api.answers import containers as answers
from services.api.versions import Version
from services.api.views import config as parts
from shared.contracts.containers import Container, ContainerState, ContainerSummary, Exec, MountPoint
from shared.contracts.docker import EndpointSettings

STORAGE_DRIVER = "overlay2"
WITH_HEALTH = WITHOUT_BRIDGE_SETTINGS = (1, 52)


def container(value: Container, version: Version, data_root: str) -> answers.ContainerInspect:
    result: answers.ContainerInspect = {
        "Id": value.id,
        "Created": value.created_at,
        "Path": value.path,
        "Args": value.args,
        "State": state(value.state),
        "Image": value.image_id,
        "ResolvConfPath": value.resolv_conf_path,
        "HostnamePath": value.hostname_path,
        "HostsPath": value.hosts_path,
        "LogPath": value.log_path,
        "Name": "/" + value.name.removeprefix("/"),
        "RestartCount": value.restart_count,
        "Driver": STORAGE_DRIVER,
        "Platform": value.platform,
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": value.exec_ids or None,
        "HostConfig": parts.host_config(value.host_config, version),
        "GraphDriver": graph_driver(value, data_root),
        "Mounts": [mount(item) for item in value.mounts],
        "Config": parts.container_config(value.config, version),
        "NetworkSettings": network_settings(value, version),
    }
    if value.size_root_fs_bytes is not None:
        result["SizeRw"] = value.size_rw_bytes or 0
        result["SizeRootFs"] = value.size_root_fs_bytes
    return result


def state(value: ContainerState) -> answers.State:
    result: answers.State = {
        "Status": value.status,
        "Running": value.running,
        "Paused": value.paused,
        "Restarting": value.restarting,
        "OOMKilled": value.oom_killed,
        "Dead": value.dead,
        "Pid": value.pid,
        "ExitCode": value.exit_code,
        "Error": value.error,
        "StartedAt": value.started_at,
        "FinishedAt": value.finished_at,
    }
    if value.health is not None:
        log: list[answers.HealthResult] = [
            {"Start": entry.start, "End": entry.end, "ExitCode": entry.exit_code, "Output": entry.output}
            for entry in value.health.log
        ]
        result["Health"] = {
            "Status": value.health.status,
            "FailingStreak": value.health.failing_streak,
            "Log": log,
        }
    return result


def mount(value: MountPoint) -> answers.MountPoint:
    result: answers.MountPoint = {
        "Type": value.type,
        "Source": value.source,
        "Destination": value.destination,
        "Mode": value.mode,
        "RW": value.rw,
        "Propagation": value.propagation,
    }
    if value.name:
        result["Name"] = value.name
    if value.driver:
        result["Driver"] = value.driver
    return result


def graph_driver(value: Container, data_root: str) -> answers.GraphDriver:
    lower = [f"{data_root}/layers/{layer.removeprefix('sha256:')}/fs" for layer in reversed(value.layers)]
    home = f"{data_root}/containers/{value.id}"
    data = {
        "ID": value.id,
        "LowerDir": ":".join(lower),
        "MergedDir": f"{home}/merged",
        "UpperDir": value.upper_dir or f"{home}/upper",
        "WorkDir": f"{home}/work",
    }
    return {"Data": data, "Name": STORAGE_DRIVER}


def network_settings(value: Container, version: Version) -> answers.NetworkSettings:
    """Addresses per network; in older versions once more at the top for the default bridge, where old clients look."""
    result: answers.NetworkSettings = {
        "SandboxID": value.sandbox_id,
        "SandboxKey": f"/proc/{value.state.pid}/ns/net" if value.state.pid else "",
        "Ports": parts.ports(value.ports),
        "Networks": {name: parts.endpoint(item, version) for name, item in value.networks.items()},
    }
    if version >= WITHOUT_BRIDGE_SETTINGS:
        return result
    bridge = value.networks.get("bridge", EndpointSettings())
    return {
        **result,
        "Bridge": "",
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": bridge.endpoint_id,
        "Gateway": bridge.gateway,
        "GlobalIPv6Address": bridge.global_ipv6_address,
        "GlobalIPv6PrefixLen": bridge.global_ipv6_prefix_len,
        "IPAddress": bridge.ip_address,
        "IPPrefixLen": bridge.ip_prefix_len,
        "IPv6Gateway": bridge.ipv6_gateway,
        "MacAddress": bridge.mac_address,
    }


def summary(value: ContainerSummary, version: Version) -> answers.ContainerSummary:
    host_config: answers.HostConfigSummary = {"NetworkMode": value.network_mode}
    if value.annotations and version >= (1, 46):
        host_config["Annotations"] = value.annotations
    result: answers.ContainerSummary = {
        "Id": value.id,
        "Names": ["/" + value.name.removeprefix("/"), *value.aliases],
        "Image": value.image,
        "ImageID": value.image_id,
        "Command": value.command,
        "Created": value.created_unix,
        "Ports": parts.port_list(value.ports),
        "Labels": value.labels,
        "State": value.status,
        "Status": value.status_text,
        "HostConfig": host_config,
        "NetworkSettings": {"Networks": {name: parts.endpoint(item, version) for name, item in value.networks.items()}},
        "Mounts": [mount(item) for item in value.mounts],
    }
    if value.node:
        result["Node"] = value.node
    if version >= WITH_HEALTH:
        result["Health"] = {"Status": value.health or "none", "FailingStreak": value.failing_streak}
    if value.size_rw_bytes:
        result["SizeRw"] = value.size_rw_bytes
    if value.size_root_fs_bytes is not None:
        result["SizeRootFs"] = value.size_root_fs_bytes
    return result


def exec_process(value: Exec) -> answers.ExecInspect:
    process: answers.ProcessConfig = {
        "tty": value.tty,
        "entrypoint": value.cmd[0] if value.cmd else "",
        "arguments": value.cmd[1:],
        "privileged": value.privileged,
    }
    if value.user:
        process["user"] = value.user
    return {
        "ID": value.id,
        "Running": value.running,
        "ExitCode": value.exit_code,
        "ProcessConfig": process,
        "OpenStdin": value.attach_stdin,
        "OpenStderr": value.attach_stderr,
        "OpenStdout": value.attach_stdout,
        "CanRemove": not value.running and value.exit_code is not None,
        "ContainerID": value.container_id,
        "DetachKeys": value.detach_keys,
        "Pid": value.pid,
    }
