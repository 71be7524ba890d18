"""Names, and the images that each of them stands for."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from services.image.catalog.domain import Name
from services.image.sql.queries import Changes, Queries
from services.image.sql.tables import images, name_variants, names
from shared.docker.platforms import Platform, own_platform
from shared.docker.references import Reference, check_nameable
from shared.state.statements import Prepared

_standing_for = sa.select(name_variants.c.name).where(name_variants.c.image_id == sa.bindparam("image_id"))
_names_of = Prepared(
    sa.select(names)
    .where(sa.or_(names.c.image_id == sa.bindparam("image_id"), names.c.name.in_(_standing_for)))
    .order_by(names.c.name)
)
_variants = sa.select(name_variants).order_by(name_variants.c.name, name_variants.c.platform)
_all_variants = Prepared(_variants)
_variants_of = Prepared(_variants.where(name_variants.c.name == sa.bindparam("name")))
_all = Prepared(sa.select(names).order_by(names.c.name))
_in_repository = Prepared(
    sa.select(names).where(names.c.repository == sa.bindparam("repository")).order_by(names.c.name)
)
_named = Prepared(sa.select(names.c.image_id).where(names.c.name == sa.bindparam("name")))
_index_of = Prepared(sa.select(name_variants.c.index_digest).where(name_variants.c.name == sa.bindparam("name")))
_insert = Prepared(sa.insert(names))
_insert_variants = Prepared(sa.insert(name_variants))
_tagged = Prepared(
    sa.update(images).where(images.c.id == sa.bindparam("key")).values(last_tag_ns=sa.bindparam("now_ns"))
)
_delete = Prepared(sa.delete(names).where(names.c.name == sa.bindparam("name")))
_this = name_variants.c.name == sa.bindparam("name")
_delete_variants = Prepared(sa.delete(name_variants).where(_this))
_delete_of_other_index = Prepared(
    sa.delete(name_variants).where(_this, name_variants.c.index_digest != sa.bindparam("index_digest"))
)
_delete_of_platform = Prepared(
    sa.delete(name_variants).where(_this, name_variants.c.platform == sa.bindparam("platform"))
)
_delete_of_image = Prepared(sa.delete(name_variants).where(_this, name_variants.c.image_id == sa.bindparam("image_id")))
_rename = Prepared(
    sa.update(names)
    .where(names.c.name == sa.bindparam("key"), names.c.image_id == sa.bindparam("old"))
    .values(image_id=sa.bindparam("new"))
)


@dataclass(frozen=True, slots=True)
class Variant:
    """One of several images that a name stands for."""

    name: str
    platform: Platform
    image_id: str


class NameQueries(Queries):
    """What is called how."""

    async def variants(self, name: str | None = None) -> list[Variant]:
        """The images of a name, or of all names, that stands for several or once did; empty for ordinary names."""
        query, parameters = (_all_variants, {}) if name is None else (_variants_of, {"name": name})
        rows = await self._connection.execute(query, parameters)
        return [Variant(row.name, Platform.parse(row.platform), row.image_id) for row in rows]

    async def names(self, image_id: str) -> list[Name]:
        """The names under which an image is found, for a platform at least."""
        rows = await self._connection.execute(_names_of, {"image_id": image_id})
        return [Name(row.name, row.repository, row.is_digest, row.image_id) for row in rows]

    async def all_names(self) -> list[Name]:
        rows = await self._connection.execute(_all)
        return [Name(row.name, row.repository, row.is_digest, row.image_id) for row in rows]

    async def names_in(self, repository: str) -> list[Name]:
        rows = await self._connection.execute(_in_repository, {"repository": repository})
        return [Name(row.name, row.repository, row.is_digest, row.image_id) for row in rows]


class NameChanges(NameQueries, Changes):
    """Names given and taken."""

    async def set_name(self, reference: Reference, image_id: str) -> str | None:
        """Let a reference name an image; returns the id of the image that it named before, if another.

        Raises:
            InvalidArgument: It would be read as a digest.
        """
        check_nameable(reference)
        name = name_of(reference)
        before: str | None = await self._transaction.scalar(_named, {"name": name})
        if before != image_id:
            await self.remove_name(name)
            await self._execute(
                _insert,
                {
                    "name": name,
                    "repository": reference.name,
                    "is_digest": reference.digest is not None,
                    "image_id": image_id,
                },
            )
        await self._execute(_tagged, {"key": image_id, "now_ns": time.time_ns()})
        return before if before != image_id else None

    async def remove_name(self, name: str) -> None:
        for statement in (_delete, _delete_variants):
            await self._execute(statement, {"name": name})

    async def set_variant(
        self, reference: Reference, index_digest: str, platform: Platform, image_id: str
    ) -> str | None:
        """Let a reference name the image of an index for a platform, beside those of the same index for others.

        Without a platform it then means the image for this machine's, else this one.

        Returns:
            The id of the image that it meant before and does not stand for any more, if there is one.
        """
        name = name_of(reference)
        await self._execute(_delete_of_other_index, {"name": name, "index_digest": index_digest})
        await self._execute(_delete_of_platform, {"name": name, "platform": str(platform)})
        others = await self.variants(name)
        own = next((one.image_id for one in others if one.platform.matches(own_platform())), image_id)
        before = await self.set_name(reference, image_id if platform.matches(own_platform()) else own)
        kept = [*others, Variant(name, platform, image_id)]
        await self._add_variants(name, index_digest, kept)
        return None if before in {one.image_id for one in kept} else before

    async def _add_variants(self, name: str, index_digest: str, variants: Iterable[Variant]) -> None:
        await self._execute(_delete_variants, {"name": name})
        rows = [
            {"name": name, "platform": str(one.platform), "index_digest": index_digest, "image_id": one.image_id}
            for one in variants
        ]
        if rows:
            await self._execute(_insert_variants, rows)

    async def copy_variants(self, source: Reference, target: Reference) -> None:
        """Let a name, which has just been set, stand for the images of another."""
        own, other = name_of(target), name_of(source)
        index_digest = await self._transaction.scalar(_index_of, {"name": other})
        if own != other and index_digest is not None:
            await self._add_variants(own, index_digest, await self.variants(other))

    async def remove_variant(self, name: str, image_id: str) -> bool:
        """Let a name not stand for an image any more; False when it stood for no other, and is gone."""
        others = [one for one in await self.variants(name) if one.image_id != image_id]
        if not others:
            await self.remove_name(name)
            return False
        await self._execute(_delete_of_image, {"name": name, "image_id": image_id})
        meant = next((one for one in others if one.platform.matches(own_platform())), others[0])
        await self._execute(_rename, {"key": name, "old": image_id, "new": meant.image_id})
        return True


def name_of(reference: Reference) -> str:
    """The key of a reference in the table of names: a digest counts more than a tag beside it."""
    if reference.digest is not None:
        return f"{reference.name}@{reference.digest}"
    return str(reference.with_default_tag())
