"""Tables of control, and the statements over them.

A container is one JSON document (`Record`) beside the columns that lookups and lists need; `version` makes a stale
write fail instead of winning.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.executor.control.domain import Record
from shared.contracts.containers import ContainerSummary, Exec, NodeFacts
from shared.database import Transaction
from shared.errors import Conflict, InvalidArgument, NotFound

metadata = sa.MetaData()

containers = sa.Table(
    "containers",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(255), nullable=False, unique=True),
    sa.Column("created_ns", sa.BigInteger, nullable=False, index=True),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("image_id", sa.String(80), nullable=False, index=True),
    sa.Column("node", sa.String(255), nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("summary", sa.Text, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
)
execs = sa.Table(
    "execs",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("container_id", sa.String(64), nullable=False, index=True),
    sa.Column("document", sa.Text, nullable=False),
)
nodes = sa.Table(
    "nodes",
    metadata,
    sa.Column("node", sa.String(255), primary_key=True),
    sa.Column("seen_ns", sa.BigInteger, nullable=False),
    sa.Column("facts", sa.Text, nullable=False),
)
tombstones = sa.Table(
    "tombstones",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("exit_code", sa.Integer, nullable=False),
    sa.Column("removed_ns", sa.BigInteger, nullable=False, index=True),
)

_columns = (containers.c.id, containers.c.version, containers.c.document)
_by_id = sa.select(*_columns).where(containers.c.id == sa.bindparam("ref"))
_by_ref = (
    sa.select(*_columns, containers.c.name)
    .where(
        sa.or_(
            containers.c.name == sa.bindparam("name"),
            sa.and_(containers.c.id >= sa.bindparam("low"), containers.c.id < sa.bindparam("high")),
        )
    )
    .limit(3)
)
_update = (
    sa.update(containers)
    .where(containers.c.id == sa.bindparam("key"), containers.c.version == sa.bindparam("old"))
    .values(
        name=sa.bindparam("new_name"),
        status=sa.bindparam("new_status"),
        version=sa.bindparam("new_version"),
        summary=sa.bindparam("new_summary"),
        document=sa.bindparam("new_document"),
    )
)

Reader = AsyncConnection | Transaction


def _load(row: Any) -> Record:
    record = Record.model_validate_json(row.document)
    record.version = row.version
    return record


async def find(reader: Reader, ref: str) -> Record:
    """The container a client means: full id, name, or unique id prefix, in this order.

    Raises:
        NotFound, InvalidArgument: Docker's words for a missing and an ambiguous one.
    """
    name = ref.removeprefix("/")
    if not name:
        raise InvalidArgument("invalid container name or ID: value is empty")
    is_hex = all(char in "0123456789abcdef" for char in ref)
    low = ref if is_hex else "~"
    result = await reader.execute(_by_ref, {"name": name, "low": low, "high": low + "g"})
    rows = result.fetchall()
    for wanted in (lambda row: row.id == ref, lambda row: row.name == name):
        for row in rows:
            if wanted(row):
                return _load(row)
    if not rows:
        raise NotFound(f"No such container: {ref}")
    if len(rows) > 1:
        raise InvalidArgument(f"Multiple IDs found with provided prefix: {ref}")
    return _load(rows[0])


async def by_id(reader: Reader, container_id: str) -> Record | None:
    row = (await reader.execute(_by_id, {"ref": container_id})).fetchone()
    return None if row is None else _load(row)


async def insert(tx: Transaction, record: Record) -> None:
    """Raises Conflict, with Docker's words, when the name is taken."""
    taken = (await tx.execute(sa.select(containers.c.id).where(containers.c.name == record.name))).scalar()
    if taken is not None:
        raise Conflict(
            f'Conflict. The container name "/{record.name}" is already in use by container "{taken}". '
            "You have to remove (or rename) that container to be able to reuse that name."
        )
    await tx.execute(sa.insert(containers), _row(record))


def _row(record: Record) -> dict[str, Any]:
    return {
        "id": record.id,
        "name": record.name,
        "created_ns": record.created_ns,
        "status": record.container.state.status,
        "image_id": record.container.image_id,
        "node": record.container.node,
        "version": record.version,
        "summary": record.summary().model_dump_json(by_alias=True, exclude_none=True),
        "document": record.model_dump_json(by_alias=True, exclude_none=True),
    }


async def save(tx: Transaction, record: Record) -> None:
    """Raises Conflict when somebody else changed it since it was read, or when the new name is taken."""
    old = record.version
    record.version += 1
    row = _row(record)
    result = await tx.execute(
        _update,
        {
            "key": record.id,
            "old": old,
            "new_name": row["name"],
            "new_status": row["status"],
            "new_version": row["version"],
            "new_summary": row["summary"],
            "new_document": row["document"],
        },
    )
    if result.rowcount != 1:
        raise Conflict(f"container {record.id} has changed meanwhile")


