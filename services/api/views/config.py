"""The nested objects that containers and images share: configuration, host configuration, endpoints, ports.

Null or empty is told apart as Docker tells it: lists that nobody set are null where Go had a nil slice.
"""

from __future__ import annotations

from typing import Any

from services.api.answers import containers as answers
from services.api.versions import Version
from shared.contracts.docker import (
    MASKED_PATHS,
    READONLY_PATHS,
    ContainerConfig,
    EndpointSettings,
    HealthConfig,
    HostConfig,
    IpamEndpoint,
    PortMap,
)

# Lists and maps of HostConfig that the CLI sends empty, and that stay so; the others are null when empty.
EMPTY_NOT_NULL = frozenset(
    {
        "Dns",
        "DnsOptions",
        "DnsSearch",
        "BlkioWeightDevice",
        "BlkioDeviceReadBps",
        "BlkioDeviceWriteBps",
        "BlkioDeviceReadIOps",
        "BlkioDeviceWriteIOps",
        "Devices",
        "Ulimits",
        "PortBindings",
        "LogConfig",
        "RestartPolicy",
        "MaskedPaths",
        "ReadonlyPaths",
    }
)
WITHOUT_KERNEL_MEMORY = (1, 42)
WITHOUT_CONTAINER_MAC = (1, 52)
# Fields that are left out when they hold nothing.
OMITTED_WHEN_EMPTY = frozenset(
    {"Annotations", "Mounts", "Tmpfs", "Sysctls", "StorageOpt", "Runtime", "Init", "KernelMemory", "KernelMemoryTCP"}
)


def config(value: ContainerConfig) -> dict[str, Any]:
    result: dict[str, Any] = {
        "Hostname": value.hostname,
        "Domainname": value.domainname,
        "User": value.user,
        "AttachStdin": value.attach_stdin,
        "AttachStdout": value.attach_stdout,
        "AttachStderr": value.attach_stderr,
        "Tty": value.tty,
        "OpenStdin": value.open_stdin,
        "StdinOnce": value.stdin_once,
        "Env": value.env,
        "Cmd": value.cmd,
        "Image": value.image,
        "Volumes": value.volumes or None,
        "WorkingDir": value.working_dir,
        "Entrypoint": value.entrypoint,
        "OnBuild": value.on_build,
        "Labels": value.labels,
    }
    optional: dict[str, Any] = {
        "ExposedPorts": value.exposed_ports,
        "Healthcheck": health_config(value.healthcheck) if value.healthcheck is not None else None,
        "ArgsEscaped": value.args_escaped,
        "NetworkDisabled": value.network_disabled,
        "MacAddress": value.mac_address,
        "StopSignal": value.stop_signal,
        "Shell": value.shell,
    }
    result.update((name, item) for name, item in optional.items() if item)
    if value.stop_timeout is not None:
        result["StopTimeout"] = value.stop_timeout
    return result


def container_config(value: ContainerConfig, version: Version) -> dict[str, Any]:
    """A container's configuration, without what later versions have elsewhere or leave out when it is empty."""
    result = config(value)
    if version >= WITHOUT_CONTAINER_MAC:
        result.pop("MacAddress", None)
        if not value.on_build:
            del result["OnBuild"]
    return result


def health_config(value: HealthConfig) -> dict[str, Any]:
    dumped = value.model_dump(by_alias=True)
    return {name: item for name, item in dumped.items() if item}


def host_config(value: HostConfig, version: Version) -> dict[str, Any]:
    result = value.model_dump(by_alias=True)
    for name, item in list(result.items()):
        if name in OMITTED_WHEN_EMPTY and (item is None or item in ("", 0) or item in ({}, [])):
            del result[name]
        elif name not in EMPTY_NOT_NULL and isinstance(item, list | dict) and not item:
            result[name] = None
    if version < WITHOUT_KERNEL_MEMORY:
        result["KernelMemory"], result["KernelMemoryTCP"] = value.kernel_memory, value.kernel_memory_tcp
    if not value.privileged and "systempaths=unconfined" not in value.security_opt:
        for name, given, default in (
            ("MaskedPaths", value.masked_paths, MASKED_PATHS),
            ("ReadonlyPaths", value.readonly_paths, READONLY_PATHS),
        ):
            if given is None:
                result[name] = list(default)
    if not result["ConsoleSize"]:
        result["ConsoleSize"] = [0, 0]
    if value.mounts:
        result["Mounts"] = [
            _without_empty(mount.model_dump(by_alias=True, exclude_none=True)) for mount in value.mounts
        ]
    result["LogConfig"] = {"Type": value.log_config.type, "Config": value.log_config.config}
    return result


def _without_empty(value: dict[str, Any]) -> dict[str, Any]:
    """Docker leaves out what a mount does not set; Type and Target are always there."""
    return {name: item for name, item in value.items() if item or name in ("Type", "Target")}


def _aliases(value: EndpointSettings, version: Version) -> list[str]:
    """Before 1.45 also the short id and the host name: all names but the container's own."""
    return value.dns_names[1:] if version < (1, 45) and value.dns_names else value.aliases


def endpoint(value: EndpointSettings, version: Version) -> answers.Endpoint:
    result: answers.Endpoint = {
        "IPAMConfig": ipam(value.ipam_config) if value.ipam_config else None,
        "Links": value.links or None,
        "Aliases": _aliases(value, version) or None,
        "MacAddress": value.mac_address,
        "DriverOpts": value.driver_opts or None,
        "NetworkID": value.network_id,
        "EndpointID": value.endpoint_id,
        "Gateway": value.gateway,
        "IPAddress": value.ip_address,
        "IPPrefixLen": value.ip_prefix_len,
        "IPv6Gateway": value.ipv6_gateway,
        "GlobalIPv6Address": value.global_ipv6_address,
        "GlobalIPv6PrefixLen": value.global_ipv6_prefix_len,
    }
    if version >= (1, 44):
        result["DNSNames"] = value.dns_names or None
    if version >= (1, 48):
        result["GwPriority"] = value.gw_priority
    return result


def ipam(value: IpamEndpoint) -> answers.IpamConfig:
    result: answers.IpamConfig = {}
    if value.ipv4_address:
        result["IPv4Address"] = value.ipv4_address
    if value.ipv6_address:
        result["IPv6Address"] = value.ipv6_address
    if value.link_local_ips:
        result["LinkLocalIPs"] = value.link_local_ips
    return result


def ports(value: PortMap) -> answers.Ports:
    """Container port -> its bindings; null for one that is exposed but not published."""
    return {
        port: [{"HostIp": item.host_ip, "HostPort": item.host_port} for item in bindings] or None
        for port, bindings in value.items()
    }


def port_list(value: PortMap) -> list[answers.PortShown]:
    """The ports of a line of `docker ps`."""
    result: list[answers.PortShown] = []
    for port, bindings in value.items():
        number, _, protocol = port.partition("/")
        private: answers.PortShown = {"PrivatePort": int(number.split("-")[0]), "Type": protocol or "tcp"}
        result += [{"IP": item.host_ip, "PublicPort": int(item.host_port or 0), **private} for item in bindings] or [
            private
        ]
    return result
