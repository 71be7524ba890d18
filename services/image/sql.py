"""The image service's tables and the statements on them. Nobody else reads these tables."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from services.image.domain import ImageRecord, LayerRecord, Name
from services.image.manifests import Platform, own_platform
from services.image.references import Reference, id_prefix
from shared.connection import Connection
from shared.contracts.images import Image, ResolvedImage
from shared.database import Database, Transaction
from shared.statements import Prepared

metadata = sa.MetaData()

images = sa.Table(
    "images",
    metadata,
    sa.Column("id", sa.String(80), primary_key=True),
    sa.Column("document", sa.Text, nullable=False),
    sa.Column("resolved", sa.Text, nullable=False),
    sa.Column("parent", sa.String(80), nullable=False, index=True),
    sa.Column("cache_key", sa.String(128), nullable=False, server_default=""),
    sa.Column("created_unix", sa.BigInteger, nullable=False),
    sa.Column("stored_ns", sa.BigInteger, nullable=False),
    sa.Column("last_tag_ns", sa.BigInteger, nullable=False),
    # Removed by force while containers use it: not shown any more, its layers stay until they are gone.
    sa.Column("hidden", sa.Boolean, nullable=False),
)

names = sa.Table(
    "names",
    metadata,
    sa.Column("name", sa.String(512), primary_key=True),
    sa.Column("repository", sa.String(400), nullable=False, index=True),
    sa.Column("is_digest", sa.Boolean, nullable=False),
    sa.Column("image_id", sa.String(80), nullable=False, index=True),
)

# Images of one index that a name stands for, by platform; `names` has the one that is meant when none is asked for.
name_variants = sa.Table(
    "name_variants",
    metadata,
    sa.Column("name", sa.String(512), primary_key=True),
    sa.Column("platform", sa.String(128), primary_key=True),
    sa.Column("index_digest", sa.String(80), nullable=False),
    sa.Column("image_id", sa.String(80), nullable=False, index=True),
)

layers = sa.Table(
    "layers",
    metadata,
    sa.Column("chain_id", sa.String(80), primary_key=True),
    sa.Column("diff_id", sa.String(80), nullable=False, index=True),
    sa.Column("parent", sa.String(80), nullable=False),
    sa.Column("blob", sa.String(80), nullable=False),
    sa.Column("media_type", sa.String(128), nullable=False),
    sa.Column("blob_bytes", sa.BigInteger, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
)

# What an image keeps alive: chain ids of layers, digests of its manifest, configuration and blobs.
image_layers = sa.Table(
    "image_layers",
    metadata,
    sa.Column("image_id", sa.String(80), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("chain_id", sa.String(80), nullable=False, index=True),
)
image_content = sa.Table(
    "image_content",
    metadata,
    sa.Column("image_id", sa.String(80), primary_key=True),
    sa.Column("digest", sa.String(80), primary_key=True),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("expires_ns", sa.BigInteger, nullable=False),
)
lease_items = sa.Table(
    "lease_items",
    metadata,
    sa.Column("lease_id", sa.String(64), primary_key=True),
    sa.Column("item", sa.String(80), primary_key=True),
)

# Where a blob can be mounted from when it is pushed to another repository of the same registry.
blob_sources = sa.Table(
    "blob_sources",
    metadata,
    sa.Column("domain", sa.String(255), primary_key=True),
    sa.Column("digest", sa.String(80), primary_key=True),
    sa.Column("path", sa.String(255), primary_key=True),
)

# The registry that this service is: what was pushed to it, or is shown there.
repository_tags = sa.Table(
    "repository_tags",
    metadata,
    sa.Column("repository", sa.String(255), primary_key=True),
    sa.Column("tag", sa.String(128), primary_key=True),
    sa.Column("digest", sa.String(80), nullable=False),
)
repository_manifests = sa.Table(
    "repository_manifests",
    metadata,
    sa.Column("repository", sa.String(255), primary_key=True),
    sa.Column("digest", sa.String(80), primary_key=True),
    sa.Column("media_type", sa.String(128), nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("subject", sa.String(80), nullable=False, index=True),
    sa.Column("artifact_type", sa.String(255), nullable=False),
    sa.Column("annotations", sa.Text, nullable=False),
)
repository_blobs = sa.Table(
    "repository_blobs",
    metadata,
    sa.Column("repository", sa.String(255), primary_key=True),
    sa.Column("digest", sa.String(80), primary_key=True),
)

_from_name = (
    sa.select(images.c.id, images.c.document, images.c.resolved, sa.literal(0).label("rank"))
    .join_from(names, images, names.c.image_id == images.c.id)
    .where(names.c.name == sa.bindparam("name"))
)
_from_id = sa.select(images.c.id, images.c.document, images.c.resolved, sa.literal(1)).where(
    images.c.id >= sa.bindparam("low"), images.c.id < sa.bindparam("high"), images.c.hidden == sa.false()
)
_resolve_name = Prepared(_from_name)
_resolve_id = Prepared(_from_id)
_resolve_both = Prepared(sa.union_all(_from_name, _from_id).order_by("rank").limit(3))
_shown = Prepared(sa.select(images.c.id).where(images.c.id == sa.bindparam("image_id"), images.c.hidden == sa.false()))
_standing_for = sa.select(name_variants.c.name).where(name_variants.c.image_id == sa.bindparam("image_id"))
_names_of = Prepared(
    sa.select(names)
    .where(sa.or_(names.c.image_id == sa.bindparam("image_id"), names.c.name.in_(_standing_for)))
    .order_by(names.c.name)
)


def _steps_below() -> sa.Select[Any]:
    """A build step's image and the steps' images on top of it: what a build that begins with that step may need."""
    columns = (images.c.id, images.c.parent, images.c.cache_key, images.c.stored_ns)
    newest = (
        sa.select(images.c.id)
        .where(
            images.c.parent == sa.bindparam("below"),
            images.c.cache_key == sa.bindparam("key"),
            images.c.hidden == sa.false(),
        )
        .order_by(images.c.stored_ns.desc())
        .limit(1)
    )
    first = sa.select(*columns).where(images.c.id == newest.scalar_subquery())
    steps = first.cte("steps", recursive=True)
    above = sa.select(*columns).where(
        images.c.parent == steps.c.id, images.c.cache_key != "", images.c.hidden == sa.false()
    )
    return sa.select(steps.union_all(above)).limit(sa.bindparam("most"))


_steps_from = Prepared(_steps_below())
_layers_of = Prepared(
    sa.select(layers)
    .join_from(image_layers, layers, image_layers.c.chain_id == layers.c.chain_id)
    .where(image_layers.c.image_id == sa.bindparam("image_id"))
    .order_by(image_layers.c.position)
)

LEASE_S = 3600


@dataclass(frozen=True, slots=True)
class Found:
    """A stored image; `document` is an `Image` without names, `resolved` a `ResolvedImage`, both as JSON."""

    id: str
    document: str
    resolved: str

    def image(self) -> Image:
        return Image.model_validate_json(self.document)

    def resolved_image(self) -> ResolvedImage:
        return ResolvedImage.model_validate_json(self.resolved)


@dataclass(frozen=True, slots=True)
class Variant:
    """One of several images that a name stands for."""

    name: str
    platform: Platform
    image_id: str


class SqlCatalog:
    """What images, names and layers there are.

    Reads go to a connection of their own. Writes happen in a `writing` block, which is one transaction.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Writer]:
        """One transaction; it commits at the end of the block."""
        async with self._database.transaction() as transaction:
            yield Writer(transaction)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Reader]:
        """Reads that see one state."""
        async with self._database.read() as connection:
            yield Reader(connection)


