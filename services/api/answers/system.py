"""Answers of the system's routes, and of volumes. Source: Docker Engine API 1.50, System, Volume."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from typing_extensions import TypedDict

from services.api.answers.containers import ContainerSummary
from services.api.answers.images import BuildCacheRecord, ImageSummary
from services.api.answers.swarm import SwarmInfo
from services.api.versions import Since, Until
from shared.docker.integers import Int64


class Component(TypedDict):
    Name: str
    Version: str
    Details: dict[str, str]


class PlatformName(TypedDict):
    Name: str


class SystemVersion(TypedDict):
    """The engine's version, and the API's."""

    Platform: PlatformName
    Components: list[Component]
    Version: str
    ApiVersion: str
    MinAPIVersion: str
    GitCommit: str
    GoVersion: str
    Os: str
    Arch: str
    KernelVersion: str
    BuildTime: str


class Plugins(TypedDict):
    Volume: list[str]
    Network: list[str]
    Authorization: list[str] | None
    Log: list[str]


class RuntimeShown(TypedDict):
    path: str
    runtimeArgs: NotRequired[list[str]]


class Commit(TypedDict):
    ID: str
    Expected: NotRequired[Annotated[str, Until(1, 49)]]


class IndexConfig(TypedDict):
    Name: str
    Mirrors: list[str]
    Secure: bool
    Official: bool


class RegistryConfig(TypedDict):
    InsecureRegistryCIDRs: list[str]
    IndexConfigs: dict[str, IndexConfig]
    Mirrors: list[str]


class Firewall(TypedDict):
    """What filters and translates packets."""

    Driver: str


class AddressPool(TypedDict):
    Base: str
    Size: Int64


class SystemInfo(TypedDict):
    """The engine and its machine."""

    ID: str
    Containers: Int64
    ContainersRunning: Int64
    ContainersPaused: Int64
    ContainersStopped: Int64
    Images: Int64
    Driver: str
    DriverStatus: list[list[str]]
    Plugins: Plugins
    MemoryLimit: bool
    SwapLimit: bool
    CpuCfsPeriod: bool
    CpuCfsQuota: bool
    CPUShares: bool
    CPUSet: bool
    PidsLimit: bool
    OomKillDisable: bool
    IPv4Forwarding: bool
    BridgeNfIptables: NotRequired[Annotated[bool, Until(1, 50)]]
    BridgeNfIp6tables: NotRequired[Annotated[bool, Until(1, 50)]]
    Debug: bool
    NFd: Int64
    NGoroutines: Int64
    SystemTime: str
    LoggingDriver: str
    CgroupDriver: str
    CgroupVersion: str
    NEventsListener: Int64
    KernelVersion: str
    OperatingSystem: str
    OSVersion: str
    OSType: str
    Architecture: str
    IndexServerAddress: str
    RegistryConfig: RegistryConfig
    FirewallBackend: NotRequired[Annotated[Firewall, Since(1, 49)]]
    NCPU: Int64
    MemTotal: Int64
    GenericResources: list[dict[str, Any]] | None
    DockerRootDir: str
    HttpProxy: str
    HttpsProxy: str
    NoProxy: str
    Name: str
    Labels: list[str]
    ExperimentalBuild: bool
    ServerVersion: str
    Runtimes: dict[str, RuntimeShown]
    DefaultRuntime: str
    Swarm: SwarmInfo
    LiveRestoreEnabled: bool
    Isolation: str
    InitBinary: str
    ContainerdCommit: Commit
    RuncCommit: Commit
    InitCommit: Commit
    SecurityOptions: list[str]
    Warnings: list[str] | None
    CDISpecDirs: NotRequired[Annotated[list[str], Since(1, 42)]]
    KernelMemory: NotRequired[Annotated[bool, Until(1, 42)]]
    KernelMemoryTCP: NotRequired[Annotated[bool, Until(1, 42)]]
    DefaultAddressPools: NotRequired[list[AddressPool]]


class VolumeUsage(TypedDict):
    RefCount: Int64
    Size: Int64


class VolumeShown(TypedDict):
    """A volume."""

    CreatedAt: str
    Driver: str
    Labels: dict[str, str] | None
    Mountpoint: str
    Name: str
    Options: dict[str, str] | None
    Scope: str
    Status: NotRequired[dict[str, Any]]
    UsageData: NotRequired[VolumeUsage]


class VolumeList(TypedDict):
    Volumes: list[VolumeShown]
    Warnings: list[str] | None


class VolumesPruned(TypedDict):
    VolumesDeleted: list[str] | None
    SpaceReclaimed: Int64


class Usage(TypedDict):
    """What a kind of objects takes of the disk, in bytes, and how much of it could be had back."""

    ActiveCount: Int64
    TotalCount: Int64
    Reclaimable: Int64
    TotalSize: Int64


class ImageUsage(Usage):
    Items: NotRequired[list[ImageSummary]]


class ContainerUsage(Usage):
    Items: NotRequired[list[ContainerSummary]]


class VolumesUsage(Usage):
    Items: NotRequired[list[VolumeShown]]


class BuildCacheUsage(Usage):
    Items: NotRequired[list[BuildCacheRecord]]


class DiskUsage(TypedDict):
    """What takes how much of the disk."""

    LayersSize: NotRequired[Annotated[Int64, Until(1, 53)]]
    Images: NotRequired[Annotated[list[ImageSummary] | None, Until(1, 53)]]
    Containers: NotRequired[Annotated[list[ContainerSummary] | None, Until(1, 53)]]
    Volumes: NotRequired[Annotated[list[VolumeShown] | None, Until(1, 53)]]
    BuildCache: NotRequired[Annotated[list[BuildCacheRecord] | None, Until(1, 53)]]
    ImageUsage: NotRequired[Annotated[ImageUsage, Since(1, 52)]]
    ContainerUsage: NotRequired[Annotated[ContainerUsage, Since(1, 52)]]
    VolumeUsage: NotRequired[Annotated[VolumesUsage, Since(1, 52)]]
    BuildCacheUsage: NotRequired[Annotated[BuildCacheUsage, Since(1, 52)]]
    BuilderSize: NotRequired[Annotated[Int64, Until(1, 42)]]


class LoginAnswer(TypedDict):
    Status: str
    IdentityToken: str


class Actor(TypedDict):
    ID: str
    Attributes: dict[str, str]


_OLD = Until(1, 52)
_Event = TypedDict(
    "_Event",
    {"status": Annotated[str, _OLD], "id": Annotated[str, _OLD], "from": Annotated[str, _OLD]},
    total=False,
)


class EventLegacy(_Event):
    """What older clients look for in an event of a container or an image."""


class EventMessage(EventLegacy):
    """Something that happened."""

    Type: str
    Action: str
    Actor: Actor
    scope: str
    time: Int64
    timeNano: Int64  # noqa: N815  # Docker's name
