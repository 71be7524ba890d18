"""`docker push`: blobs go in parallel, those that the registry has, or can mount, do not go at all.

Layers without compression are compressed on the way, once: the compressed blob is kept, and pushed again as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from functools import partial

from services.image.catalog.depot import Depot, Lease, image_event
from services.image.catalog.domain import Name
from services.image.catalog.lookup import find_for
from services.image.catalog.manifests import (
    DOCKER_LAYER,
    MAX_CONFIG_BYTES,
    MAX_MANIFEST_BYTES,
    OCI_LAYER,
    Descriptor,
    Manifest,
    build_manifest,
    digest_of,
    parse,
)
from services.image.progress import Progress, reported, unless_gone
from services.image.registry.client import Repository
from services.image.registry.hosts import Hosts
from services.image.store.content import ContentStore
from shared.bus.client import EMPTY, Bus, Empty
from shared.bus.streams import ByteStream, accept
from shared.contracts.images import PushImage, RegistryAuth
from shared.docker.platforms import Platform, parse_platform
from shared.docker.references import Reference
from shared.docker.references import parse as parse_reference
from shared.errors import DavitError, Forbidden, Internal, InvalidArgument, NotFound, Unauthorized

READ_BYTES = 512 * 1024
# A chunk that fails is sent again as a whole upload, and proxies in between may buffer a request.
CHUNK_BYTES = 64 * 1024 * 1024
COMPRESSION_LEVEL = 2
ATTEMPTS = 4
FIRST_PAUSE_S = 0.5
MOST_SOURCES = 4


@dataclass(frozen=True, slots=True)
class Pushed:
    digest: str
    size: int


class Pusher:
    """Serves PUSH.

    Args:
        at_once: How many blobs are sent at the same time.
    """

    def __init__(self, depot: Depot, bus: Bus, hosts: Hosts, at_once: int) -> None:
        self._depot = depot
        self._bus = bus
        self._hosts = hosts
        self._at_once = at_once

    async def push(self, request: PushImage) -> Empty:
        """The names are looked up before the answer, so that the client of a wrong one gets a status."""
        reference = parse_reference(request.ref)
        if request.tag:
            reference = reference.with_tag(request.tag)
        if reference.digest is not None:
            raise InvalidArgument("cannot push a digest reference", field="name")
        stream = await accept(self._bus, request.stream)
        self._depot.jobs.start(self._serve(request, reference, stream), "push")
        return EMPTY

    async def _serve(self, request: PushImage, reference: Reference, stream: ByteStream) -> None:
        async with reported(stream) as progress:
            await progress.line({"status": f"The push refers to repository [{reference.name}]"})
            names = await self._names(reference, parse_platform(request.platform))
            work = asyncio.create_task(self._push(reference, names, request.auth, progress), name="push")
            await unless_gone(stream, work)

    async def _names(self, reference: Reference, platform: Platform | None) -> list[Name]:
        """The tags to push, with their images for a platform: the one that was named, else all of the repository."""
        async with self._depot.catalog.reading() as reader:
            tags = [name for name in await reader.names_in(reference.name) if not name.is_digest]
        if not tags:
            text = f"An image does not exist locally with the tag: {reference.familiar_name}"
            raise NotFound(text, image=reference.familiar)
        if reference.tag is not None:
            tags = [name for name in tags if name.name == str(reference)]
        if not tags:
            raise NotFound(f"tag does not exist: {reference.familiar}", image=reference.familiar)
        async with self._depot.catalog.reading() as reader:
            return [replace(tag, image_id=(await find_for(reader, tag.name, platform)).id) for tag in tags]

    async def _push(
        self, reference: Reference, names: list[Name], auth: RegistryAuth | None, progress: Progress
    ) -> None:
        async with Repository(self._hosts, reference.domain, reference.path, auth, actions="pull,push") as repository:
            for name in names:
                async with self._depot.lease() as lease:
                    sending = _Sending(self._depot, repository, lease, progress, self._at_once)
                    pushed = await sending.image(name)
                tag = name.reference.tag or ""
                await progress.line({"status": f"{tag}: digest: {pushed.digest} size: {pushed.size}"})
                await progress.aux({"Tag": tag, "Digest": pushed.digest, "Size": pushed.size})


class _Sending:
    """One image being pushed."""

    def __init__(self, depot: Depot, repository: Repository, lease: Lease, progress: Progress, at_once: int) -> None:
        self._depot = depot
        self._repository = repository
        self._lease = lease
        self._progress = progress
        self._at_once = asyncio.Semaphore(at_once)

    async def image(self, name: Name) -> Pushed:
        manifest_data, manifest, config = await self._loaded(name.image_id)
        for layer in manifest.layers:
            await self._progress.status("Preparing", _short(layer.digest))
        sent = await self._layers(manifest.layers)
        await self._blob(manifest.config, quiet=True)
        if sent != manifest.layers:
            manifest_data = build_manifest(config, sent)
            manifest = _as_manifest(manifest_data)
        reference = name.reference
        await self._repository.put_manifest(reference.tag or "", manifest_data, manifest.media_type)
        digest = digest_of(manifest_data)
        await self._remember(name, reference.with_digest(digest), manifest, manifest_data)
        return Pushed(digest, len(manifest_data))

    async def _loaded(self, image_id: str) -> tuple[bytes, Manifest, bytes]:
        async with self._depot.catalog.reading() as reader:
            found = await reader.by_id(image_id)
        if found is None:
            raise NotFound(f"No such image: {image_id}", image=image_id)
        content = self._depot.content
        data = await asyncio.to_thread(content.read, found.image().manifest_digest, MAX_MANIFEST_BYTES)
        manifest = _as_manifest(data)
        await self._lease.keep(image_id, *(layer.digest for layer in manifest.layers))
        return data, manifest, await asyncio.to_thread(content.read, image_id, MAX_CONFIG_BYTES)

    async def _remember(self, name: Name, by_digest: Reference, manifest: Manifest, data: bytes) -> None:
        """What was pushed is what the image is from now on: pushed or saved again, it is the same."""
        await self._depot.put(self._lease, data, digest_of(data))
        async with self._depot.catalog.writing() as writer:
            await writer.set_manifest(name.image_id, digest_of(data), [layer.digest for layer in manifest.layers])
            await writer.set_name(by_digest, name.image_id)
            blobs = [manifest.config.digest, *(layer.digest for layer in manifest.layers)]
            await writer.add_blob_source(self._repository.domain, self._repository.path, blobs)
            shown = name.reference
            writer.emit(image_event("push", shown.familiar, shown.familiar_name))

    async def _layers(self, layers: list[Descriptor]) -> list[Descriptor]:
        unique = {layer.digest: layer for layer in layers}
        try:
            async with asyncio.TaskGroup() as group:
                tasks = {digest: group.create_task(self._layer(layer)) for digest, layer in unique.items()}
        except* DavitError as failed:
            raise _first(failed) from None
        return [tasks[layer.digest].result() for layer in layers]

    async def _layer(self, layer: Descriptor) -> Descriptor:
        async with self._at_once:
            if layer.media_type in (DOCKER_LAYER, OCI_LAYER):
                layer = await self._compressed(layer)
            await self._blob(layer)
            return layer

    async def _compressed(self, layer: Descriptor) -> Descriptor:
        digest = await asyncio.to_thread(compress, self._depot.content, layer.digest)
        await self._lease.keep(digest)
        return Descriptor(f"{DOCKER_LAYER}.gzip", digest, self._depot.content.size(digest))

    async def _blob(self, blob: Descriptor, *, quiet: bool = False) -> None:
        item = _short(blob.digest)
        if await self._repository.has_blob(blob.digest):
            if not quiet:
                await self._progress.status("Layer already exists", item)
            return
        source = await self._mounted(blob)
        if source:
            if not quiet:
                await self._progress.status(f"Mounted from {source}", item)
            return
        await self._upload(blob, item, quiet=quiet)
        if not quiet:
            await self._progress.status("Pushed", item)

    async def _mounted(self, blob: Descriptor) -> str | None:
        """A repository of the same registry that the blob could be mounted from, if the registry did so."""
        async with self._depot.catalog.reading() as reader:
            sources = await reader.blob_source(self._repository.domain, blob.digest)
        for source in [path for path in sources if path != self._repository.path][:MOST_SOURCES]:
            self._repository.add_scope(source)
            if await self._repository.begin_upload(blob.digest, source) is None:
                return source
        return None

    async def _upload(self, blob: Descriptor, item: str, *, quiet: bool) -> None:
        pause_s = FIRST_PAUSE_S
        for attempt in range(ATTEMPTS):
            try:
                await self._upload_once(blob, item, quiet=quiet)
                return
            except (Unauthorized, Forbidden, InvalidArgument, NotFound):
                raise
            except DavitError:
                if attempt + 1 == ATTEMPTS:
                    raise
            await self._progress.status(f"Retrying in {max(1, round(pause_s))} second(s)", item)
            await asyncio.sleep(pause_s)
            pause_s *= 2

    async def _upload_once(self, blob: Descriptor, item: str, *, quiet: bool) -> None:
        address = await self._repository.begin_upload()
        if address is None:
            raise Internal("the registry mounted a blob that nobody asked it to mount")
        size = self._depot.content.size(blob.digest)
        start = 0
        while start < size:
            length = min(CHUNK_BYTES, size - start)
            # A function, so that the body can be made again when the registry first asks for credentials.
            body = partial(self._read, blob, start, length, size, item, quiet)
            address = await self._repository.send_chunk(address, body, length, start)
            start += length
        await self._repository.end_upload(address, blob.digest)

    async def _read(
        self, blob: Descriptor, start: int, length: int, size: int, item: str, quiet: bool
    ) -> AsyncGenerator[bytes, None]:
        with self._depot.content.open(blob.digest) as file:
            file.seek(start)
            left = length
            while left:
                data = await asyncio.to_thread(file.read, min(READ_BYTES, left))
                if not data:
                    raise Internal(f"content {blob.digest} is shorter than it was")
                left -= len(data)
                yield data
                if not quiet:
                    await self._progress.advance("Pushing", item, start + length - left, size)


def _as_manifest(data: bytes) -> Manifest:
    manifest = parse(data)
    if not isinstance(manifest, Manifest):
        raise Internal("an image's manifest is an index")
    return manifest


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def _first(group: BaseExceptionGroup[DavitError]) -> DavitError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, DavitError)
    return error


def compress(content: ContentStore, digest: str) -> str:
    """A blob compressed with gzip, as a blob of its own; its digest. Equal blobs give equal results."""
    from isal import isal_zlib

    compressor = isal_zlib.compressobj(level=COMPRESSION_LEVEL, wbits=31)
    with content.open(digest) as file, content.ingest() as ingest:
        while data := file.read(1 << 20):
            if piece := compressor.compress(data):
                ingest.write(piece)
        ingest.write(compressor.flush())
        compressed = ingest.digest
        if not content.has(compressed):
            ingest.commit(compressed)
        return compressed
