"""The audit service's tables: signed checkpoints, which records were taken from where, and how far deliveries are."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from services.audit.log.store import Saved
from shared.state.connection import Connection
from shared.state.database import Transaction
from shared.state.statements import Prepared
from shared.transparency.merkle import HASH_BYTES

metadata = sa.MetaData()

checkpoints = sa.Table(
    "checkpoints",
    metadata,
    sa.Column("size", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("time_ns", sa.BigInteger, nullable=False),
    sa.Column("nodes", sa.Text, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
)
sources = sa.Table(
    "sources",
    metadata,
    sa.Column("source", sa.String(128), primary_key=True),
    sa.Column("sequence", sa.BigInteger, nullable=False),
)
sinks = sa.Table(
    "sinks",
    metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("next_at_ns", sa.BigInteger, nullable=False),
    sa.Column("problem", sa.Text, nullable=False),
    sa.Column("gone", sa.Boolean, nullable=False),
)

_newest = Prepared(sa.select(checkpoints).order_by(checkpoints.c.size.desc()).limit(1))
_from_size = Prepared(
    sa.select(checkpoints)
    .where(checkpoints.c.size >= sa.bindparam("size", type_=sa.BigInteger))
    .order_by(checkpoints.c.size)
    .limit(sa.bindparam("count", type_=sa.Integer))
)
_add_checkpoint = Prepared(sa.insert(checkpoints))
_thin = Prepared(
    sa.delete(checkpoints).where(
        checkpoints.c.size > sa.bindparam("above", type_=sa.BigInteger),
        checkpoints.c.size < sa.bindparam("below", type_=sa.BigInteger),
    )
)
_forget = Prepared(sa.delete(checkpoints).where(checkpoints.c.size < sa.bindparam("below", type_=sa.BigInteger)))
_sources = Prepared(sa.select(sources))
_drop_source = Prepared(sa.delete(sources).where(sources.c.source == sa.bindparam("named")))
_add_source = Prepared(sa.insert(sources))
_sinks = Prepared(sa.select(sinks))
_drop_sink = Prepared(sa.delete(sinks).where(sinks.c.name == sa.bindparam("named")))
_add_sink = Prepared(sa.insert(sinks))


async def newest_checkpoint(connection: Connection) -> Any:
    """A row of `checkpoints`, or None."""
    return (await connection.execute(_newest)).first()


def saved_of(row: Any) -> Saved:
    raw = bytes.fromhex(row.nodes)
    return Saved(row.size, tuple(raw[at : at + HASH_BYTES] for at in range(0, len(raw), HASH_BYTES)))


async def checkpoints_from(connection: Connection, size: int, count: int) -> list[Any]:
    """Checkpoints of at least that size, the smallest first."""
    return (await connection.execute(_from_size, {"size": size, "count": count})).all()


async def add_checkpoint(tx: Transaction, saved: Saved, time_ns: int, note: str, taken: dict[str, int]) -> None:
    """Keep a checkpoint, and up to where each source was taken by then: only what has changed is given."""
    row = {"size": saved.size, "time_ns": time_ns, "nodes": b"".join(saved.nodes).hex(), "note": note}
    await tx.execute(_add_checkpoint, row)
    for source, sequence in taken.items():
        await tx.execute(_drop_source, {"named": source})
        await tx.execute(_add_source, {"source": source, "sequence": sequence})


async def thin_checkpoints(tx: Transaction, above: int, below: int) -> None:
    """Forget those between two sizes: what they said, the one of the larger size says, too."""
    await tx.execute(_thin, {"above": above, "below": below})


async def forget_checkpoints(tx: Transaction, below: int) -> None:
    await tx.execute(_forget, {"below": below})


async def forget_source(tx: Transaction, source: str) -> None:
    await tx.execute(_drop_source, {"named": source})


async def taken_by_source(connection: Connection) -> dict[str, int]:
    return {row.source: row.sequence for row in await connection.execute(_sources)}


async def all_sinks(connection: Connection) -> dict[str, Any]:
    return {row.name: row for row in await connection.execute(_sinks)}


async def keep_sink(tx: Transaction, row: dict[str, Any]) -> None:
    await tx.execute(_drop_sink, {"named": row["name"]})
    await tx.execute(_add_sink, row)