class Reader:
    """Queries over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def find(self, reference: Reference | None, text: str) -> Found | None:
        """The image of a name, else the one of a unique id prefix; one query.

        Args:
            reference: The text as a reference with tag or digest; None when it is none.
        """
        prefix = id_prefix(text)
        parameters: dict[str, str] = {}
        if reference is not None:
            parameters["name"] = name_of(reference)
        if prefix is not None:
            parameters |= {"low": f"sha256:{prefix}", "high": f"sha256:{prefix}g"}
        if reference is None and prefix is None:
            return None
        query = _resolve_both if len(parameters) == 3 else _resolve_name if prefix is None else _resolve_id
        rows = (await self._connection.execute(query, parameters)).all()
        if not rows or (rows[0][3] == 1 and len(rows) > 1):
            return None
        return Found(rows[0][0], rows[0][1], rows[0][2])

    async def is_shown(self, image_id: str) -> bool:
        return bool((await self._connection.execute(_shown, {"image_id": image_id})).all())

    async def by_id(self, image_id: str) -> Found | None:
        row = (
            await self._connection.execute(
                sa.select(images.c.id, images.c.document, images.c.resolved).where(images.c.id == image_id)
            )
        ).first()
        return Found(*row) if row else None

    async def steps_from(self, parent: str, cache_key: str, limit: int) -> list[tuple[str, str, str]]:
        """The newest image that a build step made, and build steps' images on top of it, each after its parent.

        Returns:
            Parent, cache key and id of each, at most `limit`; of several with one parent and key the newest is last.
        """
        rows = (await self._connection.execute(_steps_from, {"below": parent, "key": cache_key, "most": limit})).all()
        return [(row[1], row[2], row[0]) for row in sorted(rows, key=lambda row: row[3])]

    async def all(self) -> list[tuple[Found, int]]:
        """Every image that is shown, with the time it was last tagged, newest first."""
        rows = await self._connection.execute(
            sa.select(images.c.id, images.c.document, images.c.resolved, images.c.last_tag_ns)
            .where(images.c.hidden == sa.false())
            .order_by(images.c.created_unix.desc(), images.c.id)
        )
        return [(Found(row[0], row[1], row[2]), row[3]) for row in rows]

    async def hidden(self) -> list[str]:
        return list(await self._connection.scalars(sa.select(images.c.id).where(images.c.hidden == sa.true())))

    async def last_tag_ns(self, image_id: str) -> int:
        value = await self._connection.scalar(sa.select(images.c.last_tag_ns).where(images.c.id == image_id))
        return int(value or 0)

    async def variants(self, name: str | None = None) -> list[Variant]:
        """The images of a name, or of all names, that stands for several or once did; empty for ordinary names."""
        query = sa.select(name_variants).order_by(name_variants.c.name, name_variants.c.platform)
        if name is not None:
            query = query.where(name_variants.c.name == name)
        rows = await self._connection.execute(query)
        return [Variant(row.name, Platform.parse(row.platform), row.image_id) for row in rows]

    async def names(self, image_id: str) -> list[Name]:
        """The names under which an image is found, for a platform at least."""
        rows = await self._connection.execute(_names_of, {"image_id": image_id})
        return [Name(row.name, row.repository, row.is_digest, row.image_id) for row in rows]

    async def all_names(self) -> list[Name]:
        rows = await self._connection.execute(sa.select(names).order_by(names.c.name))
        return [Name(row.name, row.repository, row.is_digest, row.image_id) for row in rows]

    async def names_in(self, repository: str) -> list[Name]:
        rows = await self._connection.execute(
            sa.select(names).where(names.c.repository == repository).order_by(names.c.name)
        )
        return [Name(row.name, row.repository, row.is_digest, row.image_id) for row in rows]

    async def children(self, image_id: str) -> list[str]:
        """Images that are shown and were made from another."""
        return list(
            await self._connection.scalars(
                sa.select(images.c.id).where(images.c.parent == image_id, images.c.hidden == sa.false())
            )
        )

    async def layer(self, chain_id: str) -> LayerRecord | None:
        found = await self.layers([chain_id])
        return found.get(chain_id)

    async def layers(self, chain_ids: Sequence[str]) -> dict[str, LayerRecord]:
        rows = await self._connection.execute(sa.select(layers).where(layers.c.chain_id.in_(chain_ids)))
        return {row.chain_id: LayerRecord(**row._asdict()) for row in rows}

    async def layers_of(self, image_id: str) -> list[LayerRecord]:
        """An image's layers, lowest first."""
        rows = await self._connection.execute(_layers_of, {"image_id": image_id})
        return [LayerRecord(**row._asdict()) for row in rows]

    async def layers_only_of(self, image_id: str, ignored: Collection[str]) -> list[LayerRecord]:
        """An image's layers that no other has, topmost first, but for some that do not count."""
        own = await self.layers_of(image_id)
        used = set(
            await self._connection.scalars(
                sa.select(image_layers.c.chain_id).where(
                    image_layers.c.chain_id.in_([layer.chain_id for layer in own]),
                    image_layers.c.image_id.not_in([image_id, *ignored]),
                )
            )
        )
        return [layer for layer in reversed(own) if layer.chain_id not in used]

    async def layer_by_diff(self, diff_id: str) -> LayerRecord | None:
        """Any layer with this content, whatever it lies on."""
        row = (await self._connection.execute(sa.select(layers).where(layers.c.diff_id == diff_id).limit(1))).first()
        return LayerRecord(**row._asdict()) if row else None

    async def content_of(self, image_id: str) -> list[str]:
        """Digests of what belongs to an image besides its layers' blobs."""
        return list(
            await self._connection.scalars(
                sa.select(image_content.c.digest).where(image_content.c.image_id == image_id)
            )
        )

    async def all_layers(self) -> list[LayerRecord]:
        return [LayerRecord(**row._asdict()) for row in await self._connection.execute(sa.select(layers))]

    async def uses_of_layers(self) -> dict[str, list[str]]:
        """Image ids by chain id, of the images that are shown."""
        rows = await self._connection.execute(
            sa.select(image_layers.c.chain_id, image_layers.c.image_id)
            .join_from(image_layers, images, images.c.id == image_layers.c.image_id)
            .where(images.c.hidden == sa.false())
        )
        uses: dict[str, list[str]] = {}
        for chain_id, image_id in rows:
            uses.setdefault(chain_id, []).append(image_id)
        return uses

    async def blob_source(self, domain: str, digest: str) -> list[str]:
        """Repositories of a registry that are known to have a blob."""
        return list(
            await self._connection.scalars(
                sa.select(blob_sources.c.path).where(blob_sources.c.domain == domain, blob_sources.c.digest == digest)
            )
        )

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

    async def unused_layers(self) -> list[str]:
        """Chain ids of layers that no image has."""
        return list(
            await self._connection.scalars(
                sa.select(layers.c.chain_id).where(layers.c.chain_id.not_in(sa.select(image_layers.c.chain_id)))
            )
        )


