"""The transactional outbox: a state change and its event commit together, or neither does.

The table is also the service's event log of record for the retention period; `shared.events.relay` publishes from it.

::

    transaction ── rows of the service
                ├─ UPDATE outbox_counter  (gap-free: a rollback takes the number back; the row lock orders writers)
                └─ INSERT outbox
"""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa

from shared.errors import InvalidArgument
from shared.events.record import DomainEvent
from shared.state.connection import Connection
from shared.state.statements import Prepared

# A NATS server takes messages up to 1 MiB; headers and subject need some of it.
LARGEST_EVENT_BYTES = 1_000_000

metadata = sa.MetaData()

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    # Random, so unique as it is: an index over it would be two more pages to write for each event.
    sa.Column("message_id", sa.String(64), nullable=False),
    sa.Column("subject", sa.String(255), nullable=False),
    sa.Column("time_ns", sa.BigInteger, nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
)

counter = sa.Table(
    "outbox_counter",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("last", sa.BigInteger, nullable=False),
)

_advance = Prepared(
    sa.update(counter)
    .where(counter.c.id == 1)
    .values(last=counter.c.last + sa.bindparam("count", type_=sa.BigInteger))
    .returning(counter.c.last)
)
_insert = Prepared(sa.insert(outbox))
_after = Prepared(
    sa.select(outbox)
    .where(outbox.c.sequence > sa.bindparam("after", type_=sa.BigInteger))
    .order_by(outbox.c.sequence)
    .limit(sa.bindparam("count", type_=sa.Integer))
)
_last = Prepared(sa.select(counter.c.last).where(counter.c.id == 1))
_subjects = Prepared(sa.select(outbox.c.subject).distinct())
_expired = Prepared(
    sa.select(sa.func.max(outbox.c.sequence)).where(outbox.c.time_ns < sa.bindparam("before", type_=sa.BigInteger))
)
_prune = Prepared(sa.delete(outbox).where(outbox.c.sequence <= sa.bindparam("upto", type_=sa.BigInteger)))


def create_outbox_tables(op: Any) -> None:
    """The outbox's part of a service's first Alembic revision."""
    for table in (outbox, counter):
        op.create_table(table.name, *[column._copy() for column in table.columns])
    op.execute("INSERT INTO outbox_counter (id, last) VALUES (1, 0)")


def drop_outbox_tables(op: Any) -> None:
    """Undo of `create_outbox_tables`."""
    op.drop_table("outbox")
    op.drop_table("outbox_counter")


async def store(connection: Connection, service: str, events: list[DomainEvent]) -> None:
    """Number the events and add them to the log, in the transaction that is open on the connection."""
    last = await connection.scalar(_advance, {"count": len(events)})
    # Taken under the lock that numbers them: in the order of a service's numbers its times never go back.
    now_ns = time.time_ns()
    rows = []
    for sequence, event in enumerate(events, int(last) - len(events) + 1):
        event.service, event.sequence, event.time_ns = service, sequence, now_ns
        rows.append(_row(event))
    await connection.execute(_insert, rows)


def _row(event: DomainEvent) -> dict[str, Any]:
    payload = event.model_dump_json()
    if len(payload) > LARGEST_EVENT_BYTES:
        raise InvalidArgument(
            f"event {event.type} {event.action} of {event.actor_id} is larger than 1 MB, labels included"
        )
    return {
        "sequence": event.sequence,
        "message_id": event.message_id,
        "subject": event.subject,
        "time_ns": event.time_ns,
        "payload": payload,
    }


async def rows_after(connection: Connection, sequence: int, count: int) -> list[Any]:
    """Up to `count` recorded events after this sequence number, in order."""
    return (await connection.execute(_after, {"after": sequence, "count": count})).all()


async def last_sequence(connection: Connection) -> int:
    """The number of the newest event; 0 when there was none."""
    return int(await connection.scalar(_last) or 0)


async def subjects(connection: Connection) -> list[str]:
    """Every subject the log has events for."""
    return await connection.scalars(_subjects)


async def prune(connection: Connection, *, before_ns: int, published: int) -> int:
    """Forget events older than a time, of those that are published; the number up to which they are gone, or 0."""
    expired = int(await connection.scalar(_expired, {"before": before_ns}) or 0)
    upto = min(expired, published)
    if upto > 0:
        await connection.execute(_prune, {"upto": upto})
    return upto
