"""Tables of the cluster, and the statements over them."""

from __future__ import annotations

import sqlalchemy as sa

from services.executor.control.cluster.model import ClusterRecord, Member
from services.executor.control.state.sql import Reader, metadata
from shared.errors import NotFound
from shared.state.database import Transaction
from shared.state.statements import Prepared

cluster = sa.Table(
    "cluster",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
)
members = sa.Table(
    "members",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(255), nullable=False, unique=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
)

_the_cluster = Prepared(sa.select(cluster.c.document))
_add_cluster = Prepared(sa.insert(cluster))
_save_cluster = Prepared(
    sa.update(cluster).values(version=sa.bindparam("new_version"), document=sa.bindparam("new_document"))
)
_remove_cluster = Prepared(sa.delete(cluster))
_members = Prepared(sa.select(members.c.document).order_by(members.c.name))
_add_member = Prepared(sa.insert(members))
_save_member = Prepared(
    sa.update(members)
    .where(members.c.id == sa.bindparam("key"))
    .values(version=sa.bindparam("new_version"), document=sa.bindparam("new_document"))
)
_remove_member = Prepared(sa.delete(members).where(members.c.id == sa.bindparam("key")))
_remove_members = Prepared(sa.delete(members))


async def the_cluster(reader: Reader) -> ClusterRecord | None:
    row = next(iter(await reader.execute(_the_cluster)), None)
    return ClusterRecord.model_validate_json(row.document) if row is not None else None


async def add_cluster(tx: Transaction, record: ClusterRecord) -> None:
    document = record.model_dump_json()
    await tx.execute(_add_cluster, {"id": record.id, "version": record.version, "document": document})


async def save_cluster(tx: Transaction, record: ClusterRecord) -> None:
    """Write a change of it, under its next version."""
    record.version += 1
    await tx.execute(_save_cluster, {"new_version": record.version, "new_document": record.model_dump_json()})


async def forget(tx: Transaction) -> None:
    """Remove the cluster and all nodes in it."""
    await tx.execute(_remove_members)
    await tx.execute(_remove_cluster)


async def all_members(reader: Reader) -> list[Member]:
    """By name."""
    return [Member.model_validate_json(row.document) for row in await reader.execute(_members)]


async def find(reader: Reader, ref: str) -> Member:
    """By id, name, or unique prefix of an id, in this order. Raises NotFound, in Docker's words."""
    known = await all_members(reader)
    exact = [one for one in known if one.id == ref] or [one for one in known if one.name == ref]
    found = exact or [one for one in known if ref and one.id.startswith(ref)]
    if len(found) != 1:
        reason = f"node {ref} is ambiguous ({len(found)} matches found)" if found else f"node {ref} not found"
        raise NotFound(reason, node=ref)
    return found[0]


async def add_member(tx: Transaction, member: Member) -> None:
    """Raises Conflict: the name is taken."""
    values = {"id": member.id, "name": member.name, "version": member.version, "document": member.model_dump_json()}
    await tx.execute(_add_member, values)


async def save_member(tx: Transaction, member: Member) -> None:
    """Write a change of it, under its next version."""
    member.version += 1
    await tx.execute(
        _save_member, {"key": member.id, "new_version": member.version, "new_document": member.model_dump_json()}
    )


async def remove_member(tx: Transaction, member: Member) -> None:
    await tx.execute(_remove_member, {"key": member.id})
