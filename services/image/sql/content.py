"""What keeps content in the store, and where else it is."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from services.image.sql.queries import Changes, Queries
from services.image.sql.tables import (
    blob_sources,
    image_content,
    image_layers,
    layers,
    lease_items,
    leases,
    repository_blobs,
    repository_manifests,
)

LEASE_S = 3600


class ContentQueries(Queries):
    """What is needed, and which repositories of other registries have it."""

    async def kept_content(self, now_ns: int) -> set[str]:
        """Digests of blobs, and chain ids of layers, that something needs."""
        rows = await self._connection.scalars(
            sa.union(
                sa.select(image_content.c.digest),
                sa.select(layers.c.blob).join_from(image_layers, layers, image_layers.c.chain_id == layers.c.chain_id),
                sa.select(image_layers.c.chain_id),
                sa.select(repository_manifests.c.digest),
                sa.select(repository_blobs.c.digest),
                sa.select(lease_items.c.item)
                .join_from(lease_items, leases, leases.c.id == lease_items.c.lease_id)
                .where(leases.c.expires_ns > now_ns),
            )
        )
        return set(rows)

    async def blob_source(self, domain: str, digest: str) -> list[str]:
        """Repositories of a registry that are known to have a blob."""
        return list(
            await self._connection.scalars(
                sa.select(blob_sources.c.path).where(blob_sources.c.domain == domain, blob_sources.c.digest == digest)
            )
        )


class ContentChanges(ContentQueries, Changes):
    """Leases, and notes of where blobs are."""

    async def open_lease(self, lease_id: str, items: Collection[str], expires_ns: int) -> None:
        await self._execute(sa.insert(leases).values(id=lease_id, expires_ns=expires_ns))
        await self.lease_items(lease_id, items)

    async def lease_items(self, lease_id: str, items: Collection[str]) -> None:
        """Keep items (digests, chain ids) from being collected."""
        known = set(
            await self._transaction.scalars(sa.select(lease_items.c.item).where(lease_items.c.lease_id == lease_id))
        )
        new = [item for item in dict.fromkeys(items) if item not in known]
        if new:
            await self._execute(sa.insert(lease_items), [{"lease_id": lease_id, "item": item} for item in new])

    async def renew_lease(self, lease_id: str, expires_ns: int) -> None:
        await self._execute(sa.update(leases).where(leases.c.id == lease_id).values(expires_ns=expires_ns))

    async def close_lease(self, lease_id: str) -> None:
        await self._execute(sa.delete(lease_items).where(lease_items.c.lease_id == lease_id))
        await self._execute(sa.delete(leases).where(leases.c.id == lease_id))

    async def close_expired_leases(self, now_ns: int) -> None:
        expired = sa.select(leases.c.id).where(leases.c.expires_ns <= now_ns)
        await self._execute(sa.delete(lease_items).where(lease_items.c.lease_id.in_(expired)))
        await self._execute(sa.delete(leases).where(leases.c.expires_ns <= now_ns))

    async def add_blob_source(self, domain: str, path: str, digests: Collection[str]) -> None:
        for digest in digests:
            key = (blob_sources.c.domain == domain, blob_sources.c.path == path, blob_sources.c.digest == digest)
            await self._execute(sa.delete(blob_sources).where(*key))
            await self._execute(sa.insert(blob_sources).values(domain=domain, path=path, digest=digest))

    async def forget_blob_sources(self, digests: Collection[str]) -> None:
        await self._execute(sa.delete(blob_sources).where(blob_sources.c.digest.in_(digests)))
