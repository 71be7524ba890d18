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
from shared.state.statements import Prepared

_kept = Prepared(
    sa.union(
        sa.select(image_content.c.digest),
        sa.select(layers.c.blob).join_from(image_layers, layers, image_layers.c.chain_id == layers.c.chain_id),
        sa.select(image_layers.c.chain_id),
        sa.select(repository_manifests.c.digest),
        sa.select(repository_blobs.c.digest),
        sa.select(lease_items.c.item)
        .join_from(lease_items, leases, leases.c.id == lease_items.c.lease_id)
        .where(leases.c.expires_ns > sa.bindparam("now_ns")),
    )
)
_sources = Prepared(
    sa.select(blob_sources.c.path).where(
        blob_sources.c.domain == sa.bindparam("domain"), blob_sources.c.digest == sa.bindparam("digest")
    )
)
_insert_source = Prepared(sa.insert(blob_sources))
_delete_source = Prepared(
    sa.delete(blob_sources).where(
        blob_sources.c.domain == sa.bindparam("domain"),
        blob_sources.c.path == sa.bindparam("path"),
        blob_sources.c.digest == sa.bindparam("digest"),
    )
)
_delete_sources = Prepared(
    sa.delete(blob_sources).where(blob_sources.c.digest.in_(sa.bindparam("digests", expanding=True)))
)
_insert_lease = Prepared(sa.insert(leases))
_renew_lease = Prepared(
    sa.update(leases).where(leases.c.id == sa.bindparam("lease_id")).values(expires_ns=sa.bindparam("until_ns"))
)
_insert_items = Prepared(sa.insert(lease_items))
_items_of = Prepared(sa.select(lease_items.c.item).where(lease_items.c.lease_id == sa.bindparam("lease_id")))
_close_lease = (
    Prepared(sa.delete(lease_items).where(lease_items.c.lease_id == sa.bindparam("lease_id"))),
    Prepared(sa.delete(leases).where(leases.c.id == sa.bindparam("lease_id"))),
)
_expired = leases.c.expires_ns <= sa.bindparam("now_ns")
_close_expired = (
    Prepared(sa.delete(lease_items).where(lease_items.c.lease_id.in_(sa.select(leases.c.id).where(_expired)))),
    Prepared(sa.delete(leases).where(_expired)),
)
_open_leases = Prepared(sa.select(leases.c.id))

LEASE_S = 3600


class ContentQueries(Queries):
    """What is needed, and which repositories of other registries have it."""

    async def kept_content(self, now_ns: int) -> set[str]:
        """Digests of blobs, and chain ids of layers, that something needs."""
        return set(await self._connection.scalars(_kept, {"now_ns": now_ns}))

    async def open_leases(self) -> list[str]:
        return list(await self._connection.scalars(_open_leases))

    async def blob_source(self, domain: str, digest: str) -> list[str]:
        """Repositories of a registry that are known to have a blob."""
        return await self._connection.scalars(_sources, {"domain": domain, "digest": digest})


class ContentChanges(ContentQueries, Changes):
    """Leases, and notes of where blobs are."""

    async def open_lease(self, lease_id: str, items: Collection[str], expires_ns: int) -> None:
        await self._execute(_insert_lease, {"id": lease_id, "expires_ns": expires_ns})
        await self.lease_items(lease_id, items)

    async def lease_items(self, lease_id: str, items: Collection[str]) -> None:
        """Keep items (digests, chain ids) from being collected."""
        known = set(await self._transaction.scalars(_items_of, {"lease_id": lease_id}))
        new = [item for item in dict.fromkeys(items) if item not in known]
        if new:
            await self._execute(_insert_items, [{"lease_id": lease_id, "item": item} for item in new])

    async def renew_lease(self, lease_id: str, expires_ns: int) -> None:
        await self._execute(_renew_lease, {"lease_id": lease_id, "until_ns": expires_ns})

    async def close_lease(self, lease_id: str) -> None:
        for statement in _close_lease:
            await self._execute(statement, {"lease_id": lease_id})

    async def close_expired_leases(self, now_ns: int) -> None:
        for statement in _close_expired:
            await self._execute(statement, {"now_ns": now_ns})

    async def add_blob_source(self, domain: str, path: str, digests: Collection[str]) -> None:
        for digest in digests:
            row = {"domain": domain, "path": path, "digest": digest}
            await self._execute(_delete_source, row)
            await self._execute(_insert_source, row)

    async def forget_blob_sources(self, digests: Collection[str]) -> None:
        await self._execute(_delete_sources, {"digests": list(digests)})
