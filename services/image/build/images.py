"""The builder's images in the image service's own stores.

Steps that change no file come in rows and take no time, so what they lead to is kept in memory and written in one
transaction: before a container starts from one of them, and at the end, also of a build that failed, since finished
steps are its cache.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from services.image.archives import importing
from services.image.archives.importing import Importer, encode_config
from services.image.archives.intake import TakenLayer
from services.image.build.ports import BuiltImage, FinishedImage, NewImage, PastStep, Progress
from services.image.build.steps.layer import LayerTarget, WrittenLayer
from services.image.catalog.depot import Depot, Lease, image_event
from services.image.catalog.domain import CACHE_ONLY, ImageRecord, LayerRecord, make_record
from services.image.catalog.manifests import (
    MAX_CONFIG_BYTES,
    Descriptor,
    ImageConfig,
    build_manifest,
    chain_ids,
    digest_of,
)
from services.image.store.content import Ingest
from shared.bus.client import Bus
from shared.bus.streams import offer
from shared.clock import Clock
from shared.contracts import images as contracts
from shared.contracts.docker import ContainerConfig
from shared.contracts.images import RegistryAuth
from shared.docker.platforms import Platform, parse_platform
from shared.docker.references import parse
from shared.errors import DavitError, InvalidArgument, NotFound, Unavailable
from shared.layers.store import StagedFiles

# One query finds the steps after a cached one too: so many, and good for so long.
STEPS_AHEAD = 256
AHEAD_S = 2.0
# In configurations: of a step, how it came about; of an image, what others may take from it as cache.
STEPS, CACHE = "dev.davit.build.steps", "dev.davit.build.cache"
# Some 10 KB each.
RECENT_IMAGES = 128
DOCKER_HUB_KEYS = ("https://index.docker.io/v1/", "index.docker.io", "docker.io")


@dataclass(frozen=True, slots=True)
class _Loaded:
    """An image's configuration, as it is stored and as builds see it."""

    raw: dict[str, Any]
    image: BuiltImage


@dataclass(frozen=True, slots=True)
class DepotImages:
    """Opens sessions on the stores. bus: reaches this service's own pull, wherever a copy of it runs."""

    depot: Depot
    importer: Importer
    bus: Bus
    clock: Clock
    _recent: OrderedDict[str, _Loaded] = field(default_factory=OrderedDict)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[DepotSession]:
        """An `ImageStore` for one build; what it touches is not collected meanwhile."""
        async with AsyncExitStack() as leases:
            session = DepotSession(self, leases)
            try:
                yield session
            finally:
                await asyncio.shield(session.flush())

    async def config_of(self, image_id: str) -> bytes:
        """An image's configuration, as it is stored."""
        return await asyncio.to_thread(self.depot.content.read, image_id, MAX_CONFIG_BYTES)

    async def load(self, image_id: str) -> _Loaded:
        """An image that is there. What its id is the digest of never changes."""
        found = self._recent.get(image_id)
        if found is None:
            data = await asyncio.to_thread(self.depot.content.read, image_id, MAX_CONFIG_BYTES)
            found = self.loaded(image_id, ImageConfig.parse(data))
        self._recent[image_id] = found
        self._recent.move_to_end(image_id)
        if len(self._recent) > RECENT_IMAGES:
            self._recent.popitem(last=False)
        return found

    def loaded(self, image_id: str, config: ImageConfig) -> _Loaded:
        files = self.depot.layers.files
        image = BuiltImage(
            image_id,
            ContainerConfig.model_validate(config.raw.get("config") or {}),
            tuple(files(chain_id) for chain_id in chain_ids(config.diff_ids)),
            tuple(config.diff_ids),
            tuple(_past_step(step) for step in config.raw.get("history") or []),
            config.platform.os,
            config.platform.architecture,
            config.platform.variant,
            str(config.raw.get("author") or ""),
            _steps(config.raw, STEPS),
            _steps(config.raw, CACHE),
        )
        return _Loaded(config.raw, image)

    def familiar_name(self, name: str) -> str:
        reference = parse(name)
        if reference.digest is not None:
            raise InvalidArgument("build tag cannot contain a digest", field="t")
        return reference.with_default_tag().familiar


