"""What the registry shows: what was pushed to it, and the images of this engine under their own names.

Source: OCI distribution-spec, "Content Management", "Listing Referrers".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa

from services.image.catalog.manifests import Index, Manifest
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
from shared.docker.references import Reference, parse
from shared.errors import InvalidArgument
from shared.state.connection import Connection
from shared.state.database import Database
from shared.state.statements import Prepared

EMPTY: frozenset[str] = frozenset()

_repository: sa.BindParameter[str] = sa.bindparam("repository")
_digest: sa.BindParameter[str] = sa.bindparam("digest")
_this_tag = (repository_tags.c.repository == _repository, repository_tags.c.tag == sa.bindparam("tag"))
_this_manifest = (repository_manifests.c.repository == _repository, repository_manifests.c.digest == _digest)
_this_blob = (repository_blobs.c.repository == _repository, repository_blobs.c.digest == _digest)
_tagged = Prepared(sa.select(repository_tags.c.digest).where(*_this_tag))
_manifest = Prepared(sa.select(repository_manifests.c.digest).where(*_this_manifest))
_blob = Prepared(sa.select(repository_blobs.c.digest).where(*_this_blob))
_tags_of = Prepared(sa.select(repository_tags.c.tag).where(repository_tags.c.repository == _repository))
_any_manifest = Prepared(
    sa.select(repository_manifests.c.digest).where(repository_manifests.c.repository == _repository).limit(1)
)
_referrers = Prepared(
    sa.select(repository_manifests)
    .where(repository_manifests.c.repository == _repository, repository_manifests.c.subject == sa.bindparam("subject"))
    .order_by(repository_manifests.c.digest)
)
_pushed_repositories = Prepared(sa.select(repository_manifests.c.repository).distinct())
_all_blobs = Prepared(sa.select(repository_blobs.c.repository, repository_blobs.c.digest))
_all_manifests = Prepared(sa.select(repository_manifests.c.repository, repository_manifests.c.digest))
_insert_tag = Prepared(sa.insert(repository_tags))
_insert_manifest = Prepared(sa.insert(repository_manifests))
_insert_blob = Prepared(sa.insert(repository_blobs))
_delete_tag = Prepared(sa.delete(repository_tags).where(*_this_tag))
_delete_tags = Prepared(
    sa.delete(repository_tags).where(repository_tags.c.repository == _repository, repository_tags.c.digest == _digest)
)
_delete_manifest = Prepared(sa.delete(repository_manifests).where(*_this_manifest))
_delete_blob = Prepared(sa.delete(repository_blobs).where(*_this_blob))
# The engine's own images, under their names.
_own_ids = sa.select(names.c.image_id).where(names.c.repository == sa.bindparam("name"))
_own_repositories = Prepared(sa.select(names.c.repository).distinct())
_names_of = Prepared(
    sa.select(names.c.name).where(names.c.repository == sa.bindparam("name"), names.c.is_digest == sa.false())
)
_document_of = Prepared(
    sa.select(images.c.document)
    .join_from(names, images, names.c.image_id == images.c.id)
    .where(names.c.name == sa.bindparam("name"))
)
_content_of = Prepared(
    sa.union(
        sa.select(image_content.c.digest).where(image_content.c.image_id.in_(_own_ids)),
        sa.select(layers.c.blob)
        .join_from(image_layers, layers, image_layers.c.chain_id == layers.c.chain_id)
        .where(image_layers.c.image_id.in_(_own_ids)),
    )
)


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
            digest: str | None = await connection.scalar(_tagged, {"repository": repository, "tag": tag})
            if digest is not None:
                return digest
            local = _local(repository)
            if local is None:
                return None
            try:
                name = str(local.with_tag(tag))
            except InvalidArgument:
                return None
            document: str | None = await connection.scalar(_document_of, {"name": name})
        return str(orjson.loads(document)["manifest_digest"]) if document else None

    async def has_manifest(self, repository: str, digest: str) -> bool:
        return await self._has(_manifest, repository, digest)

    async def has_blob(self, repository: str, digest: str) -> bool:
        return await self._has(_blob, repository, digest)

    async def _has(self, pushed: Prepared, repository: str, digest: str) -> bool:
        async with self._database.read() as connection:
            found = await connection.scalar(pushed, {"repository": repository, "digest": digest})
            return found is not None or digest in await self._local_content(connection, repository)

    async def _local_content(self, connection: Connection, repository: str) -> set[str] | frozenset[str]:
        """Digests of everything that belongs to the engine's images of a name."""
        local = _local(repository)
        if local is None:
            return EMPTY
        return set(await connection.scalars(_content_of, {"name": local.name}))

    async def tags(self, repository: str) -> list[str] | None:
        """All tags, sorted; None when there is no such repository."""
        async with self._database.read() as connection:
            tags = set(await connection.scalars(_tags_of, {"repository": repository}))
            known = bool(tags) or await connection.scalar(_any_manifest, {"repository": repository})
            local = _local(repository)
            if local is not None:
                names = await connection.scalars(_names_of, {"name": local.name})
                tags |= {name[len(local.name) + 1 :] for name in names}
        return sorted(tags) if tags or known else None

    async def catalog(self) -> list[str]:
        async with self._database.read() as connection:
            pushed = set(await connection.scalars(_pushed_repositories))
            shown = {parse(name).familiar_name for name in await connection.scalars(_own_repositories)}
        # A name with a port is none that this API can spell.
        return sorted(pushed | {name for name in shown if ":" not in name})

    async def add_blob(self, repository: str, digest: str) -> None:
        row = {"repository": repository, "digest": digest}
        async with self._database.transaction() as transaction:
            await transaction.execute(_delete_blob, row)
            await transaction.execute(_insert_blob, row)

    async def add_manifest(self, repository: str, row: ManifestRow, parsed: Manifest | Index, tag: str | None) -> None:
        """Store a manifest, and let a tag name it."""
        async with self._database.transaction() as transaction:
            await transaction.execute(_delete_manifest, {"repository": repository, "digest": row.digest})
            await transaction.execute(
                _insert_manifest,
                {
                    "repository": repository,
                    "digest": row.digest,
                    "media_type": row.media_type,
                    "size_bytes": row.size_bytes,
                    "subject": parsed.subject.digest if parsed.subject else "",
                    "artifact_type": row.artifact_type,
                    "annotations": orjson.dumps(row.annotations).decode(),
                },
            )
            if tag is not None:
                await transaction.execute(_delete_tag, {"repository": repository, "tag": tag})
                await transaction.execute(_insert_tag, {"repository": repository, "tag": tag, "digest": row.digest})

    async def remove_tag(self, repository: str, tag: str) -> bool:
        """Whether there was such a tag among the pushed ones."""
        return await self._removed(_delete_tag, {"repository": repository, "tag": tag})

    async def remove_manifest(self, repository: str, digest: str) -> bool:
        """Whether it was there; the tags that name it go with it."""
        return await self._removed(_delete_manifest, {"repository": repository, "digest": digest}, _delete_tags)

    async def remove_blob(self, repository: str, digest: str) -> bool:
        """Whether it was there."""
        return await self._removed(_delete_blob, {"repository": repository, "digest": digest})

    async def _removed(self, statement: Prepared, row: dict[str, Any], *first: Prepared) -> bool:
        async with self._database.transaction() as transaction:
            for other in first:
                await transaction.execute(other, row)
            return bool((await transaction.execute(statement, row)).rowcount)

    async def blobs_and_manifests(self) -> dict[str, tuple[set[str], set[str]]]:
        """By repository: digests of the blobs, and of the manifests, that were pushed to it."""
        found: dict[str, tuple[set[str], set[str]]] = {}
        async with self._database.read() as connection:
            for position, statement in enumerate((_all_blobs, _all_manifests)):
                for repository, digest in await connection.execute(statement):
                    found.setdefault(repository, (set(), set()))[position].add(digest)
        return found

    async def referrers(self, repository: str, subject: str) -> list[ManifestRow]:
        """Manifests that say that they are about another."""
        async with self._database.read() as connection:
            rows = await connection.execute(_referrers, {"repository": repository, "subject": subject})
        return [
            ManifestRow(row.digest, row.media_type, row.size_bytes, row.artifact_type, orjson.loads(row.annotations))
            for row in rows
        ]


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
