"""`docker pull`: an image's layers are fetched in parallel, and each is unpacked while it arrives.

A connection that breaks is continued where it broke; so is, by the next pull, what a crash left behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import httpx

from services.image.archives.intake import READ_BYTES, TakenLayer
from services.image.catalog.depot import Depot, Lease, image_event
from services.image.catalog.domain import ImageRecord, LayerRecord, make_record, platform_of
from services.image.catalog.manifests import (
    MAX_CONFIG_BYTES,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    build_manifest,
    chain_ids,
    check_image,
    choose,
    digest_of,
    is_elsewhere,
    nested,
    parse,
)
from services.image.progress import Progress, reported, unless_gone
from services.image.registry.client import Fetched, Repository
from services.image.registry.errors import connection_failure
from services.image.registry.hosts import Hosts
from services.image.sql.names import name_of
from services.image.store.content import Ingest
from shared.bus.client import EMPTY, Bus, Empty
from shared.bus.streams import ByteStream, accept
from shared.contracts.images import PullImage, RegistryAuth
from shared.docker.platforms import Platform, own_platform, parse_platform
from shared.docker.references import Reference
from shared.docker.references import parse as parse_reference
from shared.errors import Conflict, DavitError, Forbidden, InvalidArgument, NotFound, Unauthorized, Unavailable
from shared.layers.store import StagedLayer

ATTEMPTS = 5
FIRST_PAUSE_S = 0.5
# How many indexes may lie in each other.
MOST_NESTED = 4


class Puller:
    """Serves PULL.

    Args:
        at_once: How many layers are fetched at the same time.
    """

    def __init__(self, depot: Depot, bus: Bus, hosts: Hosts, at_once: int) -> None:
        self._depot = depot
        self._bus = bus
        self._hosts = hosts
        self._at_once = at_once

    async def pull(self, request: PullImage) -> Empty:
        reference = parse_reference(request.ref)
        platform = parse_platform(request.platform)
        stream = await accept(self._bus, request.stream)
        self._depot.jobs.start(self._serve(request, reference, platform, stream), "pull")
        return EMPTY

    async def _serve(
        self, request: PullImage, reference: Reference, platform: Platform | None, stream: ByteStream
    ) -> None:
        async with reported(stream) as progress:
            work = asyncio.create_task(self._pull(request, reference, platform, progress), name="pull")
            await unless_gone(stream, work)

    async def _pull(
        self, request: PullImage, reference: Reference, platform: Platform | None, progress: Progress
    ) -> None:
        async with Repository(
            self._hosts, reference.domain, reference.path, request.auth, actions="pull"
        ) as repository:
            if request.all_tags and reference.is_name_only:
                try:
                    tags = await repository.tags()
                except DavitError as error:
                    raise explained(error, reference, request.auth) from error
                asked = [reference.with_tag(tag) for tag in tags]
            else:
                reference = reference.with_default_tag()
                asked = [reference]
            news = [await self.pull_one(repository, one, platform, progress, request.auth) for one in asked]
            word = "Downloaded newer image for" if any(news) else "Image is up to date for"
            await progress.line({"status": f"Status: {word} {reference.familiar}"})

    async def pull_one(
        self,
        repository: Repository,
        reference: Reference,
        platform: Platform | None,
        progress: Progress,
        auth: RegistryAuth | None,
    ) -> bool:
        """Fetch one image and name it; whether anything about it is new."""
        wanted = reference.digest or reference.tag or ""
        try:
            fetched = await repository.manifest(wanted)
        except DavitError as error:
            raise explained(error, reference, auth) from error
        await progress.line({"status": f"Pulling from {reference.path}", "id": wanted})
        async with self._depot.lease() as lease:
            fetch = _Fetch(self._depot, repository, lease, progress, self._at_once)
            is_new = await fetch.image(fetched, reference, platform)
        self._depot.wake()
        await progress.line({"status": f"Digest: {fetched.digest}"})
        return is_new


def explained(error: DavitError, reference: Reference, auth: RegistryAuth | None) -> DavitError:
    """An error about a manifest as Docker puts it."""
    if isinstance(error, NotFound):
        if "name unknown" in error.message or "denied" in error.message:
            return NotFound(
                f"pull access denied for {reference.familiar_name}, repository does not exist or may require "
                f"'docker login': {error.message}"
            )
        return NotFound(f"manifest for {reference.familiar} not found: {error.message}")
    if isinstance(error, Unauthorized | Forbidden):
        return type(error)(
            f"pull access denied for {reference.familiar_name}, repository does not exist or may require "
            f"'docker login': {error.message}"
            if auth is None or not auth.username
            else error.message
        )
    return error


class _Fetch:
    """One image being fetched."""

    def __init__(self, depot: Depot, repository: Repository, lease: Lease, progress: Progress, at_once: int) -> None:
        self._depot = depot
        self._repository = repository
        self._lease = lease
        self._progress = progress
        self._at_once = asyncio.Semaphore(at_once)

    async def image(self, fetched: Fetched, reference: Reference, platform: Platform | None) -> bool:
        """Whether anything about the image or its name is new."""
        manifest, data, extra = await self._chosen(fetched, platform)
        config_data = await self._config(manifest.config)
        config = ImageConfig.parse(config_data)
        if platform is not None and not config.platform.matches(platform):
            # A manifest that is not in an index may be of any platform, and many state a wrong one.
            await self._progress.line(
                {
                    "status": f"WARNING: image with reference {reference.familiar} was found but does not match the "
                    f"specified platform: wanted {platform}, actual: {config.platform}"
                }
            )
        if len(config.diff_ids) != len(manifest.layers):
            raise InvalidArgument("invalid rootfs in image configuration: its layers do not match the manifest's")
        async with self._depot.catalog.reading() as reader:
            known = await reader.by_id(manifest.config.digest)
        layers = await self._layers(manifest.layers, config.diff_ids, silent=known is not None)
        if [layer.blob for layer in layers] != [item.digest for item in manifest.layers]:
            data = build_manifest(
                config_data, [Descriptor(item.media_type, item.blob, item.blob_bytes) for item in layers]
            )
        for content in (config_data, data, *extra):
            await self._depot.put(self._lease, content, digest_of(content))
        record = make_record(
            manifest.config.digest,
            config,
            layers,
            manifest_digest=digest_of(data),
            content=[digest_of(item) for item in extra],
        )
        names = [reference] if reference.digest is None else []
        names.append(reference.with_digest(fetched.digest))
        index = fetched.digest if extra else ""
        return await self._add(record, names, reference, [layer.digest for layer in manifest.layers], index)

    async def _add(
        self, record: ImageRecord, names: list[Reference], reference: Reference, blobs: list[str], index: str
    ) -> bool:
        """Make the image known; whether anything about it is new.

        Args:
            index: Digest of the index it was chosen from; empty for none.
        """
        image_id = record.image.id
        async with self._depot.catalog.writing() as writer:
            before = {name.name for name in await writer.names(image_id)}
            was_new = await writer.add(record)
            for name in names:
                if index:
                    await writer.set_variant(name, index, platform_of(record.image), image_id)
                else:
                    await writer.set_name(name, image_id)
            await writer.add_blob_source(self._repository.domain, self._repository.path, blobs)
            event = image_event("pull", reference.familiar, reference.familiar_name, record.image.config.labels)
            writer.emit(event)
        return was_new or not {name_of(name) for name in names} <= before

    async def _chosen(self, fetched: Fetched, platform: Platform | None) -> tuple[Manifest, bytes, list[bytes]]:
        """The manifest for the platform with its bytes, and those of the index that it was chosen from."""
        parsed = parse(fetched.data, fetched.media_type)
        if isinstance(parsed, Manifest):
            check_image(parsed)
            return parsed, fetched.data, []
        found = await self._in_index(parsed, platform, [fetched.data])
        if found is None:
            raise NotFound(f"no matching manifest for {platform or own_platform()} in the manifest list entries")
        check_image(found[0])
        return found

    async def _in_index(
        self, index: Index, platform: Platform | None, above: list[bytes]
    ) -> tuple[Manifest, bytes, list[bytes]] | None:
        """An index's own image for the platform, or else the first in the indexes that it holds."""
        try:
            inside = [choose(index, platform)]
        except NotFound:
            inside = nested(index, platform)
        for descriptor in inside:
            inner = await self._repository.manifest(descriptor.digest)
            found = parse(inner.data, inner.media_type)
            if isinstance(found, Manifest):
                return found, inner.data, above
            if len(above) == MOST_NESTED:
                raise InvalidArgument("invalid manifest: indexes are nested too deeply")
            if (deeper := await self._in_index(found, platform, [*above, inner.data])) is not None:
                return deeper
        return None

    async def _config(self, descriptor: Descriptor) -> bytes:
        if await self._lease.keep_blob(descriptor.digest):
            return await asyncio.to_thread(self._depot.content.read, descriptor.digest, MAX_CONFIG_BYTES)
        return await self._repository.small_blob(descriptor, MAX_CONFIG_BYTES)

    # -- layers -------------------------------------------------------------------------------------------------

    async def _layers(
        self, descriptors: Sequence[Descriptor], diff_ids: list[str], *, silent: bool
    ) -> list[LayerRecord]:
        """The layers, lowest first.

        Args:
            silent: Whether layers that are here are passed over in silence, as Docker does for images it has.
        """
        chains = chain_ids(diff_ids)
        known = await self._lease.keep_layers(chains)
        for descriptor, chain in zip(descriptors, chains, strict=True):
            if chain not in known:
                await self._progress.status("Pulling fs layer", _short(descriptor.digest))
            elif not silent:
                await self._progress.status("Already exists", _short(descriptor.digest))
        fetching: dict[str, asyncio.Task[TakenLayer | None]] = {}
        try:
            async with asyncio.TaskGroup() as group:
                for descriptor, chain in zip(descriptors, chains, strict=True):
                    if chain not in known and descriptor.digest not in fetching:
                        fetching[descriptor.digest] = group.create_task(self._fetched(descriptor))
                return await self._in_order(descriptors, diff_ids, chains, known, fetching)
        except* DavitError as failed:
            raise _first(failed) from None
        finally:
            for task in fetching.values():
                if task.done() and not task.cancelled() and task.exception() is None and (taken := task.result()):
                    await asyncio.shield(asyncio.to_thread(taken.discard))

    async def _in_order(
        self,
        descriptors: Sequence[Descriptor],
        diff_ids: list[str],
        chains: list[str],
        known: dict[str, LayerRecord],
        fetching: dict[str, asyncio.Task[TakenLayer | None]],
    ) -> list[LayerRecord]:
        """Put the layers on top of each other as they become complete, lowest first."""
        layers: list[LayerRecord] = []
        for descriptor, diff_id, chain in zip(descriptors, diff_ids, chains, strict=True):
            if chain in known:
                layers.append(known[chain])
                continue
            taken = await fetching[descriptor.digest]
            parent = layers[-1].chain_id if layers else ""
            if taken is not None and taken.diff_id != diff_id:
                raise InvalidArgument(f"layer {descriptor.digest} unpacks to {taken.diff_id}, not to {diff_id}")
            if taken is not None and taken.staged is not None:
                layers.append(await self._depot.commit_layer(self._lease, taken, parent))
            else:
                layers.append(await self._depot.layer_from_blob(self._lease, descriptor, diff_id, parent))
            await self._progress.status("Pull complete", _short(descriptor.digest))
        return layers

    async def _fetched(self, descriptor: Descriptor) -> TakenLayer | None:
        """A layer's blob and files; None when the store has the blob already."""
        item = _short(descriptor.digest)
        if await self._lease.keep_blob(descriptor.digest):
            await self._progress.status("Download complete", item)
            return None
        async with self._at_once:
            download = _Download(self._depot, self._repository, descriptor, self._progress)
            try:
                taken = await download.run()
            except NotFound as error:
                if not is_elsewhere(descriptor.media_type):
                    raise
                text = f"layer {descriptor.digest} is distributed elsewhere, which is not supported"
                raise InvalidArgument(text) from error
        await self._lease.keep(taken.blob)
        return taken


