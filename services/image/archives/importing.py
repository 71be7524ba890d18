"""New images from a file tree: `docker import`, and what `docker commit` and the builder add on top of another.

Source: Docker Engine API 1.50, ImageCreate (fromSrc), ImageCommit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import orjson

from services.image.archives.intake import LayerIntake, TakenLayer
from services.image.catalog.depot import Depot, Lease, image_event
from services.image.catalog.domain import ImageRecord, LayerRecord, make_record
from services.image.catalog.manifests import MAX_CONFIG_BYTES, Descriptor, ImageConfig, build_manifest, digest_of
from services.image.progress import Progress, reported
from shared.bus.client import EMPTY, Bus, Empty
from shared.bus.streams import ByteStream, accept
from shared.clock import Clock
from shared.contracts.docker import ContainerConfig
from shared.contracts.images import CommitLayer, ImageId, ImportImage
from shared.docker.moments import rfc3339_of
from shared.docker.platforms import Platform, own_platform, parse_platform
from shared.docker.references import Reference, check_nameable, parse
from shared.errors import InvalidArgument
from shared.version import VERSION

DOWNLOAD_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class NewImage:
    """An image to be made on top of another.

    Attributes:
        parent: Configuration of the image below as JSON; None for none.
        parent_id: Its id, when it is the parent in the sense of the build cache.
        added: The new layer; None for an image that only changes the configuration.
    """

    config: ContainerConfig
    platform: Platform
    layers: Sequence[LayerRecord]
    created: datetime
    parent: dict[str, Any] | None = None
    parent_id: str = ""
    adds_layer: bool = True
    author: str = ""
    comment: str = ""
    created_by: str = ""
    container_id: str = ""
    container_config: ContainerConfig | None = None
    cache_key: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


def config_json(config: ContainerConfig) -> dict[str, Any]:
    """A container configuration as image configurations spell it."""
    dumped = config.model_dump(by_alias=True, exclude_none=False)
    for key in ("Volumes", "OnBuild", "Labels", "ExposedPorts", "Env"):
        dumped[key] = dumped.get(key) or None
    for key in ("ExposedPorts", "Healthcheck", "StopSignal", "StopTimeout", "Shell", "MacAddress"):
        if not dumped.get(key):
            dumped.pop(key, None)
    for key in ("ArgsEscaped", "NetworkDisabled"):
        if not dumped.get(key):
            dumped.pop(key, None)
    if health := dumped.get("Healthcheck"):
        dumped["Healthcheck"] = {key: value for key, value in health.items() if value}
    return dumped


def encode_config(new: NewImage) -> bytes:
    """The configuration of a new image, whose digest is its id."""
    created = rfc3339_of(new.created)
    step: dict[str, Any] = {"created": created}
    if new.author:
        step["author"] = new.author
    if new.created_by:
        step["created_by"] = new.created_by
    if new.comment:
        step["comment"] = new.comment
    if not new.adds_layer:
        step["empty_layer"] = True
    below = new.parent or {}
    value: dict[str, Any] = {
        "architecture": new.platform.architecture,
        "config": config_json(new.config),
        "created": created,
        "docker_version": VERSION,
        "history": [*(below.get("history") or []), step],
        "os": new.platform.os,
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in new.layers]},
    }
    if new.platform.variant:
        value["variant"] = new.platform.variant
    for key, text in (("author", new.author), ("comment", new.comment), ("container", new.container_id)):
        if text:
            value[key] = text
    if new.container_config is not None:
        value["container_config"] = config_json(new.container_config)
    return orjson.dumps({**value, **new.extra}, option=orjson.OPT_SORT_KEYS)


class Importer:
    """Makes images; serves IMPORT and COMMIT."""

    def __init__(self, depot: Depot, bus: Bus, clock: Clock) -> None:
        self._depot = depot
        self._bus = bus
        self._clock = clock

    # -- import -------------------------------------------------------------------------------------------------

    async def import_image(self, request: ImportImage) -> Empty:
        """The answer comes on the stream, so this returns once the work is taken on."""
        name = target_name(request.repo, request.tag)
        platform = parse_platform(request.platform) or own_platform()
        if platform.os != "linux":
            raise InvalidArgument("operating system is not supported", field="platform")
        config = changed_config(request.changes)
        stream = await accept(self._bus, request.stream)
        self._depot.jobs.start(self._import(request, stream, name, platform, config), "import")
        return EMPTY

    async def _import(
        self,
        request: ImportImage,
        stream: ByteStream,
        name: Reference | None,
        platform: Platform,
        config: ContainerConfig,
    ) -> None:
        async with reported(stream) as progress, self._depot.lease() as lease:
            chunks = aiter(stream) if request.source == "-" else downloaded(request.source, progress)
            layer = await self._depot.commit_layer(lease, await self.take(chunks), "")
            new = NewImage(
                config,
                platform,
                [layer],
                self._clock.now(),
                comment=request.message or f"Imported from {request.source}",
                container_config=ContainerConfig(),
            )
            image_id = await self.store(lease, new, name, "import")
            await progress.line({"status": image_id})

    async def take(self, chunks: AsyncIterator[bytes]) -> TakenLayer:
        """Take in a layer's tar. On failure nothing of it is left."""
        intake = await asyncio.to_thread(LayerIntake, self._depot.content, self._depot.layers)
        try:
            async for chunk in chunks:
                await asyncio.to_thread(intake.write, chunk)
            return await asyncio.to_thread(intake.finish)
        finally:
            await asyncio.shield(asyncio.to_thread(intake.discard))

    # -- commit -------------------------------------------------------------------------------------------------

    async def commit(self, request: CommitLayer) -> ImageId:
        """A container's changes as an image on top of the one it was made from."""
        name = target_name(request.repo, request.tag)
        stream = await accept(self._bus, request.stream)
        async with stream, self._depot.lease() as lease:
            parent, layers = await self.base(lease, request.parent)
            taken = await self.take(aiter(stream))
            layer = await self._depot.commit_layer(lease, taken, layers[-1].chain_id if layers else "")
            platform = ImageConfig(parent, []).platform if parent else own_platform()
            new = NewImage(
                request.config,
                platform,
                [*layers, layer],
                self._clock.now(),
                parent=parent,
                parent_id=request.parent,
                author=request.author,
                comment=request.comment,
                created_by=request.created_by,
                container_id=request.container_id,
                container_config=request.container_config,
            )
            return ImageId(id=await self.store(lease, new, name, None))

    async def base(self, lease: Lease, image_id: str) -> tuple[dict[str, Any] | None, list[LayerRecord]]:
        """Configuration and layers of an image to build on; the lease keeps them."""
        if not image_id:
            return None, []
        async with self._depot.catalog.reading() as reader:
            layers = await reader.layers_of(image_id)
        await lease.keep(image_id, *(layer.chain_id for layer in layers), *(layer.blob for layer in layers))
        data = await asyncio.to_thread(self._depot.content.read, image_id, MAX_CONFIG_BYTES)
        return ImageConfig.parse(data).raw, layers

    async def store(self, lease: Lease, new: NewImage, name: Reference | None, action: str | None) -> str:
        """Write configuration and manifest, and make the image known; its id."""
        record = await self.write(lease, new)
        events = []
        if action:
            events.append(image_event(action, record.image.id, record.image.id, record.image.config.labels))
        if name is not None:
            events.insert(0, image_event("tag", record.image.id, name.familiar, record.image.config.labels))
        await self._depot.add(record, names=[name] if name else [], events=events)
        self._depot.wake()
        return record.image.id

    async def write(self, lease: Lease, new: NewImage) -> ImageRecord:
        data = encode_config(new)
        image_id = digest_of(data)
        manifest = build_manifest(
            data, [Descriptor(layer.media_type, layer.blob, layer.blob_bytes) for layer in new.layers]
        )
        await self._depot.put(lease, data, image_id)
        await self._depot.put(lease, manifest, digest_of(manifest))
        return make_record(
            image_id,
            ImageConfig.parse(data),
            new.layers,
            manifest_digest=digest_of(manifest),
            parent=new.parent_id,
            cache_key=new.cache_key,
        )


