"""Tables of control, and the statements over them.

A container is one JSON document (`Record`) beside the columns that lookups and lists need; `version` makes a stale
write fail instead of winning. `holding` says that the network service may keep endpoints for it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import sqlalchemy as sa

from services.executor.control.domain import Record
from shared.contracts.containers import ContainerSummary, Exec, NodeFacts
from shared.errors import Conflict, InvalidArgument, NotFound
from shared.state.connection import Connection
from shared.state.database import Transaction
from shared.state.statements import Prepared

metadata = sa.MetaData()

containers = sa.Table(
    "containers",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(255), nullable=False, unique=True),
    sa.Column("created_ns", sa.BigInteger, nullable=False, index=True),
    sa.Column("status", sa.String(16), nullable=False, index=True),
    sa.Column("image_id", sa.String(80), nullable=False, index=True),
    sa.Column("node", sa.String(255), nullable=False),
    sa.Column("generation", sa.BigInteger, nullable=False),
    sa.Column("holding", sa.Boolean, nullable=False),
    sa.Column("changed_ns", sa.BigInteger, nullable=False),
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
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("changed_ns", sa.BigInteger, nullable=False),
    sa.Index("ix_execs_status", "status", "changed_ns"),
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

_columns = (containers.c.id, containers.c.version, containers.c.holding, containers.c.document)
_by_id = Prepared(sa.select(*_columns).where(containers.c.id == sa.bindparam("ref")))
_by_ref = Prepared(
    sa.select(*_columns, containers.c.name)
    # A name that looks like a prefix of many ids must not fall behind the limit.
    .order_by(sa.case((containers.c.name == sa.bindparam("name"), 0), else_=1))
    .where(
        sa.or_(
            containers.c.name == sa.bindparam("name"),
            sa.and_(containers.c.id >= sa.bindparam("low"), containers.c.id < sa.bindparam("high")),
        )
    )
    .limit(3)
)
_update = Prepared(
    sa.update(containers)
    .where(containers.c.id == sa.bindparam("key"), containers.c.version == sa.bindparam("old"))
    .values(
        name=sa.bindparam("new_name"),
        status=sa.bindparam("new_status"),
        node=sa.bindparam("new_node"),
        generation=sa.bindparam("new_generation"),
        holding=sa.bindparam("new_holding"),
        changed_ns=sa.bindparam("new_changed_ns"),
        version=sa.bindparam("new_version"),
        summary=sa.bindparam("new_summary"),
        document=sa.bindparam("new_document"),
    )
)

_CHANGING = ("name", "status", "node", "generation", "holding", "changed_ns", "version", "summary", "document")
_insert = Prepared(sa.insert(containers))
_delete = Prepared(sa.delete(containers).where(containers.c.id == sa.bindparam("key")))
_delete_execs = Prepared(sa.delete(execs).where(execs.c.container_id == sa.bindparam("key")))
_bury = Prepared(sa.insert(tombstones))
_name_holder = Prepared(sa.select(containers.c.id).where(containers.c.name == sa.bindparam("name")))
_released = Prepared(
    sa.update(containers)
    .where(
        containers.c.id == sa.bindparam("key"),
        containers.c.generation == sa.bindparam("upto"),
        # Not in_(): its parameters expand for each execution, and this statement runs for many rows at once.
        sa.or_(*(containers.c.status == status for status in ("created", "exited", "dead"))),
    )
    .values(holding=False)
)

_forget = Prepared(sa.delete(tombstones).where(tombstones.c.removed_ns < sa.bindparam("before")))
_tombstone = Prepared(sa.select(tombstones.c.exit_code).where(tombstones.c.id == sa.bindparam("key")))
_states = Prepared(
    sa.select(
        containers.c.id,
        containers.c.status,
        containers.c.generation,
        containers.c.holding,
        containers.c.changed_ns,
    ).where(containers.c.node == sa.bindparam("node"))
)
_forgotten_holders = Prepared(
    sa.select(containers.c.id, containers.c.generation).where(
        containers.c.holding,
        containers.c.status.in_(("created", "exited", "dead")),
        containers.c.changed_ns < sa.bindparam("before"),
    )
)
_in_status = Prepared(
    sa.select(*_columns)
    .where(containers.c.status.in_(sa.bindparam("statuses", expanding=True)))
    .order_by(containers.c.created_ns)
)
_unfinished_removals = Prepared(
    sa.select(*_columns)
    .where(containers.c.status == "removing", containers.c.changed_ns < sa.bindparam("before"))
    .order_by(containers.c.created_ns)
)
_all_ids = Prepared(sa.select(containers.c.id))
_newest_first = sa.select(containers.c.summary, containers.c.created_ns, containers.c.node, containers.c.id).order_by(
    containers.c.created_ns.desc(), containers.c.id
)
_after_created = sa.select(containers.c.created_ns).where(containers.c.id == sa.bindparam("after")).scalar_subquery()
_after = sa.or_(
    containers.c.created_ns < _after_created,
    sa.and_(containers.c.created_ns == _after_created, containers.c.id > sa.bindparam("after")),
)
_wanted = containers.c.status.in_(sa.bindparam("statuses", expanding=True))
_most = sa.bindparam("most", type_=sa.Integer)
_page = Prepared(_newest_first.limit(_most))
_next_page = Prepared(_newest_first.where(_after).limit(_most))
_page_of = Prepared(_newest_first.where(_wanted).limit(_most))
_next_page_of = Prepared(_newest_first.where(_wanted, _after).limit(_most))
_nodes_of = Prepared(
    sa.select(containers.c.id, containers.c.node).where(containers.c.id.in_(sa.bindparam("ids", expanding=True)))
)
_buried = Prepared(sa.select(tombstones.c.id).where(tombstones.c.id.in_(sa.bindparam("ids", expanding=True))))
_images_used = sa.select(containers.c.image_id, containers.c.id, containers.c.status)
_using_any_image = Prepared(_images_used)
_using_image = Prepared(_images_used.where(containers.c.image_id.in_(sa.bindparam("images", expanding=True))))
_mounting_images = Prepared(
    sa.select(containers.c.id, containers.c.status, containers.c.summary).where(
        containers.c.summary.like('%"type":"image"%')
    )
)
# Texts of clients have their quotation marks escaped: only a container with links has this.
_linking = Prepared(sa.select(containers.c.summary).where(containers.c.summary.like('%"links":{"%')))
_everywhere = Prepared(sa.select(containers.c.node, containers.c.summary))
_count_by_status = Prepared(sa.select(containers.c.status, sa.func.count()).group_by(containers.c.status))
_exec = Prepared(sa.select(execs.c.document).where(execs.c.id == sa.bindparam("key")))
_execs_of = Prepared(sa.select(execs.c.document).where(execs.c.container_id == sa.bindparam("key")))
_insert_exec = Prepared(sa.insert(execs))
_save_exec = Prepared(
    sa.update(execs)
    .where(execs.c.id == sa.bindparam("key"))
    .values(
        document=sa.bindparam("new_document"),
        status=sa.bindparam("new_status"),
        changed_ns=sa.bindparam("new_changed_ns"),
    )
)
_running_execs = Prepared(
    sa.select(execs.c.id)
    .join(containers, containers.c.id == execs.c.container_id)
    .where(
        execs.c.status == "running",
        execs.c.changed_ns < sa.bindparam("before"),
        containers.c.node == sa.bindparam("node"),
    )
)
_forget_execs = Prepared(sa.delete(execs).where(execs.c.status == "ended", execs.c.changed_ns < sa.bindparam("before")))
_save_node = Prepared(
    sa.update(nodes)
    .where(nodes.c.node == sa.bindparam("key"))
    .values(seen_ns=sa.bindparam("new_seen_ns"), facts=sa.bindparam("new_facts"))
)
_insert_node = Prepared(sa.insert(nodes))
_all_nodes = Prepared(sa.select(nodes.c.facts, nodes.c.seen_ns).order_by(nodes.c.node))

Reader = Connection | Transaction


class StaleRecord(Conflict):
    """The record has changed since it was read."""


def _load(row: Any) -> Record:
    record = Record.model_validate_json(row.document)
    record.version = row.version
    record.holding = bool(row.holding)
    return record


async def find(reader: Reader, ref: str) -> Record:
    """The container a client means: full id, name, or unique id prefix, in this order.

    Raises:
        NotFound, InvalidArgument: Docker's words for a missing and an ambiguous one.
    """
    name = ref.removeprefix("/")
    if not name:
        raise InvalidArgument("invalid container name or ID: value is empty")
    if "/" in name:
        return await _find_linked(reader, ref, name)
    is_hex = all(char in "0123456789abcdef" for char in ref)
    low = ref if is_hex else "~"
    result = await reader.execute(_by_ref, {"name": name, "low": low, "high": low + "g"})
    rows = result.all()
    exact = [row for row in rows if row.id == ref] or [row for row in rows if row.name == name]
    if exact:
        return _load(exact[0])
    if not rows:
        raise NotFound(f"No such container: {ref}")
    if len(rows) > 1:
        raise InvalidArgument(f"Multiple IDs found with provided prefix: {ref}")
    return _load(rows[0])


async def _find_linked(reader: Reader, ref: str, path: str) -> Record:
    """What a link's name ``name/alias`` stands for. Raises NotFound."""
    name, _, alias = path.partition("/")
    row = (await reader.execute(_by_ref, {"name": name, "low": "~", "high": "~g"})).first()
    target = _load(row).links.get(alias) if row is not None else None
    found = await by_id(reader, target) if target is not None else None
    if found is None:
        raise NotFound(f"No such container: {ref}")
    return found