@dataclass(slots=True)
class _Ahead:
    """Cached steps that were read together with the one before them; believed for a short while only."""

    _ids: dict[tuple[str, str], str] = field(default_factory=dict)
    _read_at: float = 0.0

    def find(self, parent_id: str, cache_key: str) -> str | None:
        if time.monotonic() - self._read_at > AHEAD_S:
            self._ids.clear()
        return self._ids.get((parent_id, cache_key))

    def take(self, steps: list[tuple[str, str, str]]) -> None:
        self._read_at = time.monotonic()
        self._ids.update({(parent_id, cache_key): image_id for parent_id, cache_key, image_id in steps})


@dataclass(frozen=True, slots=True)
class _Pending:
    record: ImageRecord
    blobs: tuple[bytes, bytes]
    annotated: bool = False


@dataclass(slots=True)
class DepotSession:
    """An `ImageStore`; made by `DepotImages.session`."""

    images: DepotImages
    _leases: AsyncExitStack
    _lease: Lease | None = None
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    _reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    _names: dict[tuple[str, str], str] = field(default_factory=dict)
    _ahead: _Ahead = field(default_factory=_Ahead)
    _loaded: dict[str, _Loaded] = field(default_factory=dict)
    _layers: dict[str, list[LayerRecord]] = field(default_factory=dict)
    _by_key: dict[tuple[str, str], str] = field(default_factory=dict)
    _unheld: set[str] = field(default_factory=set)
    _pending: list[_Pending] = field(default_factory=list)
    _manifests: dict[str, bytes] = field(default_factory=dict)
    _flushing: asyncio.Lock = field(default_factory=asyncio.Lock)

    # -- reading ------------------------------------------------------------------------------------------------

    async def get(self, name: str, *, platform: str = "") -> BuiltImage:
        async with self._reading:  # stages that start from the same image read it once
            return await self._get(name, platform)

    async def _get(self, name: str, platform: str) -> BuiltImage:
        if name in self._loaded:
            return self._loaded[name].image
        if (name, platform) in self._names:
            return self._loaded[self._names[name, platform]].image
        found = await self.images.depot.find(name, parse_platform(platform))
        if found.id not in self._loaded:
            self._loaded[found.id] = await self.images.load(found.id)
            self._unheld.add(found.id)
        self._names[name, platform] = found.id
        return self._loaded[found.id].image

    async def _layers_of(self, image_id: str) -> list[LayerRecord]:
        """Lowest first."""
        if image_id and image_id not in self._layers:
            async with self.images.depot.catalog.reading() as reader:
                self._layers[image_id] = await reader.layers_of(image_id)
        return self._layers.get(image_id, [])

    async def _hold(self, image_id: str) -> None:
        """Keep what an image that was there before consists of until this build ends.

        Only once something is built on it: it is a write.
        """
        if image_id in self._unheld:
            self._unheld.discard(image_id)
            layers = await self._layers_of(image_id)
            lease = await self._open_lease()
            await lease.keep(image_id, *(layer.chain_id for layer in layers), *(layer.blob for layer in layers))

    async def cached(self, parent_id: str, cache_key: str) -> str | None:
        image_id = self._by_key.get((parent_id, cache_key)) or self._ahead.find(parent_id, cache_key)
        if image_id is None:
            async with self.images.depot.catalog.reading() as reader:
                self._ahead.take(await reader.steps_from(parent_id, cache_key, STEPS_AHEAD))
            image_id = self._ahead.find(parent_id, cache_key)
        return image_id

    async def pull(
        self, name: str, *, platform: str, auths: Mapping[str, RegistryAuth], progress: Progress
    ) -> BuiltImage:
        reference = parse(name)
        stream = await offer(self.images.bus)
        async with stream:
            request = contracts.PullImage(
                stream=stream.ref,
                ref=str(reference.with_default_tag()),
                platform=platform or None,
                auth=_auth_for(reference.domain, auths),
            )
            await self.images.bus.request(contracts.PULL, request)
            await stream.close_write()
            async for line in _lines(stream):
                if "errorDetail" in line:
                    raise _pull_error(line)
                await progress(line)
        return await self.get(name, platform=platform)

    async def _open_lease(self) -> Lease:
        """This build's lease. A build that finds all its steps done needs none, which saves two commits."""
        async with self._opening:
            if self._lease is None:
                self._lease = await self._leases.enter_async_context(self.images.depot.lease())
            return self._lease

    # -- making -------------------------------------------------------------------------------------------------

    async def add(self, image: NewImage) -> BuiltImage:
        await self._hold(image.parent.id)
        parent = self._loaded.get(image.parent.id)
        parent_layers = await self._layers_of(image.parent.id)
        layers = list(parent_layers)
        below = layers[-1].chain_id if layers else ""
        if image.layer is not None:
            layers.append(await self._take(image.layer, below))
        elif image.known_layer is not None:
            layers.append(await self._reuse(image.known_layer, below))
        data = encode_config(
            importing.NewImage(
                image.config,
                Platform(image.parent.os, image.parent.architecture, image.parent.variant),
                layers,
                self.images.clock.now(),
                parent=parent.raw if parent else {},
                parent_id=image.parent.id,
                adds_layer=len(layers) > len(parent_layers),
                author=image.author,
                comment=image.comment,
                created_by=image.created_by,
                container_id=image.container_id,
                container_config=image.container_config,
                extra=_with_step(image, layers[-1].diff_id if len(layers) > len(parent_layers) else ""),
            )
        )
        return self._keep(data, layers, parent=image.parent.id, cache_key=image.cache_key)

    async def finish(
        self, image: BuiltImage, encode: Callable[[Mapping[str, Any]], bytes], annotations: Mapping[str, str]
    ) -> FinishedImage:
        await self.get(image.id)
        await self._hold(image.id)
        data = encode(self._loaded[image.id].raw)
        made = self._keep(data, await self._layers_of(image.id), annotations=annotations)
        return FinishedImage(made.id, self._manifests[made.id], made)

    def _keep(
        self,
        data: bytes,
        layers: list[LayerRecord],
        *,
        parent: str = "",
        cache_key: str = "",
        annotations: Mapping[str, str] | None = None,
    ) -> BuiltImage:
        descriptors = [Descriptor(layer.media_type, layer.blob, layer.blob_bytes) for layer in layers]
        manifest = build_manifest(data, descriptors, annotations)
        config = ImageConfig.parse(data)
        record = make_record(
            digest_of(data),
            config,
            layers,
            manifest_digest=digest_of(manifest),
            parent=parent,
            cache_key=cache_key,
        )
        self._pending.append(_Pending(record, (data, manifest), annotated=bool(annotations)))
        if not cache_key:
            self._manifests[record.image.id] = manifest
        if cache_key:
            self._by_key[parent, cache_key] = record.image.id
        loaded = self._loaded[record.image.id] = self.images.loaded(record.image.id, config)
        self._layers[record.image.id] = layers
        return loaded.image

    def begin_layer(self) -> LayerTarget:
        return _Target(self.images.depot.content.ingest(hashing=False), self.images.depot.layers.stage_files())

    async def _take(self, written: WrittenLayer, below: str) -> LayerRecord:
        target = written.target
        assert isinstance(target, _Target)
        depot = self.images.depot
        staged = target.staged if written.has_files else None
        taken = TakenLayer(
            written.diff_id, written.tar_bytes, "", written.diff_id, written.content_bytes, target.ingest, staged
        )
        lease = await self._open_lease()
        record = await depot.commit_layer(lease, taken, below)
        if staged is None:
            await depot.unpack(lease, record.blob, record.diff_id, below)
        return record

    async def _reuse(self, diff_id: str, below: str) -> LayerRecord:
        """A layer that the store has, on top of another layer than before, perhaps."""
        chain_id = chain_ids([below, diff_id])[-1] if below else diff_id
        lease = await self._open_lease()
        known = (await lease.keep_layers([chain_id])).get(chain_id)
        if known is not None:
            return known
        async with self.images.depot.catalog.reading() as reader:
            other = await reader.layer_by_diff(diff_id)
        if other is None:
            raise NotFound(f"layer {diff_id} of a cache source is gone")
        chain_id, size = await self.images.depot.unpack(lease, other.blob, diff_id, below)
        return LayerRecord(chain_id, diff_id, below, other.blob, other.media_type, other.blob_bytes, size)

    async def flush(self) -> None:
        """Make everything that was added durable and visible to others."""
        async with self._flushing:
            pending = list(self._pending)
            if not pending:
                return
            depot = self.images.depot
            blobs = {digest_of(data): data for item in pending for data in item.blobs}
            lease = await self._open_lease()
            await lease.keep(*blobs)
            await asyncio.gather(*(asyncio.to_thread(depot.content.put, data) for data in blobs.values()))
            async with depot.catalog.writing() as writer:
                for item in pending:
                    new = await writer.add(item.record)
                    if not new and item.annotated:
                        # The same configuration, with a manifest that says more.
                        await writer.set_manifest(item.record.image.id, item.record.image.manifest_digest, ())
            # Only now: when writing failed, the next flush tries again. Others may have been added meanwhile.
            del self._pending[: len(pending)]

    async def tag_index(self, index_digest: str, images: Mapping[Platform, str], name: str) -> None:
        """Give images for several platforms one name, after a `flush`."""
        reference = parse(name).with_default_tag()
        async with self.images.depot.catalog.writing() as writer:
            for platform, image_id in images.items():
                await writer.set_variant(reference, index_digest, platform, image_id)
                writer.emit(image_event("tag", image_id, reference.familiar))

    async def announce(self, image_id: str, names: Sequence[str]) -> None:
        references = [parse(name).with_default_tag() for name in names]
        labels = (await self.get(image_id)).config.labels
        async with self.images.depot.catalog.writing() as writer:
            if await writer.by_id(image_id) is None:
                raise NotFound(f"No such image: {image_id}")  # a step from the cache, removed since it was found
            writer.emit(image_event("create", image_id, image_id, labels))
            for reference in references:
                await writer.set_name(reference, image_id)
                writer.emit(image_event("tag", image_id, reference.familiar, labels))

    async def tag(self, image_id: str, name: str) -> None:
        await self.flush()
        reference = parse(name).with_default_tag()
        labels = (await self.get(image_id)).config.labels
        async with self.images.depot.catalog.writing() as writer:
            if await writer.by_id(image_id) is None:
                raise NotFound(f"No such image: {image_id}")  # a step from the cache, removed since it was found
            await writer.set_name(reference, image_id)
            writer.emit(image_event("tag", image_id, reference.familiar, labels))


