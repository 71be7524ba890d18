"""What the image service answers. Progress and errors of long work travel in the stream, as Docker's JSON lines."""

from __future__ import annotations

from pydantic import BaseModel, Field

from shared.bus.client import Contract, Empty
from shared.bus.handover import PipeRef
from shared.bus.streams import StreamRef
from shared.contracts.docker import ContainerConfig
from shared.docker.filters import Filters


class ImageRef(BaseModel):
    """An image by reference, digest, id or unique id prefix, as a client wrote it."""

    ref: str
    platform: str | None = None


# How long a resolved image keeps its layers, removed or not. Whoever records a container later asks again.
RESOLVED_FOR_S = 2.0


class ResolvedImage(BaseModel):
    """What a container needs of an image; its layers stay for `RESOLVED_FOR_S` at least.

    Attributes:
        id: ``sha256:<hex>``, the digest of the configuration.
        layers: Chain ids (``sha256:<hex>``), lowest layer first; unpacked at ``<data>/layers/<hex>/fs``.
    """

    id: str
    config: ContainerConfig
    layers: list[str]
    os: str = "linux"
    architecture: str = "amd64"


class Platform(BaseModel):
    architecture: str = ""
    os: str = ""
    os_version: str = ""
    variant: str = ""


class ManifestSummary(BaseModel):
    """One of the images that a name stands for.

    Attributes:
        digest: Of its manifest.
        available: Whether all of it is here.
        content_bytes: Its manifest, configuration and layers as they are distributed.
        containers: Ids of those that use it.
    """

    digest: str
    media_type: str
    manifest_bytes: int
    available: bool
    content_bytes: int
    unpacked_bytes: int
    platform: Platform
    containers: list[str] = Field(default_factory=list)


class Image(BaseModel):
    """One image with all that `docker image inspect` and `docker images` show.

    Attributes:
        created: RFC 3339, from the configuration; empty when it has none.
        size_bytes: Sum of its unpacked layers.
        diff_ids: Digests of the uncompressed layers, lowest first.
        containers: Number of containers that use it; -1 when not counted.
        manifests: When asked for: what its names stand for, for each platform.
    """

    id: str
    repo_tags: list[str] = Field(default_factory=list)
    repo_digests: list[str] = Field(default_factory=list)
    parent: str = ""
    comment: str = ""
    created: str = ""
    created_unix: int = 0
    author: str = ""
    docker_version: str = ""
    config: ContainerConfig = Field(default_factory=ContainerConfig)
    architecture: str = "amd64"
    variant: str = ""
    os: str = "linux"
    os_version: str = ""
    size_bytes: int = 0
    shared_size_bytes: int = -1
    diff_ids: list[str] = Field(default_factory=list)
    chain_ids: list[str] = Field(default_factory=list)
    last_tag_time_ns: int = 0
    containers: int = -1
    manifest_digest: str = ""
    manifests: list[ManifestSummary] | None = None


class InspectImage(ImageRef):
    """An image to show; `manifests` and `platform` exclude each other."""

    manifests: bool = False


class ImageNames(BaseModel):
    """References, as containers were created with."""

    refs: list[str]


class NamedImages(BaseModel):
    """Ids by reference: of the image that it names now, and of those for other platforms; of none, nothing."""

    ids: dict[str, list[str]] = Field(default_factory=dict)


class ListImages(BaseModel):
    all: bool = False
    filters: Filters = Field(default_factory=dict)
    shared_size: bool = False
    digests: bool = False
    manifests: bool = False


class Images(BaseModel):
    images: list[Image]


class HistoryEntry(BaseModel):
    id: str
    created_unix: int = 0
    created_by: str = ""
    tags: list[str] = Field(default_factory=list)
    size_bytes: int = 0
    comment: str = ""


class History(BaseModel):
    entries: list[HistoryEntry]


class TagImage(BaseModel):
    ref: str
    repo: str
    tag: str = ""


class RemoveImage(BaseModel):
    ref: str
    force: bool = False
    no_prune: bool = False
    platforms: list[str] = Field(default_factory=list)


class Removal(BaseModel):
    """One line of a removal's answer: exactly one of the two is set."""

    untagged: str | None = None
    deleted: str | None = None


class Removals(BaseModel):
    removals: list[Removal]
    space_reclaimed_bytes: int = 0


class PruneImages(BaseModel):
    filters: Filters = Field(default_factory=dict)


class ImportImage(BaseModel):
    """A root file system as a tar (any compression) arrives on `stream`; JSON progress lines leave on it."""

    stream: StreamRef
    source: str = "-"
    repo: str = ""
    tag: str = ""
    message: str = ""
    changes: list[str] = Field(default_factory=list)
    platform: str | None = None