async def names_by_links(reader: Reader) -> dict[str, list[str]]:
    """The names that links give containers, ``/web/db``, by the container's id."""
    found: dict[str, list[str]] = {}
    for row in await reader.execute(_linking):
        summary = ContainerSummary.model_validate_json(row.summary)
        for alias, target in summary.links.items():
            found.setdefault(target, []).append(f"/{summary.name}/{alias}")
    return {target: sorted(names) for target, names in found.items()}


async def by_id(reader: Reader, container_id: str) -> Record | None:
    row = (await reader.execute(_by_id, {"ref": container_id})).first()
    return None if row is None else _load(row)


async def check_name(tx: Transaction, name: str) -> None:
    """Raises Conflict, with Docker's words, when the name is taken."""
    taken = await tx.scalar(_name_holder, {"name": name})
    if taken is not None:
        raise Conflict(
            f'Conflict. The container name "/{name}" is already in use by container "{taken}". '
            "You have to remove (or rename) that container to be able to reuse that name."
        )


async def insert(tx: Transaction, record: Record, now_ns: int) -> None:
    """Raises Conflict when the name is taken; `check_name`, in another transaction, then tells by whom."""
    await tx.execute(_insert, _row(record, now_ns))


def _row(record: Record, now_ns: int) -> dict[str, Any]:
    return {
        "id": record.id,
        "name": record.name,
        "created_ns": record.created_ns,
        "status": record.status,
        "image_id": record.container.image_id,
        "node": record.container.node,
        "generation": record.container.generation,
        "holding": record.holding,
        "changed_ns": now_ns,
        "version": record.version,
        "summary": record.summary().model_dump_json(by_alias=True, exclude_none=True),
        # Without what is as by default: half the pages to write. A default can thus only change with a migration.
        "document": record.model_dump_json(by_alias=True, exclude_defaults=True),
    }