@dataclass(frozen=True, slots=True)
class _Target:
    """A layer on its way into the stores."""

    ingest: Ingest
    staged: StagedFiles

    @property
    def files(self) -> Path:
        return self.staged.files

    def write(self, data: bytes, /) -> None:
        self.ingest.write(data)

    def discard(self) -> None:
        self.ingest.discard()
        if self.staged.directory.exists():
            self.staged.discard()


def _steps(raw: Mapping[str, Any], key: str) -> tuple[tuple[str, str], ...]:
    found = raw.get(key)
    if not isinstance(found, list):
        return ()
    return tuple((str(item[0]), str(item[1])) for item in found if isinstance(item, list) and len(item) == 2)


def _with_step(image: NewImage, layer: str) -> dict[str, Any]:
    """What a step's configuration says of the steps that led to it."""
    if not image.cache_key.startswith(CACHE_ONLY):
        return {}
    return {STEPS: [*image.parent.steps, (image.cache_key, layer)]}


def _past_step(step: Mapping[str, Any]) -> PastStep:
    def text(key: str) -> str:
        value = step.get(key)
        return value if isinstance(value, str) else ""

    return PastStep(text("created_by"), bool(step.get("empty_layer")), text("created"), text("author"), text("comment"))


def _auth_for(domain: str, auths: Mapping[str, RegistryAuth]) -> RegistryAuth | None:
    """What the client knows for a registry; clients write Docker's own in more than one way."""
    keys = DOCKER_HUB_KEYS if domain == "docker.io" else (domain, f"https://{domain}", f"http://{domain}")
    return next((auths[key] for key in keys if key in auths), None)


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    rest = b""
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if line.strip():
                yield orjson.loads(line)


def _pull_error(line: Mapping[str, Any]) -> DavitError:
    detail = line["errorDetail"]
    kind = NotFound if detail.get("code") == 404 else Unavailable
    return kind(str(detail.get("message") or line.get("error")))
