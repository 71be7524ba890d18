"""What the registry shows: what was pushed to it, and the images of this engine under their own names.

Source: OCI distribution-spec, "Content Management", "Listing Referrers".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa

from services.image.manifests import Index, Manifest
from services.image.references import Reference, parse
from services.image.sql.tables import (
    image_content,
    image_layers,
    images,
    layers,
    names,
    repository_blobs,
    repository_manifests,
    repository_tags,
)
from shared.database import Database, Transaction
from shared.errors import InvalidArgument

EMPTY: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """A pushed manifest: what listing referrers needs of it."""

    digest: str
    media_type: str
    size_bytes: int
    artifact_type: str
    annotations: dict[str, str]

    def descriptor(self) -> dict[str, Any]:
        value: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size_bytes}
        if self.artifact_type:
            value["artifactType"] = self.artifact_type
        if self.annotations:
            value["annotations"] = self.annotations
        return value


class Repositories:
    """Queries and changes; each is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def resolve(self, repository: str, tag: str) -> str | None:
        """The digest of a manifest by tag; pushed ones before the engine's own images."""
        async with self._database.read() as connection:
            digest: str | None = await connection.scalar(
                sa.select(repository_tags.c.digest).where(
                    repository_tags.c.repository == repository, repository_tags.c.tag == tag
                )
            )
            if digest is not None:
                return digest
            local = _local(repository)
            if local is None:
                return None
            try:
                name = str(local.with_tag(tag))
            except InvalidArgument:
                return None
            document: str | None = await connection.scalar(
                sa.select(images.c.document)
                .join_from(names, images, names.c.image_id == images.c.id)
                .where(names.c.name == name)
            )
        return str(orjson.loads(document)["manifest_digest"]) if document else None

    async def has_manifest(self, repository: str, digest: str) -> bool:
        async with self._database.read() as connection:
            found = await connection.scalar(
                sa.select(repository_manifests.c.digest).where(
                    repository_manifests.c.repository == repository, repository_manifests.c.digest == digest
                )
            )
            return found is not None or digest in await self._local_content(connection, repository)

    async def has_blob(self, repository: str, digest: str) -> bool:
        async with self._database.read() as connection:
            found = await connection.scalar(
                sa.select(repository_blobs.c.digest).where(
                    repository_blobs.c.repository == repository, repository_blobs.c.digest == digest
                )
            )
            return found is not None or digest in await self._local_content(connection, repository)

    async def _local_content(self, connection: Any, repository: str) -> set[str] | frozenset[str]:
        """Digests of everything that belongs to the engine's images of a name."""
        local = _local(repository)
        if local is None:
            return EMPTY
        ids = sa.select(names.c.image_id).where(names.c.repository == local.name)
        rows = await connection.scalars(
            sa.union(
                sa.select(image_content.c.digest).where(image_content.c.image_id.in_(ids)),
                sa.select(layers.c.blob)
                .join_from(image_layers, layers, image_layers.c.chain_id == layers.c.chain_id)
                .where(image_layers.c.image_id.in_(ids)),
            )
        )
        return set(rows)

    async def tags(self, repository: str) -> list[str] | None:
        """All tags, sorted; None when there is no such repository."""
        async with self._database.read() as connection:
            tags = set(
                await connection.scalars(
                    sa.select(repository_tags.c.tag).where(repository_tags.c.repository == repository)
                )
            )
            known = bool(tags) or await connection.scalar(
                sa.select(repository_manifests.c.digest).where(repository_manifests.c.repository == repository).limit(1)
            )
            local = _local(repository)
            if local is not None:
                shown = await connection.scalars(
                    sa.select(names.c.name).where(names.c.repository == local.name, names.c.is_digest == sa.false())
                )
                tags |= {name[len(local.name) + 1 :] for name in shown}
        return sorted(tags) if tags or known else None

    async def catalog(self) -> list[str]:
        async with self._database.read() as connection:
            pushed = set(await connection.scalars(sa.select(repository_manifests.c.repository).distinct()))
            local = await connection.scalars(sa.select(names.c.repository).distinct())
            shown = {parse(name).familiar_name for name in local}
        # A name with a port is none that this API can spell.
        return sorted(pushed | {name for name in shown if ":" not in name})

    async def add_blob(self, repository: str, digest: str) -> None:
        async with self._database.transaction() as transaction:
            await _delete(transaction, repository_blobs, repository, digest=digest)
            await transaction.execute(sa.insert(repository_blobs).values(repository=repository, digest=digest))

    async def add_manifest(self, repository: str, row: ManifestRow, parsed: Manifest | Index, tag: str | None) -> None:
        """Store a manifest, and let a tag name it."""
        async with self._database.transaction() as transaction:
            await _delete(transaction, repository_manifests, repository, digest=row.digest)
            await transaction.execute(
                sa.insert(repository_manifests).values(
                    repository=repository,
                    digest=row.digest,
                    media_type=row.media_type,
                    size_bytes=row.size_bytes,
                    subject=parsed.subject.digest if parsed.subject else "",
                    artifact_type=row.artifact_type,
                    annotations=orjson.dumps(row.annotations).decode(),
                )
            )
            if tag is not None:
                await _delete(transaction, repository_tags, repository, tag=tag)
                await transaction.execute(
                    sa.insert(repository_tags).values(repository=repository, tag=tag, digest=row.digest)
                )

    async def remove_tag(self, repository: str, tag: str) -> bool:
        """Whether there was such a tag among the pushed ones."""
        async with self._database.transaction() as transaction:
            return await _delete(transaction, repository_tags, repository, tag=tag)

    async def remove_manifest(self, repository: str, digest: str) -> bool:
        """With all tags that name it."""
        async with self._database.transaction() as transaction:
            await _delete(transaction, repository_tags, repository, digest=digest)
            return await _delete(transaction, repository_manifests, repository, digest=digest)

    async def remove_blob(self, repository: str, digest: str) -> bool:
        async with self._database.transaction() as transaction:
            return await _delete(transaction, repository_blobs, repository, digest=digest)

    async def blobs_and_manifests(self) -> dict[str, tuple[set[str], set[str]]]:
        """By repository: digests of the blobs, and of the manifests, that were pushed to it."""
        found: dict[str, tuple[set[str], set[str]]] = {}
        async with self._database.read() as connection:
            for position, table in enumerate((repository_blobs, repository_manifests)):
                for repository, digest in await connection.execute(sa.select(table.c.repository, table.c.digest)):
                    found.setdefault(repository, (set(), set()))[position].add(digest)
        return found

    async def referrers(self, repository: str, subject: str) -> list[ManifestRow]:
        """Manifests that say that they are about another."""
        async with self._database.read() as connection:
            rows = await connection.execute(
                sa.select(repository_manifests)
                .where(repository_manifests.c.repository == repository, repository_manifests.c.subject == subject)
                .order_by(repository_manifests.c.digest)
            )
            return [
                ManifestRow(
                    row.digest, row.media_type, row.size_bytes, row.artifact_type, orjson.loads(row.annotations)
                )
                for row in rows
            ]


async def _delete(transaction: Transaction, table: sa.Table, repository: str, **key: str) -> bool:
    """Delete a repository's rows that have these values; whether there were any."""
    wanted = [table.c[column] == value for column, value in key.items()]
    gone = await transaction.execute(sa.delete(table).where(table.c.repository == repository, *wanted))
    return bool(gone.rowcount)


def _local(repository: str) -> Reference | None:
    """The engine's own name that a repository stands for."""
    try:
        return parse(repository)
    except InvalidArgument:
        return None


def artifact_type_of(parsed: Manifest | Index) -> str:
    """What listings of referrers call a manifest. Source: distribution-spec, "Listing Referrers"."""
    if parsed.artifact_type:
        return parsed.artifact_type
    return parsed.config.media_type if isinstance(parsed, Manifest) else ""


def page(items: Sequence[str], last: str, count: int | None) -> tuple[list[str], bool]:
    """Items after one, at most so many, and whether there are more."""
    rest = [item for item in items if item > last] if last else list(items)
    if count is None or len(rest) <= count:
        return rest, False
    return rest[:count], count > 0