async def save(tx: Transaction, record: Record, now_ns: int) -> None:
    """Raises StaleRecord when somebody else changed it since it was read."""
    old = record.version
    record.version += 1
    row = _row(record, now_ns)
    result = await tx.execute(_update, {"key": record.id, "old": old} | {"new_" + key: row[key] for key in _CHANGING})
    if result.rowcount != 1:
        raise StaleRecord(f"container {record.id} has changed meanwhile")


async def delete(tx: Transaction, record: Record, now_ns: int) -> bool:
    """Remove a container and its execs; a tombstone keeps its exit code for those who still wait.

    Returns:
        False when it was gone already.
    """
    result = await tx.execute(_delete, {"key": record.id})
    if result.rowcount != 1:
        return False
    await tx.execute(_delete_execs, {"key": record.id})
    await tx.execute(_bury, {"id": record.id, "exit_code": record.container.state.exit_code, "removed_ns": now_ns})
    return True


async def forget_tombstones(tx: Transaction, before_ns: int) -> None:
    """Those of containers removed before a time."""
    await tx.execute(_forget, {"before": before_ns})


async def tombstone(reader: Reader, container_id: str) -> int | None:
    """The exit code of a container that was removed a short while ago."""
    code = await reader.scalar(_tombstone, {"key": container_id})
    return None if code is None else int(code)


