"""What control knows of nodes: their facts, when they were last heard of, and where a new container goes."""

from __future__ import annotations

from collections.abc import Mapping

from services.executor.control.state import sql
from shared.clock import Clock
from shared.contracts.containers import NodeFacts
from shared.errors import InvalidArgument, Unavailable
from shared.state.database import Database

# Inventories come every 10 s; a node that missed three is taken for away.
STALE_AFTER_NS = 30 * 1_000_000_000
READ_AGAIN_S = 60.0
# A label of a container that says where it shall run.
NODE_LABEL = "davit.node"


class Nodes:
    """Facts change when a node restarts, so they are cached and read again once a minute."""

    def __init__(self, database: Database, own_node: str, clock: Clock) -> None:
        self._database = database
        self._own_node = own_node
        self._clock = clock
        self._facts: NodeFacts | None = None
        self._read_at = 0.0

    async def choose(self, labels: Mapping[str, str]) -> NodeFacts:
        """The node for a new container: the one its label names, else this machine's own, else the one heard of last.

        Raises:
            InvalidArgument: There is no node of the name.
            Unavailable: No node has reported yet, or the one that was named is away.
        """
        if NODE_LABEL in labels:
            return await self._named(labels[NODE_LABEL])
        now = self._clock.monotonic()
        if self._facts is None or now - self._read_at > READ_AGAIN_S:
            async with self._database.read() as reader:
                known = await sql.all_nodes(reader)
            if not known:
                raise Unavailable("no node has reported yet; try again in a moment")
            own = [facts for facts, _ in known if facts.node == self._own_node]
            self._facts = own[0] if own else max(known, key=lambda one: one[1])[0]
            self._read_at = now
        return self._facts

    async def _named(self, name: str) -> NodeFacts:
        async with self._database.read() as reader:
            known = {facts.node: (facts, seen) for facts, seen in await sql.all_nodes(reader)}
        if name not in known:
            raise InvalidArgument(f"label {NODE_LABEL}: there is no node {name!r}", field=f"Labels.{NODE_LABEL}")
        facts, seen = known[name]
        silent_ns = self._clock.time_ns() - seen
        if silent_ns > STALE_AFTER_NS:
            raise Unavailable(f"node {name} has not been heard of for {silent_ns // 1_000_000_000} s")
        return facts

    async def facts_of(self, name: str) -> NodeFacts:
        """Of the node that a container is on, also when it is away. Raises Unavailable: it has never reported."""
        if self._facts is not None and self._facts.node == name:
            return self._facts
        async with self._database.read() as reader:
            found = next((facts for facts, _ in await sql.all_nodes(reader) if facts.node == name), None)
        if found is None:
            raise Unavailable(f"node {name} has not reported yet; try again in a moment")
        return found

    async def heard(self, facts: NodeFacts) -> None:
        """A node reported."""
        if self._facts is not None and self._facts.node == facts.node:
            self._facts = facts
        async with self._database.transaction() as tx:
            await sql.save_node(tx, facts, self._clock.time_ns())

    async def away(self, reader: sql.Reader) -> dict[str, tuple[bool, int]]:
        """By node: whether it has been silent for too long, and when it was last heard of (ns since the epoch)."""
        now = self._clock.time_ns()
        return {facts.node: (now - seen > STALE_AFTER_NS, seen) for facts, seen in await sql.all_nodes(reader)}