async def delete(tx: Transaction, record: Record, now_ns: int) -> None:
    """Remove a container and its execs; a tombstone keeps its exit code for those who still wait."""
    await tx.execute(sa.delete(containers).where(containers.c.id == record.id))
    await tx.execute(sa.delete(execs).where(execs.c.container_id == record.id))
    await tx.execute(sa.delete(tombstones).where(tombstones.c.removed_ns < now_ns - 600 * 10**9))
    await tx.execute(
        sa.insert(tombstones),
        {"id": record.id, "exit_code": record.container.state.exit_code, "removed_ns": now_ns},
    )


async def tombstone(reader: Reader, container_id: str) -> int | None:
    """The exit code of a container that was removed a short while ago."""
    statement = sa.select(tombstones.c.exit_code).where(tombstones.c.id == container_id)
    row = (await reader.execute(statement)).fetchone()
    return None if row is None else int(row.exit_code)


async def summaries(reader: Reader, *, after: str = "", limit: int = 500) -> list[tuple[ContainerSummary, int]]:
    """Summaries, newest first, a page at a time; with the creation time in nanoseconds."""
    statement = sa.select(containers.c.summary, containers.c.created_ns, containers.c.id).order_by(
        containers.c.created_ns.desc(), containers.c.id
    )
    if after:
        created = sa.select(containers.c.created_ns).where(containers.c.id == after).scalar_subquery()
        statement = statement.where(
            sa.or_(
                containers.c.created_ns < created,
                sa.and_(containers.c.created_ns == created, containers.c.id > after),
            )
        )
    rows = (await reader.execute(statement.limit(limit))).fetchall()
    return [(ContainerSummary.model_validate_json(row.summary), row.created_ns) for row in rows]


async def records(reader: Reader, node: str | None = None) -> list[Record]:
    statement = sa.select(*_columns)
    if node is not None:
        statement = statement.where(containers.c.node == node)
    return [_load(row) for row in (await reader.execute(statement)).fetchall()]


async def using_image(reader: Reader, image_ids: list[str]) -> list[tuple[str, str, str]]:
    """(image id, container id, status) of the containers made from these images, or from any."""
    statement = sa.select(containers.c.image_id, containers.c.id, containers.c.status)
    if image_ids:
        statement = statement.where(containers.c.image_id.in_(image_ids))
    return [(row.image_id, row.id, row.status) for row in (await reader.execute(statement)).fetchall()]


async def count_by_status(reader: Reader) -> dict[str, int]:
    statement = sa.select(containers.c.status, sa.func.count()).group_by(containers.c.status)
    return {row[0]: row[1] for row in (await reader.execute(statement)).fetchall()}


# Execs


async def find_exec(reader: Reader, exec_id: str) -> Exec:
    """Raises NotFound with Docker's words."""
    statement = sa.select(execs.c.document).where(execs.c.id == exec_id)
    row = (await reader.execute(statement)).fetchone()
    if row is None:
        raise NotFound(f"No such exec instance: {exec_id}")
    return Exec.model_validate_json(row.document)


async def insert_exec(tx: Transaction, item: Exec) -> None:
    await tx.execute(
        sa.insert(execs),
        {"id": item.id, "container_id": item.container_id, "document": item.model_dump_json(exclude_none=True)},
    )


async def save_exec(tx: Transaction, item: Exec) -> None:
    await tx.execute(
        sa.update(execs).where(execs.c.id == item.id).values(document=item.model_dump_json(exclude_none=True))
    )


async def exec_ids(reader: Reader, container_id: str) -> list[str]:
    """Ids of the execs of a container that run."""
    statement = sa.select(execs.c.document).where(execs.c.container_id == container_id)
    items = [Exec.model_validate_json(row.document) for row in (await reader.execute(statement)).fetchall()]
    return [item.id for item in items if item.running]


# Nodes


async def save_node(tx: Transaction, facts: NodeFacts, now_ns: int) -> None:
    row = {"node": facts.node, "seen_ns": now_ns, "facts": facts.model_dump_json()}
    result = await tx.execute(
        sa.update(nodes).where(nodes.c.node == facts.node).values(seen_ns=row["seen_ns"], facts=row["facts"])
    )
    if result.rowcount == 0:
        await tx.execute(sa.insert(nodes), row)


async def all_nodes(reader: Reader) -> list[tuple[NodeFacts, int]]:
    """Facts and the time each node was last heard of, nanoseconds since the epoch."""
    rows = (await reader.execute(sa.select(nodes.c.facts, nodes.c.seen_ns).order_by(nodes.c.node))).fetchall()
    return [(NodeFacts.model_validate_json(row.facts), row.seen_ns) for row in rows]