class LoadImages(BaseModel):
    """A Docker or OCI archive arrives on `stream`; JSON progress lines leave on it.

    Attributes:
        platforms: Which of the archive's images; all when empty.
    """

    stream: StreamRef
    quiet: bool = False
    platforms: list[str] = Field(default_factory=list)


class SaveImages(BaseModel):
    """An archive of the named images leaves on `stream`.

    Attributes:
        platforms: Which of the images that a name stands for; all when empty.
    """

    stream: StreamRef
    names: list[str]
    platforms: list[str] = Field(default_factory=list)


class RegistryAuth(BaseModel):
    """The decoded ``X-Registry-Auth`` header. Never logged."""

    username: str = ""
    password: str = Field(default="", repr=False)
    auth: str = Field(default="", repr=False)
    email: str = ""
    server_address: str = ""
    identity_token: str = Field(default="", repr=False)
    registry_token: str = Field(default="", repr=False)


class PullImage(BaseModel):
    """JSON progress lines leave on `stream`; cancelling the stream cancels the pull."""

    stream: StreamRef
    ref: str
    all_tags: bool = False
    platform: str | None = None
    auth: RegistryAuth | None = Field(default=None, repr=False)


class PushImage(BaseModel):
    stream: StreamRef
    ref: str
    tag: str = ""
    all_tags: bool = False
    platform: str | None = None
    auth: RegistryAuth | None = Field(default=None, repr=False)


class LoginRequest(BaseModel):
    auth: RegistryAuth = Field(repr=False)


class LoginResult(BaseModel):
    status: str
    identity_token: str = Field(default="", repr=False)


class DistributionRequest(BaseModel):
    ref: str
    auth: RegistryAuth | None = Field(default=None, repr=False)


class Distribution(BaseModel):
    media_type: str
    digest: str
    size_bytes: int
    platforms: list[Platform] = Field(default_factory=list)


class SearchRequest(BaseModel):
    term: str
    limit: int = 25
    filters: Filters = Field(default_factory=dict)
    auth: RegistryAuth | None = Field(default=None, repr=False)


class SearchHit(BaseModel):
    name: str
    description: str = ""
    star_count: int = 0
    is_official: bool = False
    is_automated: bool = False


class SearchHits(BaseModel):
    hits: list[SearchHit]


class CommitLayer(BaseModel):
    """A new image from a container's changes: the layer's tar (uncompressed) arrives on `stream`.

    Attributes:
        parent: Image id the container was made from; empty for none.
        config: The new image's configuration.
    """

    stream: StreamRef
    parent: str
    config: ContainerConfig
    container_config: ContainerConfig | None = None
    container_id: str = ""
    repo: str = ""
    tag: str = ""
    author: str = ""
    comment: str = ""
    created_by: str = ""


class ChangeConfig(BaseModel):
    """A configuration, and the Dockerfile instructions that are to change it."""

    config: ContainerConfig
    changes: list[str]


class ChangedConfig(BaseModel):
    config: ContainerConfig


class ImageId(BaseModel):
    id: str


class DiskUsage(BaseModel):
    """Attributes: layers_size_bytes: all unpacked layers, each counted once."""

    images: list[Image]
    layers_size_bytes: int


class LayerChains(BaseModel):
    """Chain ids (``sha256:<hex>``) of layers."""

    chains: list[str]


class LayerSource(BaseModel):
    """What a layer is unpacked from.

    Attributes:
        blob: Digest of the content, compressed or not.
        blob_bytes: Its size.
    """

    chain_id: str
    diff_id: str
    blob: str
    blob_bytes: int


class LayerSources(BaseModel):
    """Where a node fetches layers that it does not have.

    Attributes:
        layers: Those of the layers asked for that the image service knows, in no order.
        url: Of the registry, up to and without a blob's digest; empty when the image service serves none.
        token: Lets a node read every layer, for an hour at least. Never logged.
        fingerprint: SHA-256 in hex of the certificate that the registry shows; empty for plain HTTP.
    """

    layers: list[LayerSource]
    url: str = ""
    token: str = Field(default="", repr=False)
    fingerprint: str = ""


class BuildCachePrune(BaseModel):
    all: bool = False
    filters: Filters = Field(default_factory=dict)
    keep_storage_bytes: int = 0


class BuildCacheEntry(BaseModel):
    id: str
    parents: list[str] = Field(default_factory=list)
    type: str = "regular"
    description: str = ""
    in_use: bool = False
    shared: bool = False
    size_bytes: int = 0
    created_at: str = ""
    last_used_at: str | None = None
    usage_count: int = 0