def target_name(repo: str, tag: str) -> Reference | None:
    """The name for a new image.

    Raises:
        InvalidArgument: In Docker's words.
    """
    if not repo:
        return None
    reference = parse(repo)
    if reference.digest is not None:
        raise InvalidArgument("cannot import digest reference", field="repo")
    check_nameable(reference)
    return reference.with_tag(tag) if tag else reference.with_default_tag()


def changed_config(changes: Sequence[str]) -> ContainerConfig:
    """An empty configuration with Dockerfile instructions applied.

    Raises:
        InvalidArgument: An instruction is invalid, or not one that only changes the configuration.
    """
    if not changes:
        return ContainerConfig()
    from services.image.build.steps.changes import changed_config as apply

    return apply(ContainerConfig(), changes)


async def downloaded(source: str, progress: Progress) -> AsyncIterator[bytes]:
    """The bytes of a file tree at an address."""
    import httpx

    from services.image.registry.errors import check_url, connection_failure, source_failure

    address = source if "://" in source else f"http://{source}"
    check_url(address)
    if not address.startswith(("http://", "https://")):
        raise InvalidArgument(f"cannot import from {source}: only http and https are supported", field="fromSrc")
    if not urlsplit(address).hostname:
        raise InvalidArgument(f'Get "{address}": http: no Host in request URL', field="fromSrc")
    try:
        async with (
            httpx.AsyncClient(follow_redirects=True, timeout=DOWNLOAD_TIMEOUT_S) as client,
            client.stream("GET", address) as response,
        ):
            if response.status_code >= 400:
                raise await source_failure(response, address)
            # Only now, so that a server that is not there is a failed request and not a line of progress.
            await progress.line({"status": f"Downloading from {address}"})
            async for chunk in response.aiter_bytes():
                yield chunk
    except httpx.HTTPError as error:
        raise connection_failure(error, address) from error