def _first(group: BaseExceptionGroup[DavitError]) -> DavitError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, DavitError)
    return error


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


class _Download:
    """One layer on its way from the registry into the stores."""

    def __init__(self, depot: Depot, repository: Repository, descriptor: Descriptor, progress: Progress) -> None:
        self._depot = depot
        self._repository = repository
        self._descriptor = descriptor
        self._progress = progress
        self._item = _short(descriptor.digest)

    async def run(self) -> TakenLayer:
        ingest = await self._begin()
        staged: StagedLayer | None = None
        try:
            staged = await asyncio.to_thread(self._depot.layers.stage)
            if ingest.size:
                await asyncio.to_thread(_replay, ingest, staged)
            await self._with_retries(ingest, staged)
            return await self._finished(ingest, staged)
        except asyncio.CancelledError:
            ingest.discard()
            raise
        except (InvalidArgument, NotFound):
            ingest.discard()
            raise
        except DavitError:
            ingest.keep()  # the next pull continues
            raise
        finally:
            if not ingest.is_open and staged is not None:
                await asyncio.shield(asyncio.to_thread(staged.discard))

    async def _begin(self) -> Ingest:
        """The download's file; when another process has it, wait for that one."""
        while True:
            with suppress(Conflict):
                return await asyncio.to_thread(self._depot.content.continued, self._descriptor.digest)
            await self._progress.status("Waiting", self._item)
            await asyncio.sleep(FIRST_PAUSE_S)

    async def _with_retries(self, ingest: Ingest, staged: StagedLayer) -> None:
        pause_s = FIRST_PAUSE_S
        for attempt in range(ATTEMPTS):
            if ingest.size >= self._descriptor.size > 0:
                return
            before = ingest.size
            try:
                await self._receive(ingest, staged)
                return
            except Unavailable as error:
                if attempt + 1 == ATTEMPTS and ingest.size == before:
                    raise
                await self._progress.status(f"Retrying in {max(1, round(pause_s))} second(s)", self._item)
                last = error
            await asyncio.sleep(pause_s)
            pause_s *= 2
        raise last

    async def _receive(self, ingest: Ingest, staged: StagedLayer) -> None:
        digest, total = self._descriptor.digest, self._descriptor.size
        async with self._repository.blob(digest, ingest.size) as (chunks, continued):
            skip = 0 if continued else ingest.size
            gathered: list[bytes] = []
            arrived = ingest.size
            try:
                async for chunk in chunks:
                    new = chunk[skip:]
                    skip = max(0, skip - len(chunk))
                    gathered.append(new)
                    arrived += len(new)
                    if arrived > total:
                        raise InvalidArgument(f"blob {digest} is larger than its manifest says")
                    if arrived - ingest.size >= READ_BYTES:
                        await self._take(ingest, staged, gathered)
            except httpx.HTTPError as error:
                raise connection_failure(error, digest) from error
            finally:
                await self._take(ingest, staged, gathered)
        if ingest.size < total:
            raise Unavailable(f"blob {digest} ended after {ingest.size} of {total} bytes")

    async def _take(self, ingest: Ingest, staged: StagedLayer, gathered: list[bytes]) -> None:
        """Pass on what has arrived, in large pieces: each costs a change of threads."""
        data = b"".join(gathered)
        gathered.clear()
        if data:
            await asyncio.to_thread(_take, ingest, staged, data)
            await self._progress.advance("Downloading", self._item, ingest.size, self._descriptor.size)

    async def _finished(self, ingest: Ingest, staged: StagedLayer) -> TakenLayer:
        await self._progress.status("Verifying Checksum", self._item)
        digest = self._descriptor.digest
        if ingest.digest != digest:
            raise InvalidArgument(f"filesystem layer verification failed for digest {digest}")
        await self._progress.status("Download complete", self._item)
        unpacked = await asyncio.to_thread(staged.finish)
        await self._progress.advance("Extracting", self._item, ingest.size, ingest.size)
        return TakenLayer(
            digest, ingest.size, unpacked.compression, unpacked.diff_id, unpacked.size_bytes, ingest, staged
        )


def _take(ingest: Ingest, staged: StagedLayer, chunk: bytes) -> None:
    ingest.write(chunk)
    if not staged.write(chunk):
        staged.finish()


def _replay(ingest: Ingest, staged: StagedLayer) -> None:
    """Give the unpacking child what an earlier attempt fetched."""
    with ingest.reading() as file:
        while data := file.read(READ_BYTES):
            if not staged.write(data):
                staged.finish()
