"""Layers, and which images have them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import sqlalchemy as sa

from services.image.catalog.domain import LayerRecord
from services.image.sql.queries import Changes, Queries
from services.image.sql.tables import image_layers, images, layers
from shared.state.statements import Prepared

_layers_of = Prepared(
    sa.select(layers)
    .join_from(image_layers, layers, image_layers.c.chain_id == layers.c.chain_id)
    .where(image_layers.c.image_id == sa.bindparam("image_id"))
    .order_by(image_layers.c.position)
)
_some = Prepared(sa.select(layers).where(layers.c.chain_id.in_(sa.bindparam("chain_ids", expanding=True))))
_all = Prepared(sa.select(layers))
_with_diff = Prepared(sa.select(layers).where(layers.c.diff_id == sa.bindparam("diff_id")).limit(1))
_used_by_others = Prepared(
    sa.select(image_layers.c.chain_id).where(
        image_layers.c.chain_id.in_(sa.bindparam("chain_ids", expanding=True)),
        image_layers.c.image_id.not_in(sa.bindparam("ignored", expanding=True)),
    )
)
_uses = Prepared(
    sa.select(image_layers.c.chain_id, image_layers.c.image_id)
    .join_from(image_layers, images, images.c.id == image_layers.c.image_id)
    .where(images.c.hidden == sa.false())
)
_unused = Prepared(sa.select(layers.c.chain_id).where(layers.c.chain_id.not_in(sa.select(image_layers.c.chain_id))))
_insert = Prepared(sa.insert(layers))
_delete = Prepared(sa.delete(layers).where(layers.c.chain_id.in_(sa.bindparam("chain_ids", expanding=True))))


class LayerQueries(Queries):
    """What layers there are, and whose."""

    async def layer(self, chain_id: str) -> LayerRecord | None:
        found = await self.layers([chain_id])
        return found.get(chain_id)

    async def layers(self, chain_ids: Sequence[str]) -> dict[str, LayerRecord]:
        rows = await self._connection.execute(_some, {"chain_ids": list(chain_ids)})
        return {row.chain_id: LayerRecord(**row._asdict()) for row in rows}

    async def layers_of(self, image_id: str) -> list[LayerRecord]:
        """An image's layers, lowest first."""
        rows = await self._connection.execute(_layers_of, {"image_id": image_id})
        return [LayerRecord(**row._asdict()) for row in rows]

    async def layers_only_of(self, image_id: str, ignored: Collection[str]) -> list[LayerRecord]:
        """An image's layers that no other has, topmost first, but for some that do not count."""
        own = await self.layers_of(image_id)
        used = await self._used([layer.chain_id for layer in own], {image_id, *ignored})
        return [layer for layer in reversed(own) if layer.chain_id not in used]

    async def _used(self, chain_ids: list[str], ignored: Collection[str] = ()) -> set[str]:
        """Those of the layers that images have, but for some images that do not count."""
        return set(await self._connection.scalars(_used_by_others, {"chain_ids": chain_ids, "ignored": list(ignored)}))

    async def layer_by_diff(self, diff_id: str) -> LayerRecord | None:
        """Any layer with this content, whatever it lies on."""
        row = (await self._connection.execute(_with_diff, {"diff_id": diff_id})).first()
        return LayerRecord(**row._asdict()) if row else None

    async def all_layers(self) -> list[LayerRecord]:
        return [LayerRecord(**row._asdict()) for row in await self._connection.execute(_all)]

    async def uses_of_layers(self) -> dict[str, list[str]]:
        """Image ids by chain id, of the images that are shown."""
        rows = await self._connection.execute(_uses)
        uses: dict[str, list[str]] = {}
        for chain_id, image_id in rows:
            uses.setdefault(chain_id, []).append(image_id)
        return uses

    async def unused_layers(self) -> list[str]:
        """Chain ids of layers that no image has."""
        return await self._connection.scalars(_unused)


class LayerChanges(LayerQueries, Changes):
    """Layers that come and go with their images."""

    async def _add_layers(self, records: Iterable[LayerRecord]) -> None:
        for layer in records:
            if await self.layer(layer.chain_id) is None:
                await self._execute(_insert, layer.row())

    async def remove_layers(self, chain_ids: Collection[str]) -> None:
        await self._execute(_delete, {"chain_ids": list(chain_ids)})