class BuildCacheEntries(BaseModel):
    entries: list[BuildCacheEntry]


class PrunedCache(BaseModel):
    deleted: list[str] = Field(default_factory=list)
    space_reclaimed_bytes: int = 0


class BuildSettings(BaseModel):
    """What is to be built, and how, whichever door it was asked through.

    Attributes:
        secrets: Base64 values by id, for ``RUN --mount=type=secret``. Never logged or recorded.

    Source: Docker Engine API 1.50, ImageBuild.
    """

    dockerfile: str = "Dockerfile"
    tags: list[str] = Field(default_factory=list)
    extra_hosts: list[str] = Field(default_factory=list)
    remote: str = ""
    quiet: bool = False
    no_cache: bool = False
    cache_from: list[str] = Field(default_factory=list)
    pull: bool = False
    rm: bool = True
    force_rm: bool = False
    memory_bytes: int = 0
    memory_swap_bytes: int = 0
    cpu_shares: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    cpu_period: int = 0
    cpu_quota: int = 0
    cgroup_parent: str = ""
    build_args: dict[str, str | None] = Field(default_factory=dict)
    shm_size_bytes: int = 0
    ulimits: list[dict[str, int | str]] = Field(default_factory=list)
    labels: dict[str, str] = Field(default_factory=dict)
    network_mode: str = ""
    platform: str = ""
    target: str = ""
    isolation: str = ""
    security_opt: list[str] = Field(default_factory=list)
    squash: bool = False
    secrets: dict[str, str] = Field(default_factory=dict, repr=False)
    auths: dict[str, RegistryAuth] = Field(default_factory=dict, repr=False)


class BuildImage(BuildSettings):
    """A build: the context tar arrives on `stream` (nothing when `remote` is set), JSON lines leave on it.

    Attributes:
        context: A pipe of this machine through which the context comes, in place of the stream, whose end then says
            that the context was whole.
    """

    stream: StreamRef
    context: PipeRef | None = None


RESOLVE = Contract("davit.image.image.resolve", ImageRef, ResolvedImage, idempotent=True)
INSPECT = Contract("davit.image.image.inspect", InspectImage, Image, idempotent=True)
NAMED = Contract("davit.image.image.named", ImageNames, NamedImages, deadline_s=1, idempotent=True)
LIST = Contract("davit.image.image.list", ListImages, Images, deadline_s=30, idempotent=True)
HISTORY = Contract("davit.image.image.history", ImageRef, History, idempotent=True)
TAG = Contract("davit.image.image.tag", TagImage, Empty, idempotent=True)
REMOVE = Contract("davit.image.image.remove", RemoveImage, Removals, deadline_s=120, frees=True)
PRUNE = Contract("davit.image.image.prune", PruneImages, Removals, deadline_s=600, frees=True)
# Streamed work is answered once the stream has been accepted; its outcome is in the stream.
IMPORT = Contract("davit.image.image.import", ImportImage, Empty)
LOAD = Contract("davit.image.image.load", LoadImages, Empty)
SAVE = Contract("davit.image.image.save", SaveImages, Empty)
PULL = Contract("davit.image.image.pull", PullImage, Empty)
PUSH = Contract("davit.image.image.push", PushImage, Empty)
COMMIT = Contract("davit.image.image.commit", CommitLayer, ImageId, deadline_s=3600)
CHANGE_CONFIG = Contract("davit.image.config.change", ChangeConfig, ChangedConfig, idempotent=True)
BUILD = Contract("davit.image.build.run", BuildImage, Empty)
BUILD_PRUNE = Contract("davit.image.build.prune", BuildCachePrune, PrunedCache, deadline_s=600, frees=True)
BUILD_CACHE = Contract("davit.image.build.list", Empty, BuildCacheEntries, idempotent=True)
LOGIN = Contract("davit.image.registry.login", LoginRequest, LoginResult, deadline_s=60)
DISTRIBUTION = Contract("davit.image.registry.inspect", DistributionRequest, Distribution, deadline_s=60)
SEARCH = Contract("davit.image.registry.search", SearchRequest, SearchHits, deadline_s=60)
DISK_USAGE = Contract("davit.image.image.usage", Empty, DiskUsage, deadline_s=120, idempotent=True)
LAYER_SOURCES = Contract("davit.image.layer.sources.{node}", LayerChains, LayerSources, deadline_s=30, idempotent=True)
# A hint without content, published when layers were removed: nodes then ask which of theirs are still known.
LAYERS_REMOVED = "davit.image.removed"
