"""Answers of /images, /commit, /distribution and /build. Source: Docker Engine API 1.50, Image, Distribution."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from typing_extensions import TypedDict

from services.api.answers.containers import GraphDriver
from services.api.answers.marks import ShownConfig
from services.api.versions import Since, Until
from shared.docker.integers import Int64

Platform = TypedDict(
    "Platform",
    {
        "architecture": str,
        "os": str,
        "os.version": NotRequired[str],
        "variant": NotRequired[str],
    },
)
Platform.__doc__ = "What an image runs on."


class Descriptor(TypedDict):
    """An object in a registry."""

    mediaType: str
    digest: str
    size: Int64
    platform: NotRequired[Platform]


class ManifestSize(TypedDict):
    Content: Int64
    Total: Int64


class UnpackedSize(TypedDict):
    Unpacked: Int64


class ImageData(TypedDict):
    Platform: Platform
    Containers: list[str]
    Size: UnpackedSize


class ManifestSummary(TypedDict):
    """One of the images that a name stands for."""

    ID: str
    Descriptor: Descriptor
    Available: bool
    Size: ManifestSize
    Kind: str
    ImageData: NotRequired[ImageData]


class RootFs(TypedDict):
    Type: str
    Layers: NotRequired[list[str]]


class ImageMetadata(TypedDict):
    LastTagTime: str


class ImageInspect(TypedDict):
    """All about an image."""

    Id: str
    RepoTags: list[str]
    RepoDigests: list[str]
    Parent: NotRequired[str]
    Comment: NotRequired[str]
    DockerVersion: NotRequired[str]
    Author: NotRequired[str]
    Config: ShownConfig
    Architecture: str
    Variant: NotRequired[str]
    Os: str
    OsVersion: NotRequired[str]
    Size: Int64
    GraphDriver: GraphDriver
    RootFS: RootFs
    Metadata: ImageMetadata
    Created: NotRequired[str]
    VirtualSize: NotRequired[Annotated[Int64, Until(1, 44)]]
    Container: NotRequired[Annotated[str, Until(1, 45)]]
    ContainerConfig: NotRequired[Annotated[ShownConfig, Until(1, 45)]]
    Manifests: NotRequired[Annotated[list[ManifestSummary], Since(1, 48)]]


class ImageSummary(TypedDict):
    """An image in a list."""

    Containers: Int64
    Created: Int64
    Id: str
    Labels: dict[str, str] | None
    ParentId: str
    RepoDigests: list[str]
    RepoTags: list[str]
    SharedSize: Int64
    Size: Int64
    VirtualSize: NotRequired[Annotated[Int64, Until(1, 44)]]
    Manifests: NotRequired[Annotated[list[ManifestSummary], Since(1, 47)]]


class HistoryStep(TypedDict):
    """A step in which an image was made."""

    Comment: str
    Created: Int64
    CreatedBy: str
    Id: str
    Size: Int64
    Tags: list[str] | None


class Removal(TypedDict, total=False):
    """A name that is gone, or an image."""

    Untagged: str
    Deleted: str


class ImagesPruned(TypedDict):
    ImagesDeleted: list[Removal] | None
    SpaceReclaimed: Int64


class SearchHit(TypedDict):
    """A repository on Docker Hub."""

    star_count: Int64
    is_official: bool
    name: str
    is_automated: bool
    description: str


class DistributionInspect(TypedDict):
    """What a registry has under a name."""

    Descriptor: Descriptor
    Platforms: list[Platform]


class BuildCacheRecord(TypedDict):
    """What a build has kept for later ones."""

    ID: str
    Type: str
    Description: str
    InUse: bool
    Shared: bool
    Size: Int64
    CreatedAt: str
    LastUsedAt: str | None
    UsageCount: Int64
    Parent: NotRequired[Annotated[str, Until(1, 42)]]
    Parents: NotRequired[Annotated[list[str], Since(1, 42)]]


class BuildCachePruned(TypedDict):
    CachesDeleted: list[str] | None
    SpaceReclaimed: Int64


class ProgressDetail(TypedDict, total=False):
    current: Int64
    total: Int64


class ErrorDetail(TypedDict):
    code: NotRequired[Int64]
    message: str


class ProgressLine(TypedDict, total=False):
    """A line of what is told while images move or are made."""

    id: str
    status: str
    stream: str
    progress: str
    progressDetail: ProgressDetail
    aux: dict[str, Any]
    error: str
    errorDetail: ErrorDetail
