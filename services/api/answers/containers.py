"""Answers of /containers and /exec. Source: Docker Engine API 1.50, Container, Exec."""

from __future__ import annotations

from typing import Annotated, NotRequired

from typing_extensions import TypedDict

from services.api.answers.marks import ShownConfig, ShownHostConfig
from services.api.versions import Since, Until
from shared.docker.integers import Int64, UInt16


class Created(TypedDict):
    """What was made, and what may not be as it was meant."""

    Id: str
    Warnings: list[str]


class HealthResult(TypedDict):
    """A probe of a health check."""

    Start: str
    End: str
    ExitCode: Int64
    Output: str


class Health(TypedDict):
    """What a health check has found."""

    Status: str
    FailingStreak: Int64
    Log: list[HealthResult]


class State(TypedDict):
    """A container's state. Moments are RFC 3339; one that has not come is the year 1."""

    Status: str
    Running: bool
    Paused: bool
    Restarting: bool
    OOMKilled: bool
    Dead: bool
    Pid: Int64
    ExitCode: Int64
    Error: str
    StartedAt: str
    FinishedAt: str
    Health: NotRequired[Health]


class MountPoint(TypedDict):
    """Something mounted in a container."""

    Type: str
    Name: NotRequired[str]
    Source: str
    Destination: str
    Driver: NotRequired[str]
    Mode: str
    RW: bool
    Propagation: str


class GraphDriver(TypedDict):
    """Where files lie."""

    Data: dict[str, str] | None
    Name: str


class PortBindingShown(TypedDict):
    """An address of the host that leads to a container."""

    HostIp: str
    HostPort: str


Ports = dict[str, list[PortBindingShown] | None]


class IpamConfig(TypedDict, total=False):
    """Addresses that were asked for."""

    IPv4Address: str
    IPv6Address: str
    LinkLocalIPs: list[str]


class Endpoint(TypedDict):
    """A container's place in a network."""

    IPAMConfig: IpamConfig | None
    Links: list[str] | None
    Aliases: list[str] | None
    MacAddress: str
    DriverOpts: dict[str, str] | None
    NetworkID: str
    EndpointID: str
    Gateway: str
    IPAddress: str
    IPPrefixLen: Int64
    IPv6Gateway: str
    GlobalIPv6Address: str
    GlobalIPv6PrefixLen: Int64
    DNSNames: NotRequired[Annotated[list[str] | None, Since(1, 44)]]
    GwPriority: NotRequired[Annotated[Int64, Since(1, 48)]]


class _BridgeSettings(TypedDict, total=False):
    """What the default bridge gave, where clients of the first versions look."""

    Bridge: Annotated[str, Until(1, 52)]
    HairpinMode: Annotated[bool, Until(1, 52)]
    LinkLocalIPv6Address: Annotated[str, Until(1, 52)]
    LinkLocalIPv6PrefixLen: Annotated[Int64, Until(1, 52)]
    SecondaryIPAddresses: Annotated[None, Until(1, 52)]
    SecondaryIPv6Addresses: Annotated[None, Until(1, 52)]
    EndpointID: Annotated[str, Until(1, 52)]
    Gateway: Annotated[str, Until(1, 52)]
    GlobalIPv6Address: Annotated[str, Until(1, 52)]
    GlobalIPv6PrefixLen: Annotated[Int64, Until(1, 52)]
    IPAddress: Annotated[str, Until(1, 52)]
    IPPrefixLen: Annotated[Int64, Until(1, 52)]
    IPv6Gateway: Annotated[str, Until(1, 52)]
    MacAddress: Annotated[str, Until(1, 52)]


class NetworkSettings(_BridgeSettings):
    """A container's networks and ports."""

    SandboxID: str
    SandboxKey: str
    Ports: Ports
    Networks: dict[str, Endpoint]


class ContainerInspect(TypedDict):
    """All about a container."""

    Id: str
    Created: str
    Path: str
    Args: list[str]
    State: State
    Image: str
    ResolvConfPath: str
    HostnamePath: str
    HostsPath: str
    LogPath: str
    Name: str
    RestartCount: Int64
    Driver: str
    Platform: str
    MountLabel: str
    ProcessLabel: str
    AppArmorProfile: str
    ExecIDs: list[str] | None
    HostConfig: ShownHostConfig
    GraphDriver: GraphDriver
    Mounts: list[MountPoint]
    Config: ShownConfig
    NetworkSettings: NetworkSettings
    Node: NotRequired[NodeName]
    SizeRw: NotRequired[Int64]
    SizeRootFs: NotRequired[Int64]


class NodeName(TypedDict):
    """The node of a cluster that a container is on."""

    Name: str


class HealthSummary(TypedDict):
    """What a health check has found; none without one, and of a container that does not run."""

    Status: str
    FailingStreak: Int64


class PortShown(TypedDict):
    """A port of a container in a list."""

    IP: NotRequired[str]
    PrivatePort: UInt16
    PublicPort: NotRequired[UInt16]
    Type: str


class HostConfigSummary(TypedDict):
    """What lists tell of a container's host configuration."""

    NetworkMode: str
    Annotations: NotRequired[Annotated[dict[str, str], Since(1, 46)]]


class NetworkSettingsSummary(TypedDict):
    Networks: dict[str, Endpoint]


class ContainerSummary(TypedDict):
    """A container in a list."""

    Id: str
    Names: list[str]
    Image: str
    ImageID: str
    Command: str
    Created: Int64
    Ports: list[PortShown]
    Labels: dict[str, str]
    State: str
    Status: str
    HostConfig: HostConfigSummary
    NetworkSettings: NetworkSettingsSummary
    Mounts: list[MountPoint]
    Health: NotRequired[Annotated[HealthSummary, Since(1, 52)]]
    Node: NotRequired[str]
    SizeRw: NotRequired[Int64]
    SizeRootFs: NotRequired[Int64]


class Updated(TypedDict):
    Warnings: list[str] | None


class Processes(TypedDict):
    """A table of processes."""

    Titles: list[str]
    Processes: list[list[str]]


class Change(TypedDict):
    """A path that differs from the image's: 0 is modified, 1 added, 2 deleted."""

    Path: str
    Kind: Int64


class ContainersPruned(TypedDict):
    ContainersDeleted: list[str] | None
    SpaceReclaimed: Int64


class WaitError(TypedDict):
    Message: str


class WaitAnswer(TypedDict):
    """How a container ended."""

    StatusCode: Int64
    Error: NotRequired[WaitError | None]


class ProcessConfig(TypedDict):
    tty: bool
    entrypoint: str
    arguments: list[str]
    privileged: bool
    user: NotRequired[str]


class ExecInspect(TypedDict):
    """All about a process that was added to a container."""

    ID: str
    Running: bool
    ExitCode: Int64 | None
    ProcessConfig: ProcessConfig
    OpenStdin: bool
    OpenStderr: bool
    OpenStdout: bool
    CanRemove: bool
    ContainerID: str
    DetachKeys: str
    Pid: Int64


class Identified(TypedDict):
    """The id of what was made."""

    Id: str