async def summaries(
    reader: Reader, *, after: str = "", limit: int = 500, statuses: tuple[str, ...] = ()
) -> list[tuple[ContainerSummary, int, str]]:
    """Summaries, newest first, a page at a time; each with its creation time in nanoseconds and its node.

    Args:
        statuses: Only these, if any are given.
    """
    parameters: dict[str, Any] = {"most": limit}
    if statuses:
        parameters["statuses"] = statuses
    if after:
        parameters["after"] = after
    pages = (_next_page_of if after else _page_of) if statuses else (_next_page if after else _page)
    rows = (await reader.execute(pages, parameters)).all()
    return [(ContainerSummary.model_validate_json(row.summary), row.created_ns, row.node) for row in rows]


async def everything_there(reader: Reader) -> dict[str, list[ContainerSummary]]:
    """All containers by node: for those who ask to be beside one, or away from one."""
    found: dict[str, list[ContainerSummary]] = {}
    for row in await reader.execute(_everywhere):
        found.setdefault(row.node, []).append(ContainerSummary.model_validate_json(row.summary))
    return found


class Known(NamedTuple):
    """What an inventory is compared with. changed_ns: nanoseconds since the epoch."""

    status: str
    generation: int
    holding: bool
    changed_ns: int


async def states(reader: Reader, node: str) -> dict[str, Known]:
    """One node's containers, by id."""
    rows = await reader.execute(_states, {"node": node})
    return {row.id: Known(row.status, row.generation, row.holding, row.changed_ns) for row in rows}


async def nodes_of(reader: Reader, ids: list[str]) -> dict[str, str]:
    """The node of each of these containers, by id."""
    return {row.id: row.node for row in await reader.execute(_nodes_of, {"ids": ids})}


async def in_status(reader: Reader, statuses: tuple[str, ...]) -> list[Record]:
    """Records in one of these states, oldest first."""
    return [_load(row) for row in await reader.execute(_in_status, {"statuses": statuses})]


async def unfinished_removals(reader: Reader, changed_before_ns: int) -> list[Record]:
    """Records whose removal has begun, unchanged since a time, oldest first."""
    return [_load(row) for row in await reader.execute(_unfinished_removals, {"before": changed_before_ns})]


async def forgotten_holders(reader: Reader, changed_before_ns: int) -> dict[str, int]:
    """Containers that do not run, unchanged since a time, whose endpoints may not have been given back: generations."""
    rows = await reader.execute(_forgotten_holders, {"before": changed_before_ns})
    return {row.id: row.generation for row in rows}


