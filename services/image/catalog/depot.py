"""Images as a whole: content, unpacked layers and the catalog kept in step.

Order makes crashes harmless: a lease first, then blobs and layers, then one transaction that makes the image known
and gives up the lease. What has neither an image nor a lease is garbage.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from services.image.archives.intake import TakenLayer, unpack_stored
from services.image.catalog.domain import ImageRecord, LayerRecord, platform_of
from services.image.catalog.lookup import as_reference, find_for, no_such_image
from services.image.catalog.manifests import Descriptor, chain_on
from services.image.jobs import Jobs
from services.image.sql.catalog import SqlCatalog, Writer
from services.image.sql.content import LEASE_S
from services.image.sql.images import Found
from services.image.store.content import ContentStore
from services.image.store.holds import Holds
from services.image.store.presence import Presence
from shared.docker.platforms import Platform
from shared.docker.references import Reference
from shared.errors import NotFound
from shared.events.record import DomainEvent
from shared.layers.store import LayerStore

RENEW_EVERY_S = LEASE_S / 4


def image_event(action: str, image_id: str, name: str, labels: dict[str, str] | None = None) -> DomainEvent:
    """An image event as Docker has it: labels are attributes, and ``name`` is what the client called it."""
    return DomainEvent(type="image", action=action, actor_id=image_id, attributes={**(labels or {}), "name": name})


class Lease:
    """Keeps content from being collected while work is going on; made by `Depot.lease`."""

    def __init__(self, catalog: SqlCatalog, content: ContentStore, layers: LayerStore, holder: str) -> None:
        self.id = f"{holder}-{secrets.token_hex(16)}"
        self._catalog = catalog
        self._content = content
        self._layers = layers

    async def open(self) -> None:
        async with self._catalog.writing() as writer:
            await writer.open_lease(self.id, (), _expiry())

    async def keep(self, *items: str) -> None:
        async with self._catalog.writing() as writer:
            await writer.lease_items(self.id, items)

    async def keep_blob(self, digest: str) -> bool:
        """Whether the store has a blob, which from now on stays."""
        async with self._catalog.writing() as writer:
            await writer.lease_items(self.id, (digest,))
            return self._content.has(digest)

    async def keep_layers(self, chains: Sequence[str]) -> dict[str, LayerRecord]:
        """Those of the layers that are known and unpacked; they stay, and so do their blobs."""
        async with self._catalog.writing() as writer:
            found = await writer.layers(chains)
            here = {
                chain: layer
                for chain, layer in found.items()
                if self._layers.has(chain) and self._content.has(layer.blob)
            }
            await writer.lease_items(self.id, [*here, *(layer.blob for layer in here.values())])
            return here

    async def renew_for_ever(self) -> None:
        while True:
            await asyncio.sleep(RENEW_EVERY_S)
            async with self._catalog.writing() as writer:
                await writer.renew_lease(self.id, _expiry())

    async def close(self) -> None:
        async with self._catalog.writing() as writer:
            await writer.close_lease(self.id)


def _expiry() -> int:
    return time.time_ns() + LEASE_S * 1_000_000_000


@dataclass(frozen=True, slots=True)
class TakenAway:
    """Content that was removed, and directories of layers that are to be removed."""

    blob_bytes: int
    paths: list[Path]


class Depot:
    """Where images are put and found."""

    def __init__(self, catalog: SqlCatalog, content: ContentStore, layers: LayerStore, jobs: Jobs) -> None:
        self.catalog = catalog
        self.content = content
        self.layers = layers
        self.jobs = jobs
        self.holds = Holds(content.root)
        self.presence = Presence(content.root)
        self._unsettled = asyncio.Event()

    def wake(self) -> None:
        """There are new layers whose files may not be on the disk yet."""
        self._unsettled.set()

    async def settle_for_ever(self) -> None:
        """Have new layers written to the disk, without anybody waiting for it."""
        while True:
            await self._unsettled.wait()
            self._unsettled.clear()
            await asyncio.to_thread(self.layers.settle)

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Lease]:
        """A lease for the time of the block."""
        lease = Lease(self.catalog, self.content, self.layers, self.presence.token)
        await lease.open()
        renewal = asyncio.create_task(lease.renew_for_ever(), name=f"lease {lease.id}")
        try:
            yield lease
        finally:
            renewal.cancel()
            await asyncio.shield(lease.close())

    async def commit_layer(self, lease: Lease, taken: TakenLayer, parent: str) -> LayerRecord:
        """Make a taken layer part of the stores, on top of another (chain id; empty for none).

        Whatever the outcome, nothing of the layer stays outside of the stores.
        """
        chain_id = chain_on(parent, taken.diff_id)
        try:
            known = (await lease.keep_layers([chain_id])).get(chain_id)
            if known is not None:
                return known
            await lease.keep(taken.blob, chain_id)
            await asyncio.to_thread(self._commit, taken, chain_id)
            return taken.record(chain_id, parent)
        finally:
            await asyncio.shield(asyncio.to_thread(taken.discard))

    def _commit(self, taken: TakenLayer, chain_id: str) -> None:
        if taken.ingest is not None:
            taken.ingest.commit(taken.blob)
        if taken.staged is not None:
            staged, taken.staged = taken.staged, None
            self.layers.commit(staged, chain_id)

    async def unpack(self, lease: Lease, blob: str, diff_id: str, parent: str) -> tuple[str, int]:
        """Unpack a layer whose blob is in the store; its chain id and the size of its files."""
        chain_id = chain_on(parent, diff_id)
        await lease.keep(blob, chain_id)
        staged, unpacked = await asyncio.to_thread(unpack_stored, self.content, self.layers, blob, diff_id)
        await asyncio.to_thread(self.layers.commit, staged, chain_id)
        return chain_id, unpacked.size_bytes

    async def layer_from_blob(self, lease: Lease, blob: Descriptor, diff_id: str, parent: str) -> LayerRecord:
        """A layer on top of another whose blob is in the store, unpacked if it is not yet."""
        chain_id = chain_on(parent, diff_id)
        known = (await lease.keep_layers([chain_id])).get(chain_id)
        if known is not None:
            return known
        if not await lease.keep_blob(blob.digest):
            raise NotFound(f"content {blob.digest} is not in the store", digest=blob.digest)
        _, size = await self.unpack(lease, blob.digest, diff_id, parent)
        return LayerRecord(chain_id, diff_id, parent, blob.digest, blob.media_type, blob.size, size)

    async def put(self, lease: Lease, data: bytes, digest: str) -> None:
        """Store a small blob."""
        if not await lease.keep_blob(digest):
            await asyncio.to_thread(self.content.put, data)

    async def add(
        self,
        record: ImageRecord,
        *,
        names: Sequence[Reference] = (),
        index: str = "",
        events: Sequence[DomainEvent] = (),
    ) -> list[str]:
        """Make an image known, under names; ids of the images that were called so before.

        Its blobs and layers are in the stores, under a lease that is still open.

        Args:
            index: Digest of the index in which it is one of several for these names; empty for none.
        """
        moved = []
        async with self.catalog.writing() as writer:
            await writer.add(record)
            for name in names:
                if index:
                    before = await writer.set_variant(name, index, platform_of(record.image), record.image.id)
                else:
                    before = await writer.set_name(name, record.image.id)
                if before is not None:
                    moved.append(before)
            for event in events:
                writer.emit(event)
        return moved

    async def find(self, text: str, platform: Platform | None = None) -> Found:
        """The image that a text names, for a platform if one is asked for.

        Raises:
            NotFound: In Docker's words.
        """
        async with self.catalog.reading() as reader:
            return await find_for(reader, text, platform)

    async def find_and_hold(self, text: str, platform: Platform | None) -> Found:
        """As `find`; the image's layers then stay for a moment, even if it is removed.

        It is looked at again after it was held: a removal hides an image before it looks who holds it, so one of the
        two sees the other.
        """
        found = await self.find(text, platform)
        self.holds.hold(found.id)
        async with self.catalog.reading() as reader:
            if not await reader.is_shown(found.id):
                raise no_such_image(text, as_reference(text))
        return found

    # -- removal ------------------------------------------------------------------------------------------------

    async def discard(self, blobs: Collection[str], chains: Collection[str]) -> int:
        """Remove content and layers that nothing needs any more; the bytes of blobs that were freed."""
        async with self.catalog.writing() as writer:
            gone = await self.take_away(writer, blobs, chains)
        await self.remove_files(gone.paths)
        return gone.blob_bytes

    async def take_away(self, writer: Writer, blobs: Collection[str], chains: Collection[str]) -> TakenAway:
        """Make content and layers unavailable that nothing needs any more.

        Within a write transaction, so that nobody can take a lease on what is being removed.
        """
        kept = await writer.kept_content(time.time_ns())
        freed = sum(self.content.remove(digest) for digest in set(blobs) - kept)
        await writer.forget_blob_sources(set(blobs) - kept)
        paths = [path for chain in set(chains) - kept if (path := self.layers.take_away(chain))]
        return TakenAway(freed, paths)

    async def remove_files(self, paths: Collection[Path]) -> None:
        """Delete directories that were taken away."""
        for path in paths:
            await asyncio.to_thread(shutil.rmtree, path, True)

    async def give_up_leases(self) -> None:
        """Close the leases of copies of the service that have ended: their work has, too."""
        async with self.catalog.reading() as reader:
            leases = await reader.open_leases()
        holders = {lease.partition("-")[0] for lease in leases if "-" in lease}
        dead = await asyncio.to_thread(lambda: {holder for holder in holders if self.presence.is_dead(holder)})
        left = [lease for lease in leases if lease.partition("-")[0] in dead]
        if left:
            async with self.catalog.writing() as writer:
                for lease in left:
                    await writer.close_lease(lease)
        await asyncio.to_thread(self.presence.tidy)

    async def collect(self) -> int:
        """Remove everything that neither an image nor a lease needs; the bytes of blobs that were freed."""
        await self.give_up_leases()
        blobs, chains = await asyncio.to_thread(lambda: (list(self.content.digests()), list(self.layers.chain_ids())))
        async with self.catalog.writing() as writer:
            await writer.close_expired_leases(time.time_ns())
            await writer.remove_layers(await writer.unused_layers())
        return await self.discard(blobs, chains)

    async def repair(self) -> list[str]:
        """Unpack again what a power cut may have damaged, and what is missing; chain ids that could not be."""
        doubtful = set(await asyncio.to_thread(self.layers.doubtful))
        for chain_id in doubtful:
            path = self.layers.take_away(chain_id)
            if path is not None:
                await asyncio.to_thread(shutil.rmtree, path, True)
        lost = []
        async with self.catalog.reading() as reader:
            records = await reader.all_layers()
        for record in records:
            if not self.layers.has(record.chain_id):
                try:
                    async with self.lease() as lease:
                        await self.unpack(lease, record.blob, record.diff_id, record.parent)
                except NotFound:
                    lost.append(record.chain_id)
        return lost