class Writer(Reader):
    """Changes, and queries that see them."""

    def __init__(self, transaction: Transaction) -> None:
        super().__init__(transaction.connection)
        self._transaction = transaction
        self.emit = transaction.emit

    async def add(self, record: ImageRecord) -> bool:
        """Store an image with its layers; False when it was there already (it is shown again if it was hidden)."""
        await self._add_layers(record.layers)
        known = await self.by_id(record.image.id)
        if known is not None:
            await self._execute(sa.update(images).where(images.c.id == record.image.id).values(hidden=False))
            await self._add_content(record)
            return False
        await self._execute(
            sa.insert(images).values(
                id=record.image.id,
                document=record.document(),
                resolved=record.resolved(),
                parent=record.image.parent,
                cache_key=record.cache_key,
                created_unix=record.image.created_unix,
                stored_ns=time.time_ns(),
                last_tag_ns=0,
                hidden=False,
            )
        )
        if record.layers:
            await self._execute(
                sa.insert(image_layers),
                [
                    {"image_id": record.image.id, "position": position, "chain_id": layer.chain_id}
                    for position, layer in enumerate(record.layers)
                ],
            )
        await self._add_content(record)
        return True

    async def _add_layers(self, records: Iterable[LayerRecord]) -> None:
        for layer in records:
            if await self.layer(layer.chain_id) is None:
                await self._execute(sa.insert(layers).values(**layer.row()))

    async def _add_content(self, record: ImageRecord) -> None:
        known = set(
            await self._transaction.scalars(
                sa.select(image_content.c.digest).where(image_content.c.image_id == record.image.id)
            )
        )
        new = [digest for digest in dict.fromkeys(record.content) if digest not in known]
        if new:
            await self._execute(
                sa.insert(image_content), [{"image_id": record.image.id, "digest": digest} for digest in new]
            )

    async def set_name(self, reference: Reference, image_id: str) -> str | None:
        """Let a reference name an image; returns the id of the image that it named before, if another."""
        name = name_of(reference)
        before: str | None = await self._transaction.scalar(sa.select(names.c.image_id).where(names.c.name == name))
        if before != image_id:
            await self.remove_name(name)
            await self._execute(
                sa.insert(names).values(
                    name=name,
                    repository=reference.name,
                    is_digest=reference.digest is not None,
                    image_id=image_id,
                )
            )
        await self._execute(sa.update(images).where(images.c.id == image_id).values(last_tag_ns=time.time_ns()))
        return before if before != image_id else None

    async def remove_name(self, name: str) -> None:
        for table in (names, name_variants):
            await self._execute(sa.delete(table).where(table.c.name == name))

    async def set_variant(self, reference: Reference, index_digest: str, platform: Platform, image_id: str) -> None:
        """Let a reference name the image of an index for a platform, beside those of the same index for others.

        Without a platform it then means the image for this machine's, else this one.
        """
        name = name_of(reference)
        same = name_variants.c.name == name
        await self._execute(sa.delete(name_variants).where(same, name_variants.c.index_digest != index_digest))
        await self._execute(sa.delete(name_variants).where(same, name_variants.c.platform == str(platform)))
        others = await self.variants(name)
        own = next((one.image_id for one in others if one.platform.matches(own_platform())), image_id)
        await self.set_name(reference, image_id if platform.matches(own_platform()) else own)
        kept = [*others, Variant(name, platform, image_id)]
        await self._add_variants(name, index_digest, kept)

    async def _add_variants(self, name: str, index_digest: str, variants: Iterable[Variant]) -> None:
        await self._execute(sa.delete(name_variants).where(name_variants.c.name == name))
        rows = [
            {"name": name, "platform": str(one.platform), "index_digest": index_digest, "image_id": one.image_id}
            for one in variants
        ]
        if rows:
            await self._execute(sa.insert(name_variants), rows)

    async def copy_variants(self, source: Reference, target: Reference) -> None:
        """Let a name, which has just been set, stand for the images of another."""
        own, other = name_of(target), name_of(source)
        query = sa.select(name_variants.c.index_digest).where(name_variants.c.name == other)
        index_digest = await self._transaction.scalar(query)
        if own != other and index_digest is not None:
            await self._add_variants(own, index_digest, await self.variants(other))

    async def remove_variant(self, name: str, image_id: str) -> bool:
        """Let a name not stand for an image any more; False when it stood for no other, and is gone."""
        others = [one for one in await self.variants(name) if one.image_id != image_id]
        if not others:
            await self.remove_name(name)
            return False
        key = (name_variants.c.name == name, name_variants.c.image_id == image_id)
        await self._execute(sa.delete(name_variants).where(*key))
        meant = next((one for one in others if one.platform.matches(own_platform())), others[0])
        await self._execute(
            sa.update(names).where(names.c.name == name, names.c.image_id == image_id).values(image_id=meant.image_id)
        )
        return True

    async def set_manifest(self, image_id: str, digest: str, blobs: Collection[str]) -> None:
        """Let an image have another manifest, of other blobs of the same layers."""
        found = await self.by_id(image_id)
        if found is None:
            return  # removed meanwhile
        image = found.image().model_copy(update={"manifest_digest": digest})
        document = image.model_dump_json(by_alias=True, exclude_defaults=True)
        await self._execute(sa.update(images).where(images.c.id == image_id).values(document=document))
        known = set(await self.content_of(image_id))
        new = [item for item in dict.fromkeys([digest, *blobs]) if item not in known]
        if new:
            await self._execute(sa.insert(image_content), [{"image_id": image_id, "digest": item} for item in new])

    async def hide(self, image_id: str) -> None:
        for table in (names, name_variants):
            await self._execute(sa.delete(table).where(table.c.image_id == image_id))
        await self._execute(sa.update(images).where(images.c.id == image_id).values(hidden=True))

    async def remove(self, image_id: str) -> list[LayerRecord]:
        """Remove an image and its names; returns the layers that nobody needs any more, topmost first."""
        own = await self.layers_of(image_id)
        for table in (names, name_variants, image_layers, image_content):
            await self._execute(sa.delete(table).where(table.c.image_id == image_id))
        await self._execute(sa.delete(images).where(images.c.id == image_id))
        still_used = set(
            await self._transaction.scalars(
                sa.select(image_layers.c.chain_id).where(image_layers.c.chain_id.in_([layer.chain_id for layer in own]))
            )
        )
        gone = [layer for layer in reversed(own) if layer.chain_id not in still_used]
        await self.remove_layers([layer.chain_id for layer in gone])
        return gone

    async def remove_layers(self, chain_ids: Collection[str]) -> None:
        await self._execute(sa.delete(layers).where(layers.c.chain_id.in_(chain_ids)))

    async def add_blob_source(self, domain: str, path: str, digests: Collection[str]) -> None:
        for digest in digests:
            key = (blob_sources.c.domain == domain, blob_sources.c.path == path, blob_sources.c.digest == digest)
            await self._execute(sa.delete(blob_sources).where(*key))
            await self._execute(sa.insert(blob_sources).values(domain=domain, path=path, digest=digest))

    async def forget_blob_sources(self, digests: Collection[str]) -> None:
        await self._execute(sa.delete(blob_sources).where(blob_sources.c.digest.in_(digests)))

    # -- leases -------------------------------------------------------------------------------------------------

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

    async def _execute(self, statement: sa.Executable, parameters: Any = None) -> None:
        await self._transaction.execute(statement, parameters)


def name_of(reference: Reference) -> str:
    """The key of a reference in the table of names: a digest counts more than a tag beside it."""
    if reference.digest is not None:
        return f"{reference.name}@{reference.digest}"
    return str(reference.with_default_tag())
