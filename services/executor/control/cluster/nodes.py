"""The nodes of the cluster, as managers show and change them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from services.executor.control.cluster import sql
from services.executor.control.cluster.founding import NOT_A_MANAGER
from services.executor.control.cluster.liveness import Liveness
from services.executor.control.cluster.model import Member, check_last_manager, check_version
from services.executor.control.state import sql as container_sql
from services.executor.control.state.sql import Reader
from shared.bus.client import EMPTY, Bus, Empty
from shared.clock import Clock
from shared.cluster.membership import ClusterDirectory
from shared.contracts import cluster as contract
from shared.contracts.cluster import ListNodes, Node, NodeRef, Nodes, RemoveNode, UpdateNode
from shared.contracts.containers import NodeFacts
from shared.errors import InvalidArgument, Unavailable, Unsupported
from shared.state.database import Database

FILTERS = ("id", "name", "label", "node.label", "role", "membership")


class ClusterNodes:
    """Handlers of NODES, NODE, UPDATE_NODE and REMOVE_NODE.

    Args:
        admit: Has the bus let in who is on record, and nobody else.
    """

    def __init__(
        self,
        database: Database,
        bus: Bus,
        directory: ClusterDirectory,
        clock: Clock,
        liveness: Liveness,
        admit: Callable[[], Awaitable[None]],
    ) -> None:
        self._database = database
        self._bus = bus
        self._directory = directory
        self._clock = clock
        self._liveness = liveness
        self._admit = admit

    async def list(self, request: ListNodes) -> Nodes:
        for key in request.filters:
            if key not in FILTERS:
                raise InvalidArgument(f"invalid filter '{key}'", field="filters")
        for role in request.filters.get("role", []):
            if role not in ("manager", "worker"):
                raise InvalidArgument(f"Invalid role filter: {role}", field="filters")
        async with self._database.read() as reader:
            members = await sql.all_members(reader)
            facts = await self._facts(reader)
        if not members:
            raise Unavailable(NOT_A_MANAGER)
        nodes = [self._view(one, facts) for one in members]
        return Nodes(nodes=[one for one in nodes if takes(one, request.filters)])

    async def inspect(self, request: NodeRef) -> Node:
        async with self._database.read() as reader:
            member = await self._find(reader, request.ref)
            facts = await self._facts(reader)
        return self._view(member, facts)

    async def update(self, request: UpdateNode) -> Empty:
        async with self._database.transaction() as tx:
            member = await self._find(tx, request.ref)
            check_version(member.version, request.version)
            if request.role != member.role:
                if request.role == "worker":
                    check_last_manager(await sql.all_members(tx), member)
                raise Unsupported(
                    "a node's role is that of the token it joined with: let it leave, and join with the other token",
                    field="Role",
                )
            changed, told = member.changed(
                role=request.role, availability=request.availability, labels=request.labels, name=request.name
            )
            changed.updated_ns = self._clock.time_ns()
            await sql.save_member(tx, changed)
            tx.emit(changed.event("update", **told))
        await self._bus.publish(contract.CHANGED, b"{}")
        return EMPTY

    async def remove(self, request: RemoveNode) -> Empty:
        """Raises InvalidArgument, in SwarmKit's words, for a node that lives, unless by force."""
        async with self._database.transaction() as tx:
            member = await self._find(tx, request.ref)
            if member.role == "manager":
                raise InvalidArgument(
                    f"rpc error: code = FailedPrecondition desc = node {member.id} is a cluster manager and is a "
                    "member of the raft cluster. It must be demoted to worker before removal",
                    node=member.name,
                )
            if not request.force and self._liveness.state(member.name) == "ready":
                raise InvalidArgument(
                    f"rpc error: code = FailedPrecondition desc = node {member.id} is not down and can't be removed",
                    node=member.name,
                )
            await sql.remove_member(tx, member)
            tx.emit(member.event("remove"))
        await self._admit()
        await self._bus.publish(contract.CHANGED, b"{}")
        return EMPTY

    async def _find(self, reader: Reader, ref: str) -> Member:
        if await sql.the_cluster(reader) is None:
            raise Unavailable(NOT_A_MANAGER)
        if ref == "self":
            membership = self._directory.membership()
            ref = membership.id if membership is not None else ref
        return await sql.find(reader, ref)

    async def _facts(self, reader: Reader) -> dict[str, tuple[NodeFacts, int]]:
        return {facts.node: (facts, seen) for facts, seen in await container_sql.all_nodes(reader)}

    def _view(self, member: Member, known: dict[str, tuple[NodeFacts, int]]) -> Node:
        facts, seen_ns = known.get(member.name, (None, 0))
        sign = self._liveness.last(member.name)
        state = self._liveness.state(member.name, seen_ns)
        node = member.view(
            facts,
            max(seen_ns, sign.heard_ns if sign is not None else 0),
            state=state,
            message="" if state == "ready" else self._liveness.reason(member.name),
            leader=member.role == "manager" and member.name == self._liveness.leader,
        )
        if sign is not None:
            beat = sign.beat
            node.containers, node.load = beat.containers, beat.load
            node.memory_available_bytes = beat.memory_available_bytes
        return node


def takes(node: Node, filters: dict[str, list[str]]) -> bool:
    """Whether a list with these filters shows a node. Source: Docker Engine API 1.50, NodeList."""
    engine_labels = engine_labels_of(node.facts)
    checks = (
        ("id", node.id.startswith),
        ("name", node.name.startswith),
        ("role", lambda value: node.role == value),
        ("membership", lambda value: value == "accepted"),
    )
    if any(filters.get(key) and not any(check(value) for value in filters[key]) for key, check in checks):
        return False
    return all(_labelled(engine_labels, value) for value in filters.get("label", [])) and all(
        _labelled(node.labels, value) for value in filters.get("node.label", [])
    )


def engine_labels_of(facts: NodeFacts | None) -> dict[str, str]:
    """The labels of a node's engine, of daemon.json."""
    pairs = (label.partition("=") for label in (facts.labels if facts is not None else ()))
    return {key: value for key, _, value in pairs}


def _labelled(labels: dict[str, str], wanted: str) -> bool:
    key, separator, value = wanted.partition("=")
    return key in labels and (not separator or labels[key] == value)
