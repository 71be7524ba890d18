"""Docker's own nested objects, as both ends of the bus and the API edge use them.

Attributes are snake_case; the JSON names are Docker's. A field absent from the JSON has Docker's default. Whether a
value is allowed, or supported here, is decided by the service that owns the object, never by these models.

Source: Docker Engine API 1.50, definitions ContainerConfig, HostConfig, EndpointSettings, Mount and those they name.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_pascal

from shared.auditing.secret import ENTRIES, VALUES
from shared.docker.integers import Int64, OptionalInt64, UInt16, UInt32, UInt64
from shared.docker.null import OBJECT_MAP, OBJECTS, Bool, Set, Str, StrList, StrListOrNone, StrMap, or_else

# What `HostConfig.masked_paths` and `readonly_paths` stand for when they are None; nothing when privileged.
MASKED_PATHS = (
    "/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
    "/sys/devices/virtual/powercap",
)  # fmt: skip
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

# What their values may hold is not recorded.
Environment = Annotated[StrList, ENTRIES]
SecretMap = Annotated[StrMap, VALUES]


class DockerModel(BaseModel):
    """Base: Docker's PascalCase names on the wire, unknown fields ignored, as Docker ignores them."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, extra="ignore")


def _words(value: Any) -> Any:
    """Docker takes a bare string where it wants a list of words (Cmd, Entrypoint, OnBuild)."""
    if isinstance(value, list):
        return ["" if one is None else one for one in value]
    return [value] if isinstance(value, str) else value


Words = Annotated[list[str] | None, BeforeValidator(_words)]


class HealthConfig(DockerModel):
    """A health check; durations in nanoseconds, 0 inherits or is the default."""

    test: StrList = Field(default_factory=list)
    interval: Int64 = 0
    timeout: Int64 = 0
    start_period: Int64 = 0
    start_interval: Int64 = 0
    retries: Int64 = 0


class ContainerConfig(DockerModel):
    """What a container is, wherever it runs; also an image's configuration."""

    hostname: Str = ""
    domainname: Str = ""
    user: Str = ""
    attach_stdin: Bool = False
    attach_stdout: Bool = False
    attach_stderr: Bool = False
    exposed_ports: Set = Field(default_factory=dict)
    tty: Bool = False
    open_stdin: Bool = False
    stdin_once: Bool = False
    env: Environment = Field(default_factory=list)
    cmd: Words = None
    healthcheck: HealthConfig | None = None
    args_escaped: Bool = False
    image: Str = ""
    volumes: Set = Field(default_factory=dict)
    working_dir: Str = ""
    entrypoint: Words = None
    network_disabled: Bool = False
    mac_address: Str = ""
    on_build: Words = None
    labels: StrMap = Field(default_factory=dict)
    stop_signal: Str = ""
    stop_timeout: OptionalInt64 = None
    shell: Words = None


class PortBinding(DockerModel):
    host_ip: Str = Field(default="", alias="HostIp")
    host_port: Str = ""


class RestartPolicy(DockerModel):
    """``no`` (or empty), ``always``, ``unless-stopped`` or ``on-failure`` with a count (0: no limit)."""

    name: Str = ""
    maximum_retry_count: Int64 = 0


class LogConfig(DockerModel):
    type: Str = ""
    config: SecretMap = Field(default_factory=dict)


class WeightDevice(DockerModel):
    path: Str = ""
    weight: UInt16 = 0


class ThrottleDevice(DockerModel):
    path: Str = ""
    rate: Int64 = 0


class DeviceMapping(DockerModel):
    path_on_host: Str = ""
    path_in_container: Str = ""
    cgroup_permissions: Str = ""


class DeviceRequest(DockerModel):
    driver: Str = ""
    count: Int64 = 0
    device_ids: StrList = Field(default_factory=list, alias="DeviceIDs")
    capabilities: Annotated[list[StrList], or_else(list)] = Field(default_factory=list)
    options: SecretMap = Field(default_factory=dict)


# getrlimit(2), in lower case without RLIMIT_.
ULIMITS = frozenset(
    {
        "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio",
        "rttime", "sigpending", "stack",
    }
)  # fmt: skip


class Ulimit(DockerModel):
    name: Str = ""
    soft: Int64 = 0
    hard: Int64 = 0


class BindOptions(DockerModel):
    propagation: Str = ""
    non_recursive: Bool = False
    create_mountpoint: Bool = False
    read_only_non_recursive: Bool = False
    read_only_force_recursive: Bool = False


class DriverConfig(DockerModel):
    name: Str = ""
    options: SecretMap = Field(default_factory=dict)


class VolumeOptions(DockerModel):
    no_copy: Bool = False
    labels: StrMap = Field(default_factory=dict)
    driver_config: DriverConfig | None = None
    subpath: Str = ""


class TmpfsOptions(DockerModel):
    size_bytes: Int64 = 0
    mode: UInt32 = 0
    options: Annotated[list[StrList], or_else(list)] = Field(default_factory=list)


class ImageOptions(DockerModel):
    subpath: Str = ""


class Mount(DockerModel):
    """An entry of HostConfig.Mounts, as ``--mount`` makes it."""

    target: Str = ""
    source: Str = ""
    type: Str = ""
    read_only: Bool = False
    consistency: Str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    tmpfs_options: TmpfsOptions | None = None
    image_options: ImageOptions | None = None


PortMap = Annotated[dict[str, Annotated[list[PortBinding], OBJECTS]], or_else(dict)]


