"""Choosing a new container's node: what is known of nodes and of what the container uses, put before `placement`.

Where there is one node, there is nothing to choose and nothing is asked. Nodes that did not join by a token but share a
bus of the operator's own are chosen by labels alone; what says nothing stays on the machine it was asked for on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from services.executor.control.cluster import sql
from services.executor.control.cluster.constraints import NodeTraits, Wanted, wanted
from services.executor.control.cluster.liveness import Liveness
from services.executor.control.cluster.model import Member
from services.executor.control.cluster.placement import Candidate, Demand, place
from services.executor.control.creation.mountspec import VOLUME_NAME
from services.executor.control.nodes.registry import STALE_AFTER_NS, Nodes
from services.executor.control.peers import Peers
from services.executor.control.state import sql as container_sql
from services.executor.control.state.records import Records
from shared.contracts.cluster import Heartbeat
from shared.contracts.containers import CreateContainer, NodeFacts
from shared.contracts.docker import HostConfig
from shared.errors import NotFound, Unavailable

# Nodes say what they keep for containers with their signs of life; what was placed since is added until they do.
RECENT_S = 1.5


class _Placed(NamedTuple):
    at_s: float
    node: str
    memory_bytes: int
    nano_cpus: int
    ports: frozenset[str]


class Placing:
    """Answers where a new container goes."""

    def __init__(self, records: Records, peers: Peers, nodes: Nodes, liveness: Liveness) -> None:
        self._records = records
        self._peers = peers
        self._nodes = nodes
        self._liveness = liveness
        self._recent: list[_Placed] = []

    async def choose(self, request: CreateContainer, *, without: str = "") -> NodeFacts:
        """The node for a container.

        Args:
            without: A node that is not to be considered.

        Raises:
            InvalidArgument: A label cannot be read, or no node will ever do; the text says why for each.
            Unavailable: No node can run it now, or none has reported yet.
        """
        asked = wanted(request.config.labels)
        own = await self._nodes.only()
        if own is not None and not without and not _asks(asked):
            return own
        candidates = [one for one in await self._candidates(asked) if one.name != without]
        if not candidates:
            raise Unavailable("no node has reported yet; try again in a moment")
        demand = await self._demand(request, asked, candidates)
        found = place(candidates, demand)
        self._recent.append(
            _Placed(self._records.clock.monotonic(), found.name, demand.memory_bytes, demand.nano_cpus,
                    frozenset(demand.ports))
        )  # fmt: skip
        return found.facts

    async def _candidates(self, asked: Wanted) -> list[Candidate]:
        async with self._records.database.read() as reader:
            known = await container_sql.all_nodes(reader)
            members = {one.name: one for one in await sql.all_members(reader)}
            there = await container_sql.everything_there(reader) if asked.affinities else {}
        now_ns, now_s = self._records.clock.time_ns(), self._records.clock.monotonic()
        self._recent = [one for one in self._recent if now_s - one.at_s < RECENT_S]
        found = []
        for facts, seen_ns in known:
            member = members.get(facts.node)
            if members and member is None:
                continue  # it was removed from the cluster
            candidate = self._candidate(facts, member, fresh=now_ns - seen_ns < STALE_AFTER_NS)
            summaries = there.get(facts.node, [])
            found.append(
                replace(
                    candidate,
                    names=frozenset(one.name for one in summaries) | frozenset(one.id for one in summaries),
                    images=frozenset(one.image for one in summaries),
                    volumes=frozenset(point.name for one in summaries for point in one.mounts if point.name),
                )
            )
        return found

    def _candidate(self, facts: NodeFacts, member: Member | None, *, fresh: bool) -> Candidate:
        beats = self._liveness.beats(facts.node)
        sign = self._liveness.last(facts.node)
        beat = sign.beat if sign is not None else Heartbeat(node=facts.node)
        recent = [one for one in self._recent if one.node == facts.node]
        labels = dict(label.partition("=")[::2] for label in facts.labels)
        traits = NodeTraits(
            member.id if member is not None else "",
            facts.node,
            member.role if member is not None else "manager",
            facts.architecture,
            member.labels if member is not None else {},
            labels,
        )
        return Candidate(
            facts,
            traits,
            up=self._liveness.state(facts.node) == "ready" if beats else fresh,
            availability=member.availability if member is not None else "active",
            available_bytes=beat.memory_available_bytes if sign is not None else None,
            load=beat.load,
            reserved_bytes=beat.reserved_bytes + sum(one.memory_bytes for one in recent),
            reserved_nano_cpus=beat.reserved_nano_cpus + sum(one.nano_cpus for one in recent),
            containers=beat.containers + len(recent),
            ports=frozenset(beat.ports).union(*(one.ports for one in recent)),
        )

    async def _demand(self, request: CreateContainer, asked: Wanted, candidates: Sequence[Candidate]) -> Demand:
        host = request.host_config
        _, _, architecture = request.platform.partition("/")
        return Demand(
            asked,
            memory_bytes=host.memory_reservation or max(0, host.memory),
            nano_cpus=host.nano_cpus,
            architecture=architecture.partition("/")[0],
            runtime=host.runtime,
            ports=fixed_ports(host),
            pinned=tuple(await self._pinned(host)) if len(candidates) > 1 else (),
        )

    async def _pinned(self, host: HostConfig) -> list[tuple[str, str]]:
        """Nodes of what it uses and is nowhere else: other containers' namespaces and volumes, named volumes."""
        found = []
        refs = [mode.partition(":")[2] for mode in (host.network_mode, host.pid_mode, host.ipc_mode)
                if mode.startswith("container:")]  # fmt: skip
        refs += [source.partition(":")[0] for source in (*host.volumes_from, *host.links)]
        for ref in refs:
            try:
                record = await self._records.find(ref)
            except NotFound:
                continue  # refused with better words later on
            found.append((record.node, f"container {record.name}"))
        for name in volume_names(host):
            node = await self._peers.volume_node(name)
            if node:
                found.append((node, f"volume {name}"))
        return found


def _asks(asked: Wanted) -> bool:
    """Whether the labels ask for more than a single node has anyway."""
    return bool(asked.node or asked.constraints or asked.affinities)


def fixed_ports(host: HostConfig) -> frozenset[str]:
    """``number/protocol`` of the host that it wants published, where it says which."""
    found = set()
    for port, bindings in host.port_bindings.items():
        protocol = port.partition("/")[2] or "tcp"
        found |= {f"{one.host_port}/{protocol}" for one in bindings if one.host_port.isdigit() and int(one.host_port)}
    return frozenset(found)


def volume_names(host: HostConfig) -> list[str]:
    """Of the volumes that it names; what is wrong with the rest is said later on."""
    binds = [spec.partition(":")[0] for spec in host.binds if ":" in spec]
    mounts = [mount.source for mount in host.mounts if mount.type == "volume" and mount.source]
    return list(dict.fromkeys(name for name in (*binds, *mounts) if VOLUME_NAME.match(name)))
