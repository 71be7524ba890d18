"""The audit service's tables: signed checkpoints, which records were taken from where, and how far deliveries are."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import sqlalchemy as sa

from services.audit.log.store import Saved
from shared.state.connection import Connection
from shared.state.database import Transaction
from shared.state.statements import Prepared
from shared.transparency.merkle import HASH_BYTES

HOUR_NS = 3600 * 10**9

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


async def add_checkpoint(
    tx: Transaction, saved: Saved, time_ns: int, note: str, taken: dict[str, int], gone: list[str]
) -> None:
    """Keep a checkpoint, and up to where each source was taken by then: only what has changed is given.

    Args:
        gone: Sources from which nothing will come any more.
    """
    row = {"size": saved.size, "time_ns": time_ns, "nodes": b"".join(saved.nodes).hex(), "note": note}
    await tx.execute(_add_checkpoint, row)
    for source, sequence in taken.items():
        await tx.execute(_drop_source, {"named": source})
        await tx.execute(_add_source, {"source": source, "sequence": sequence})
    for source in gone:
        await tx.execute(_drop_source, {"named": source})


async def thin_checkpoints(tx: Transaction, above: int, before_ns: int, count: int) -> int | None:
    """Of checkpoints from before a time keep the last of each hour: what the others said, it says, too.

    Args:
        above: The size of the last that was looked at.
        count: How many to look at.

    Returns:
        The size of the last that was kept; None when there are no more.
    """
    rows = (await tx.execute(_from_size, {"size": above + 1, "count": count})).all()
    old = [row for row in rows if row.time_ns < before_ns]
    # The last one is kept in any case: what follows it may be of the same hour.
    kept = [row for row, after in pairwise(old) if row.time_ns // HOUR_NS != after.time_ns // HOUR_NS] + old[-1:]
    for row in kept:
        await tx.execute(_thin, {"above": above, "below": row.size})
        above = row.size
    return above if len(old) == count else None


async def forget_checkpoints(tx: Transaction, below: int) -> None:
    await tx.execute(_forget, {"below": below})


async def taken_by_source(connection: Connection) -> dict[str, int]:
    return {row.source: row.sequence for row in await connection.execute(_sources)}


async def all_sinks(connection: Connection) -> dict[str, Any]:
    return {row.name: row for row in await connection.execute(_sinks)}


async def keep_sink(tx: Transaction, row: dict[str, Any]) -> None:
    await tx.execute(_drop_sink, {"named": row["name"]})
    await tx.execute(_add_sink, row)
