"""The volume service's tables, and what it asks of them.

A volume being removed keeps its row, marked, until its node has deleted the files: a crash in between leaves a row that
says so, and not files that nobody knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from services.volume.domain import VolumeRecord
from shared.state.connection import Connection
from shared.state.database import Transaction
from shared.state.statements import Prepared

metadata = sa.MetaData()

volumes = sa.Table(
    "volumes",
    metadata,
    sa.Column("name", sa.String(255), primary_key=True),
    sa.Column("removing", sa.Boolean, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
)

holds = sa.Table(
    "holds",
    metadata,
    sa.Column("container_id", sa.String(64), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("volume", sa.String(255), nullable=False),
    sa.Index("ix_holds_volume", "volume"),
)

_insert_volume = Prepared(sa.insert(volumes))
_insert_holds = Prepared(sa.insert(holds))
_volumes = sa.select(volumes.c.name, volumes.c.document, volumes.c.removing)
_all = Prepared(_volumes)
_some = Prepared(_volumes.where(volumes.c.name.in_(sa.bindparam("names", expanding=True))))
_holdings = sa.select(holds.c.volume, holds.c.container_id).distinct()
_holders = Prepared(_holdings)
_holders_of = Prepared(_holdings.where(holds.c.volume.in_(sa.bindparam("names", expanding=True))))
_held = Prepared(
    sa.select(holds.c.position, holds.c.volume)
    .where(holds.c.container_id == sa.bindparam("container_id"))
    .order_by(holds.c.position)
)
_release = Prepared(sa.delete(holds).where(holds.c.container_id == sa.bindparam("container_id")))
_mark = Prepared(
    sa.update(volumes)
    .where(volumes.c.name.in_(sa.bindparam("names", expanding=True)))
    .values(removing=sa.bindparam("value"))
)
_delete = Prepared(sa.delete(volumes).where(volumes.c.name == sa.bindparam("volume")))

Source = Connection | Transaction


class VolumeStore:
    """Queries on the tables; each runs in the transaction or on the connection it is given."""

    async def all(self, source: Source, *, removing: bool = False) -> list[VolumeRecord]:
        """Every volume; with `removing`, those whose removal is not finished instead."""
        rows = await source.execute(_all)
        return [VolumeRecord.model_validate_json(row.document) for row in rows if bool(row.removing) == removing]

    async def find(self, source: Source, names: Iterable[str]) -> dict[str, tuple[VolumeRecord, bool]]:
        """Volumes by name, each with whether it is being removed."""
        rows = await source.execute(_some, {"names": list(names)})
        return {row.name: (VolumeRecord.model_validate_json(row.document), bool(row.removing)) for row in rows}

    async def holders(self, source: Source, names: Sequence[str] | None = None) -> dict[str, list[str]]:
        """Container ids by volume; of all volumes when None."""
        rows = await (
            source.execute(_holders) if names is None else source.execute(_holders_of, {"names": list(names)})
        )
        found: dict[str, list[str]] = {}
        for row in rows:
            found.setdefault(row.volume, []).append(row.container_id)
        return found

    async def held_by(self, source: Source, container_id: str) -> dict[int, str]:
        """Volume names by position."""
        rows = await source.execute(_held, {"container_id": container_id})
        return {row.position: row.volume for row in rows}

    async def add(self, tx: Transaction, records: Sequence[VolumeRecord]) -> None:
        """Raises Conflict when a name is taken."""
        rows: list[dict[str, Any]] = [
            {"name": record.name, "removing": False, "document": record.model_dump_json()} for record in records
        ]
        if rows:
            await tx.execute(_insert_volume, rows)

    async def hold(self, tx: Transaction, container_id: str, names: dict[int, str]) -> None:
        rows = [
            {"container_id": container_id, "position": position, "volume": name} for position, name in names.items()
        ]
        if rows:
            await tx.execute(_insert_holds, rows)

    async def release(self, tx: Transaction, container_id: str) -> None:
        await tx.execute(_release, {"container_id": container_id})

    async def mark(self, tx: Transaction, names: Sequence[str], *, removing: bool) -> None:
        await tx.execute(_mark, {"names": list(names), "value": removing})

    async def delete(self, tx: Transaction, name: str) -> None:
        await tx.execute(_delete, {"volume": name})