class Resources(DockerModel):
    """Limits that `update` may change too. Bytes for memory, 0 for no limit; NanoCpus is 1e-9 CPUs."""

    cpu_shares: Int64 = 0
    memory: Int64 = 0
    cgroup_parent: Str = ""
    blkio_weight: UInt16 = 0
    blkio_weight_device: Annotated[list[WeightDevice], OBJECTS] = Field(default_factory=list)
    blkio_device_read_bps: Annotated[list[ThrottleDevice], OBJECTS] = Field(default_factory=list)
    blkio_device_write_bps: Annotated[list[ThrottleDevice], OBJECTS] = Field(default_factory=list)
    blkio_device_read_iops: Annotated[list[ThrottleDevice], OBJECTS] = Field(
        default_factory=list, alias="BlkioDeviceReadIOps"
    )
    blkio_device_write_iops: Annotated[list[ThrottleDevice], OBJECTS] = Field(
        default_factory=list, alias="BlkioDeviceWriteIOps"
    )
    cpu_period: Int64 = 0
    cpu_quota: Int64 = 0
    cpu_realtime_period: Int64 = 0
    cpu_realtime_runtime: Int64 = 0
    cpuset_cpus: Str = ""
    cpuset_mems: Str = ""
    devices: Annotated[list[DeviceMapping], OBJECTS] = Field(default_factory=list)
    device_cgroup_rules: StrList = Field(default_factory=list)
    device_requests: Annotated[list[DeviceRequest], OBJECTS] = Field(default_factory=list)
    kernel_memory: Int64 = 0
    kernel_memory_tcp: Int64 = Field(default=0, alias="KernelMemoryTCP")
    memory_reservation: Int64 = 0
    memory_swap: Int64 = 0
    memory_swappiness: OptionalInt64 = None
    nano_cpus: Int64 = 0
    oom_kill_disable: bool | None = None
    init: bool | None = None
    pids_limit: OptionalInt64 = None
    ulimits: Annotated[list[Ulimit], OBJECTS] = Field(default_factory=list)
    cpu_count: Int64 = 0
    cpu_percent: Int64 = 0
    io_maximum_iops: UInt64 = Field(default=0, alias="IOMaximumIOps")
    io_maximum_bandwidth: UInt64 = Field(default=0, alias="IOMaximumBandwidth")


class HostConfig(Resources):
    """What a container is given on its host."""

    binds: StrList = Field(default_factory=list)
    container_id_file: Str = Field(default="", alias="ContainerIDFile")
    log_config: Annotated[LogConfig, or_else(LogConfig)] = Field(default_factory=LogConfig)
    network_mode: Str = ""
    port_bindings: PortMap = Field(default_factory=dict)
    restart_policy: Annotated[RestartPolicy, or_else(RestartPolicy)] = Field(default_factory=RestartPolicy)
    auto_remove: Bool = False
    volume_driver: Str = ""
    volumes_from: StrList = Field(default_factory=list)
    mounts: Annotated[list[Mount], OBJECTS] = Field(default_factory=list)
    console_size: Annotated[list[Int64], or_else(list)] = Field(default_factory=list)
    annotations: StrMap = Field(default_factory=dict)
    cap_add: StrList = Field(default_factory=list)
    cap_drop: StrList = Field(default_factory=list)
    cgroupns_mode: Str = ""
    dns: StrList = Field(default_factory=list)
    dns_options: StrList = Field(default_factory=list)
    dns_search: StrList = Field(default_factory=list)
    extra_hosts: StrList = Field(default_factory=list)
    group_add: StrList = Field(default_factory=list)
    ipc_mode: Str = ""
    cgroup: Str = ""
    links: StrList = Field(default_factory=list)
    oom_score_adj: Int64 = 0
    pid_mode: Str = ""
    privileged: Bool = False
    publish_all_ports: Bool = False
    readonly_rootfs: Bool = False
    security_opt: StrList = Field(default_factory=list)
    storage_opt: StrMap = Field(default_factory=dict)
    tmpfs: StrMap = Field(default_factory=dict)
    uts_mode: Str = Field(default="", alias="UTSMode")
    userns_mode: Str = Field(default="", alias="UsernsMode")
    shm_size: Int64 = 0
    sysctls: StrMap = Field(default_factory=dict)
    runtime: Str = ""
    isolation: Str = ""
    masked_paths: StrListOrNone = None
    readonly_paths: StrListOrNone = None


class IpamEndpoint(DockerModel):
    ipv4_address: Str = Field(default="", alias="IPv4Address")
    ipv6_address: Str = Field(default="", alias="IPv6Address")
    link_local_ips: StrList = Field(default_factory=list, alias="LinkLocalIPs")


class EndpointSettings(DockerModel):
    """A container's place in one network: what was asked for, and what it got."""

    ipam_config: IpamEndpoint | None = Field(default=None, alias="IPAMConfig")
    links: StrList = Field(default_factory=list)
    mac_address: Str = ""
    aliases: StrList = Field(default_factory=list)
    driver_opts: StrMap = Field(default_factory=dict)
    gw_priority: Int64 = 0
    network_id: Str = Field(default="", alias="NetworkID")
    endpoint_id: Str = Field(default="", alias="EndpointID")
    gateway: Str = ""
    ip_address: Str = Field(default="", alias="IPAddress")
    ip_prefix_len: Int64 = Field(default=0, alias="IPPrefixLen")
    ipv6_gateway: Str = Field(default="", alias="IPv6Gateway")
    global_ipv6_address: Str = Field(default="", alias="GlobalIPv6Address")
    global_ipv6_prefix_len: Int64 = Field(default=0, alias="GlobalIPv6PrefixLen")
    dns_names: StrList = Field(default_factory=list, alias="DNSNames")


class NetworkingConfig(DockerModel):
    endpoints_config: Annotated[dict[str, EndpointSettings], OBJECT_MAP] = Field(default_factory=dict)