async def released(tx: Transaction, generations: dict[str, int]) -> None:
    """The endpoints of these starts have been given back. Not a change of the record: its version stays."""
    if generations:
        await tx.execute(_released, [{"key": key, "upto": upto} for key, upto in generations.items()])


async def all_ids(reader: Reader) -> set[str]:
    return set(await reader.scalars(_all_ids))


async def buried(reader: Reader, ids: set[str]) -> set[str]:
    """Those of these containers that were removed a short while ago."""
    if not ids:
        return set()
    return set(await reader.scalars(_buried, {"ids": list(ids)}))


async def using_image(reader: Reader, image_ids: list[str]) -> list[tuple[str, str, str]]:
    """(image id, container id, status) of the containers made from these images, or from any, or that mount one."""
    rows = await (
        reader.execute(_using_image, {"images": image_ids}) if image_ids else reader.execute(_using_any_image)
    )
    found = [(row.image_id, row.id, row.status) for row in rows]
    for row in await reader.execute(_mounting_images):
        mounts = ContainerSummary.model_validate_json(row.summary).mounts
        mounted = {mount.source for mount in mounts if mount.type == "image"}
        found += [(one, row.id, row.status) for one in mounted if not image_ids or one in image_ids]
    return found


async def count_by_status(reader: Reader) -> dict[str, int]:
    return {row[0]: row[1] for row in await reader.execute(_count_by_status)}


# Execs


async def find_exec(reader: Reader, exec_id: str) -> Exec:
    """Raises NotFound with Docker's words."""
    document = await reader.scalar(_exec, {"key": exec_id})
    if document is None:
        raise NotFound(f"No such exec instance: {exec_id}")
    return Exec.model_validate_json(document)


def _exec_row(item: Exec, now_ns: int) -> dict[str, Any]:
    status = "ended" if item.exit_code is not None else "running" if item.running else "created"
    return {"document": item.model_dump_json(exclude_none=True), "status": status, "changed_ns": now_ns}


async def has_exec(reader: Reader, exec_id: str) -> bool:
    return await reader.scalar(_exec, {"key": exec_id}) is not None


async def insert_exec(tx: Transaction, item: Exec, now_ns: int) -> None:
    await tx.execute(_insert_exec, {"id": item.id, "container_id": item.container_id, **_exec_row(item, now_ns)})


async def save_exec(tx: Transaction, item: Exec, now_ns: int) -> None:
    row = _exec_row(item, now_ns)
    await tx.execute(_save_exec, {"key": item.id} | {"new_" + key: value for key, value in row.items()})


async def running_execs(reader: Reader, node: str, changed_before_ns: int) -> set[str]:
    """Ids of the execs that run on a node, as far as is known, since before a time."""
    return set(await reader.scalars(_running_execs, {"node": node, "before": changed_before_ns}))


async def forget_execs(tx: Transaction, before_ns: int) -> None:
    """Those that ended before a time."""
    await tx.execute(_forget_execs, {"before": before_ns})


async def exec_ids(reader: Reader, container_id: str) -> list[str]:
    """Ids of the execs of a container that run."""
    documents = await reader.scalars(_execs_of, {"key": container_id})
    items = [Exec.model_validate_json(document) for document in documents]
    return [item.id for item in items if item.running]


# Nodes


async def save_node(tx: Transaction, facts: NodeFacts, now_ns: int) -> None:
    text = facts.model_dump_json()
    result = await tx.execute(_save_node, {"key": facts.node, "new_seen_ns": now_ns, "new_facts": text})
    if result.rowcount == 0:
        await tx.execute(_insert_node, {"node": facts.node, "seen_ns": now_ns, "facts": text})


async def all_nodes(reader: Reader) -> list[tuple[NodeFacts, int]]:
    """Facts and the time each node was last heard of, nanoseconds since the epoch."""
    rows = await reader.execute(_all_nodes)
    return [(NodeFacts.model_validate_json(row.facts), row.seen_ns) for row in rows]
