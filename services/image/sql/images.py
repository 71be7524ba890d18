"""Images: found by name or id, added, hidden, removed; and the chains of build steps among them."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from services.image.catalog.domain import CACHE_ONLY, ImageRecord, LayerRecord
from services.image.sql.layers import LayerChanges
from services.image.sql.names import name_of
from services.image.sql.queries import Queries
from services.image.sql.tables import image_content, image_layers, images, name_variants, names
from shared.contracts.images import Image, ResolvedImage
from shared.docker.references import Reference, id_prefix
from shared.state.statements import Prepared

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
_by_id = Prepared(
    sa.select(images.c.id, images.c.document, images.c.resolved).where(images.c.id == sa.bindparam("image_id"))
)
# Steps that are only cache: made through BuildKit's door, whose results are images of their own.
_not_cache = sa.not_(images.c.cache_key.startswith(CACHE_ONLY))
_all_shown = Prepared(
    sa.select(images.c.id, images.c.document, images.c.resolved, images.c.last_tag_ns)
    .where(images.c.hidden == sa.false(), _not_cache)
    .order_by(images.c.created_unix.desc(), images.c.id)
)
_all_hidden = Prepared(sa.select(images.c.id).where(images.c.hidden == sa.true()))
_last_tag = Prepared(sa.select(images.c.last_tag_ns).where(images.c.id == sa.bindparam("image_id")))
_children = Prepared(
    sa.select(images.c.id).where(images.c.parent == sa.bindparam("image_id"), images.c.hidden == sa.false(), _not_cache)
)
_content_of = Prepared(sa.select(image_content.c.digest).where(image_content.c.image_id == sa.bindparam("image_id")))
_insert = Prepared(sa.insert(images))
_insert_layers = Prepared(sa.insert(image_layers))
_insert_content = Prepared(sa.insert(image_content))
_this = images.c.id == sa.bindparam("image_id")
_show = Prepared(sa.update(images).where(_this).values(hidden=sa.false()))
_hide = Prepared(sa.update(images).where(_this).values(hidden=sa.true()))
_set_document = Prepared(sa.update(images).where(_this).values(document=sa.bindparam("new_document")))
_delete = Prepared(sa.delete(images).where(_this))
_drop_names = tuple(
    Prepared(sa.delete(table).where(table.c.image_id == sa.bindparam("image_id"))) for table in (names, name_variants)
)
_drop_belongings = tuple(
    Prepared(sa.delete(table).where(table.c.image_id == sa.bindparam("image_id")))
    for table in (image_layers, image_content)
)


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


class ImageQueries(Queries):
    """What images there are."""

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
        row = (await self._connection.execute(_by_id, {"image_id": image_id})).first()
        return Found(*row) if row else None

    async def steps_from(self, parent: str, cache_key: str, limit: int) -> list[tuple[str, str, str]]:
        """The newest image that a build step made, and build steps' images on top of it, each after its parent.

        Returns:
            Parent, cache key and id of each, at most `limit`; of several with one parent and key the newest is last.
        """
        rows = (await self._connection.execute(_steps_from, {"below": parent, "key": cache_key, "most": limit})).all()
        return [(row[1], row[2], row[0]) for row in sorted(rows, key=lambda row: row[3])]

    async def all(self) -> list[tuple[Found, int]]:
        """Every image that is shown and more than cache, with the time it was last tagged, newest first."""
        rows = await self._connection.execute(_all_shown)
        return [(Found(row[0], row[1], row[2]), row[3]) for row in rows]

    async def hidden(self) -> list[str]:
        return await self._connection.scalars(_all_hidden)

    async def last_tag_ns(self, image_id: str) -> int:
        value = await self._connection.scalar(_last_tag, {"image_id": image_id})
        return int(value or 0)

    async def children(self, image_id: str) -> list[str]:
        """Images that are shown and were made from another."""
        return await self._connection.scalars(_children, {"image_id": image_id})

    async def content_of(self, image_id: str) -> list[str]:
        """Digests of what belongs to an image besides its layers' blobs."""
        return await self._connection.scalars(_content_of, {"image_id": image_id})


class ImageChanges(ImageQueries, LayerChanges):
    """Images that come and go, with all that belongs to them."""

    async def add(self, record: ImageRecord) -> bool:
        """Store an image with its layers; False when it was there already (it is shown again if it was hidden)."""
        await self._add_layers(record.layers)
        known = await self.by_id(record.image.id)
        if known is not None:
            await self._execute(_show, {"image_id": record.image.id})
            await self._belong(record.image.id, record.content)
            return False
        await self._execute(
            _insert,
            {
                "id": record.image.id,
                "document": record.document(),
                "resolved": record.resolved(),
                "parent": record.image.parent,
                "cache_key": record.cache_key,
                "created_unix": record.image.created_unix,
                "stored_ns": time.time_ns(),
                "last_tag_ns": 0,
                "hidden": False,
            },
        )
        if record.layers:
            await self._execute(
                _insert_layers,
                [
                    {"image_id": record.image.id, "position": position, "chain_id": layer.chain_id}
                    for position, layer in enumerate(record.layers)
                ],
            )
        await self._belong(record.image.id, record.content)
        return True

    async def _belong(self, image_id: str, digests: Iterable[str]) -> None:
        """Let content belong to an image, if it does not yet."""
        known = set(await self.content_of(image_id))
        new = [digest for digest in dict.fromkeys(digests) if digest not in known]
        if new:
            await self._execute(_insert_content, [{"image_id": image_id, "digest": digest} for digest in new])

    async def set_manifest(self, image_id: str, digest: str, blobs: Collection[str]) -> None:
        """Let an image have another manifest, of other blobs of the same layers."""
        found = await self.by_id(image_id)
        if found is None:
            return  # removed meanwhile
        image = found.image().model_copy(update={"manifest_digest": digest})
        document = image.model_dump_json(by_alias=True, exclude_defaults=True)
        await self._execute(_set_document, {"image_id": image_id, "new_document": document})
        await self._belong(image_id, [digest, *blobs])

    async def hide(self, image_id: str) -> None:
        for statement in (*_drop_names, _hide):
            await self._execute(statement, {"image_id": image_id})

    async def remove(self, image_id: str) -> list[LayerRecord]:
        """Remove an image and its names; returns the layers that nobody needs any more, topmost first."""
        own = await self.layers_of(image_id)
        for statement in (*_drop_names, *_drop_belongings, _delete):
            await self._execute(statement, {"image_id": image_id})
        still_used = await self._used([layer.chain_id for layer in own])
        gone = [layer for layer in reversed(own) if layer.chain_id not in still_used]
        await self.remove_layers([layer.chain_id for layer in gone])
        return gone
