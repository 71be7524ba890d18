"""What the builder needs of the rest: images to start from and to make, and containers to run commands in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from services.image.build.steps.layer import LayerTarget, WrittenLayer
from shared.contracts.docker import ContainerConfig, HostConfig
from shared.contracts.images import RegistryAuth
from shared.docker.platforms import Platform

Progress = Callable[[Mapping[str, Any]], Awaitable[None]]
Output = Callable[[bool, bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class PastStep:
    """A line of an image's history."""

    created_by: str
    empty_layer: bool = False
    created: str = ""
    author: str = ""
    comment: str = ""


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """An image that a step starts from or ends in.

    Attributes:
        id: ``sha256:<hex>``; empty for ``scratch``.
        layers: The unpacked layers' directories, lowest first.
        diff_ids: Digests of the uncompressed layers, lowest first.
        steps: Of an image that is a step: the cache keys of the steps that led to it, each with the digest of its
            layer, empty where it has none.
        cache: The same of an image that holds its cache for others.
    """

    id: str
    config: ContainerConfig
    layers: tuple[Path, ...] = ()
    diff_ids: tuple[str, ...] = ()
    history: tuple[PastStep, ...] = ()
    os: str = "linux"
    architecture: str = "amd64"
    variant: str = ""
    author: str = ""
    steps: tuple[tuple[str, str], ...] = ()
    cache: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class FinishedImage:
    """What a build has come to: its id, and its manifest as bytes."""

    id: str
    manifest: bytes
    image: BuiltImage


@dataclass(frozen=True, slots=True)
class NewImage:
    """One step's result.

    Attributes:
        created_by: The step, as history shows it.
        cache_key: Under which `ImageStore.cached` finds it again, with its parent; empty keeps it out of the cache.
        layer: What the step changed; None when it changed no file.
        known_layer: Digest of a layer that the store has already, in place of `layer`.
    """

    parent: BuiltImage
    config: ContainerConfig
    container_config: ContainerConfig
    created_by: str
    cache_key: str
    author: str = ""
    container_id: str = ""
    comment: str = ""
    layer: WrittenLayer | None = None
    known_layer: str | None = None


class ImageStore(Protocol):
    """Images by name, and the chain of parents that the build cache is."""

    async def get(self, name: str, *, platform: str = "") -> BuiltImage:
        """A local image by reference or id. Raises NotFound."""

    async def pull(
        self, name: str, *, platform: str, auths: Mapping[str, RegistryAuth], progress: Progress
    ) -> BuiltImage:
        """Fetch an image, telling how far it is."""

    def begin_layer(self) -> LayerTarget:
        """Where to write a layer before it is added. Blocks."""

    async def add(self, image: NewImage) -> BuiltImage:
        """Store a step's result; others see it, and it survives a crash, after the next `flush`."""

    async def flush(self) -> None:
        """Make everything that was added durable and visible to others."""

    async def cached(self, parent_id: str, cache_key: str) -> str | None:
        """The id of the newest image that a step made from a parent; "" is scratch."""

    async def finish(
        self, image: BuiltImage, encode: Callable[[Mapping[str, Any]], bytes], annotations: Mapping[str, str]
    ) -> FinishedImage:
        """Store an image of its own that has a step's files; stored as `add` does.

        Args:
            encode: From the step's configuration to the image's.
            annotations: Of its manifest.
        """

    async def tag_index(self, index_digest: str, images: Mapping[Platform, str], name: str) -> None:
        """Give images for several platforms one name, after a `flush`."""

    async def announce(self, image_id: str, names: Sequence[str]) -> None:
        """Tell that an image was built, and give it names, after a `flush`."""

    async def tag(self, image_id: str, name: str) -> None:
        """Give an image a name, after a `flush`."""


class ImageStores(Protocol):
    """Where builds get their `ImageStore` from."""

    def session(self) -> AbstractAsyncContextManager[ImageStore]:
        """A store for one build: what it reads or makes stays while the build goes on; flushed at the end."""

    def familiar_name(self, name: str) -> str:
        """A name to tag with, as Docker shows it, with its tag. Raises InvalidArgument."""


@dataclass(frozen=True, slots=True)
class RunOrder:
    """A container for one RUN."""

    image: BuiltImage
    config: ContainerConfig
    host_config: HostConfig = field(default_factory=HostConfig)
    platform: str = ""


class Executor(Protocol):
    """Containers, one per RUN."""

    async def create(self, order: RunOrder) -> str:
        """The new container's id."""

    async def run(self, container_id: str, output: Output) -> int:
        """Start it, hand over its output (whether it is stderr, and the bytes) and return its exit code."""

    async def changes(
        self, container_id: str, target: LayerTarget, *, omit: frozenset[str], take: bool
    ) -> WrittenLayer | None:
        """Write what it changed as a layer; None when it changed nothing.

        Args:
            omit: Empty directories and files that were made only to mount something on them.
            take: Its files may be taken away from it, since it is removed next.
        """

    async def remove(self, container_id: str) -> None:
        """Kill it when it runs, and remove it with its anonymous volumes. Idempotent."""
