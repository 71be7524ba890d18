"""What control knows of nodes: their facts, and when they were last heard of."""

from __future__ import annotations

from services.executor.control.cluster import sql as cluster_sql
from services.executor.control.cluster.liveness import Liveness
from services.executor.control.state import sql
from shared.clock import Clock
from shared.contracts.cluster import NodeState
from shared.contracts.containers import NodeFacts
from shared.errors import Unavailable
from shared.state.database import Database

# Inventories come every 10 s; a node that missed three is taken for away.
STALE_AFTER_NS = 30 * 1_000_000_000
READ_AGAIN_S = 60.0


class Nodes:
    """Facts change when a node restarts, so they are cached and read again once a minute."""

    def __init__(self, database: Database, own_node: str, clock: Clock, liveness: Liveness) -> None:
        self._database = database
        self._own_node = own_node
        self._clock = clock
        self._liveness = liveness
        self._only: NodeFacts | None = None
        self._read_at = 0.0
        self._known: set[str] = set()

    async def only(self) -> NodeFacts | None:
        """The node that gets every container about which nothing is said; None where there are several to choose from.

        Raises:
            Unavailable: No node has reported yet.
        """
        now = self._clock.monotonic()
        if self._only is not None and now - self._read_at < READ_AGAIN_S:
            return self._only
        async with self._database.read() as reader:
            known = await sql.all_nodes(reader)
            clustered = await cluster_sql.the_cluster(reader) is not None
        if not known:
            raise Unavailable("no node has reported yet; try again in a moment")
        self._known = {facts.node for facts, _ in known}
        own = next((facts for facts, _ in known if facts.node == self._own_node), None)
        if clustered:
            self._only = known[0][0] if len(known) == 1 else None
        else:
            self._only = own or max(known, key=lambda one: one[1])[0]
        self._read_at = now
        return self._only

    async def changed(self, node: str, state: NodeState) -> None:
        """A node came or went."""
        self.forget()

    def in_a_cluster(self, name: str) -> bool:
        """Whether a node gives signs of life, as those of a cluster do."""
        return self._liveness.beats(name)

    def forget(self) -> None:
        """Nodes came or went: what is cached is read anew."""
        self._only = None

    async def facts_of(self, name: str) -> NodeFacts:
        """Of the node that a container is on, also when it is away. Raises Unavailable: it has never reported."""
        if self._only is not None and self._only.node == name:
            return self._only
        async with self._database.read() as reader:
            found = next((facts for facts, _ in await sql.all_nodes(reader) if facts.node == name), None)
        if found is None:
            raise Unavailable(f"node {name} has not reported yet; try again in a moment")
        return found

    async def heard(self, facts: NodeFacts) -> None:
        """A node reported."""
        if self._only is not None and self._only.node == facts.node:
            self._only = facts
        elif facts.node not in self._known:
            self.forget()
        async with self._database.transaction() as tx:
            await sql.save_node(tx, facts, self._clock.time_ns())

    async def away(self, reader: sql.Reader) -> dict[str, tuple[bool, int]]:
        """By node: whether it is away, and when it was last heard of (ns since the epoch)."""
        found = {}
        for facts, seen in await sql.all_nodes(reader):
            sign = self._liveness.last(facts.node)
            if sign is None:
                found[facts.node] = self._clock.time_ns() - seen > STALE_AFTER_NS, seen
            else:
                found[facts.node] = self._liveness.state(facts.node) != "ready", max(seen, sign.heard_ns)
        return found
