"""Layers, and which images have them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import sqlalchemy as sa

from services.image.domain import LayerRecord
from services.image.sql.queries import Changes, Queries
from services.image.sql.tables import image_layers, images, layers
from shared.statements import Prepared

_layers_of = Prepared(
    sa.select(layers)
    .join_from(image_layers, layers, image_layers.c.chain_id == layers.c.chain_id)
    .where(image_layers.c.image_id == sa.bindparam("image_id"))
    .order_by(image_layers.c.position)
)


class LayerQueries(Queries):
    """What layers there are, and whose."""

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

    async def unused_layers(self) -> list[str]:
        """Chain ids of layers that no image has."""
        return list(
            await self._connection.scalars(
                sa.select(layers.c.chain_id).where(layers.c.chain_id.not_in(sa.select(image_layers.c.chain_id)))
            )
        )


class LayerChanges(LayerQueries, Changes):
    """Layers that come and go with their images."""

    async def _add_layers(self, records: Iterable[LayerRecord]) -> None:
        for layer in records:
            if await self.layer(layer.chain_id) is None:
                await self._execute(sa.insert(layers).values(**layer.row()))

    async def remove_layers(self, chain_ids: Collection[str]) -> None:
        await self._execute(sa.delete(layers).where(layers.c.chain_id.in_(chain_ids)))
