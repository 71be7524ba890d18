"""Where a container goes. Pure.

Nodes that cannot run it are ruled out by an ordered tuple of named checks, each with a reason that the client is told
when none is left. Of the others the one is taken that has most wishes fulfilled, then (unless told to pack) the most
free memory and processors in tenths, then the fewest containers, then the first by name: so what differs little is
spread evenly, and the same question has the same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from services.executor.control.cluster.constraints import NodeTraits, Wanted, unmet
from shared.contracts.containers import NodeFacts
from shared.errors import DavitError, InvalidArgument, Unavailable

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node as placement sees it.

    Attributes:
        available_bytes: Memory that the machine could give, as it last said; None: it did not say.
        load: Average of processes that run or want to.
        reserved_bytes, reserved_nano_cpus: What limits and reservations of its containers keep for them.
        names, images, volumes: Of containers on it, of their images, and of volumes that lie there.
        ports: ``number/protocol`` that it publishes.
    """

    facts: NodeFacts
    traits: NodeTraits
    up: bool = True
    availability: str = "active"
    available_bytes: int | None = None
    load: float = 0.0
    reserved_bytes: int = 0
    reserved_nano_cpus: int = 0
    containers: int = 0
    names: AbstractSet[str] = frozenset()
    images: AbstractSet[str] = frozenset()
    volumes: AbstractSet[str] = frozenset()
    ports: AbstractSet[str] = frozenset()

    @property
    def name(self) -> str:
        return self.facts.node

    @property
    def free_bytes(self) -> int:
        unreserved = self.facts.memory_bytes - self.reserved_bytes
        return max(0, unreserved if self.available_bytes is None else min(unreserved, self.available_bytes))

    @property
    def free_share(self) -> float:
        """Of memory and processors, whichever is scarcer; 0 to 1."""
        memory = self.free_bytes / self.facts.memory_bytes if self.facts.memory_bytes else 1.0
        busy = max(self.load, self.reserved_nano_cpus / 1e9)
        processors = max(0.0, 1 - busy / self.facts.cpus) if self.facts.cpus else 1.0
        return min(memory, processors)


@dataclass(frozen=True, slots=True)
class Demand:
    """What a container needs of a node.

    Attributes:
        memory_bytes, nano_cpus: What is to be kept for it.
        architecture: Docker's name for it; empty for any.
        pinned: Node -> why it can be no other: what it uses lies there.
    """

    wanted: Wanted = field(default_factory=Wanted)
    memory_bytes: int = 0
    nano_cpus: int = 0
    architecture: str = ""
    runtime: str = ""
    ports: AbstractSet[str] = frozenset()
    pinned: tuple[tuple[str, str], ...] = ()


Check = Callable[[Candidate, Demand], str]


def _lives(node: Candidate, demand: Demand) -> str:
    return "" if node.up else "it is down"


def _takes_more(node: Candidate, demand: Demand) -> str:
    return "" if node.availability == "active" else f"its availability is {node.availability}"


def _is_named(node: Candidate, demand: Demand) -> str:
    named = demand.wanted.node
    return "" if named in ("", node.name) else f"it is not {named}"


def _has_what_it_uses(node: Candidate, demand: Demand) -> str:
    return next((f"{why} is on {where}" for where, why in demand.pinned if where != node.name), "")


def _meets_constraints(node: Candidate, demand: Demand) -> str:
    failed = unmet(node.traits, demand.wanted.constraints)
    return f"it does not meet {failed}" if failed is not None else ""


def _meets_affinities(node: Candidate, demand: Demand) -> str:
    for one in demand.wanted.affinities:
        if not one.wish and (one.value in _of_kind(node, one.key)) != one.equal:
            return f"it does not meet {one}"
    return ""


def _is_of_the_platform(node: Candidate, demand: Demand) -> str:
    own = ARCHITECTURES.get(node.facts.architecture, node.facts.architecture)
    return "" if demand.architecture in ("", own) else f"it is {own}, not {demand.architecture}"


def _has_the_runtime(node: Candidate, demand: Demand) -> str:
    return "" if not demand.runtime or demand.runtime in node.facts.runtimes else f"it has no runtime {demand.runtime}"


def _has_memory(node: Candidate, demand: Demand) -> str:
    if demand.memory_bytes <= node.facts.memory_bytes - node.reserved_bytes:
        return ""
    return f"of its memory {max(0, node.facts.memory_bytes - node.reserved_bytes)} bytes are not reserved"


def _has_processors(node: Candidate, demand: Demand) -> str:
    free = node.facts.cpus * 1_000_000_000 - node.reserved_nano_cpus
    return "" if demand.nano_cpus <= free else f"of its processors {max(0, free) / 1e9:g} are not reserved"


def _has_ports(node: Candidate, demand: Demand) -> str:
    taken = sorted(demand.ports & node.ports)
    return f"port {taken[0]} is taken" if taken else ""


# Those that time may change come after those that it does not.
CHECKS: tuple[Check, ...] = (
    _is_named,
    _is_of_the_platform,
    _has_the_runtime,
    _has_what_it_uses,
    _meets_constraints,
    _meets_affinities,
    _lives,
    _takes_more,
    _has_memory,
    _has_processors,
    _has_ports,
)
_LASTING = frozenset(CHECKS[:6])


def place(candidates: Sequence[Candidate], demand: Demand) -> Candidate:
    """The node for a container.

    Raises:
        InvalidArgument: No node can run it, and none will as things are; the text has the reason for each.
        Unavailable: None can now.
    """
    reasons: dict[str, tuple[Check, str]] = {}
    fit = []
    for node in candidates:
        for check in CHECKS:
            if why := check(node, demand):
                reasons[node.name] = check, why
                break
        else:
            fit.append(node)
    if not fit:
        raise _nowhere(demand, reasons)
    return min(fit, key=lambda node: _rank(node, demand, candidates))


def _rank(node: Candidate, demand: Demand, candidates: Sequence[Candidate]) -> tuple[float, ...]:
    """The smaller, the better. Names come last, as their order among the candidates."""
    wishes = sum(one.wish and node.traits.holds(one) for one in demand.wanted.constraints)
    wishes += sum(one.wish and (one.value in _of_kind(node, one.key)) == one.equal for one in demand.wanted.affinities)
    alike = 0
    if demand.wanted.spread:
        own = node.traits.labels.get(demand.wanted.spread, "")
        alike = sum(
            other.containers for other in candidates if other.traits.labels.get(demand.wanted.spread, "") == own
        )
    free = int(node.free_share * 10)
    busy = (free, -node.containers) if demand.wanted.pack else (-free, node.containers)
    order = sorted(one.name for one in candidates).index(node.name)
    return (-wishes, alike, *busy, order)


def _of_kind(node: Candidate, kind: str) -> AbstractSet[str]:
    return {"container": node.names, "image": node.images, "volume": node.volumes}[kind]


def _nowhere(demand: Demand, reasons: dict[str, tuple[Check, str]]) -> DavitError:
    named = demand.wanted.node
    if named and named not in reasons:
        return InvalidArgument(f"label davit.node: there is no node {named!r}", field="Labels.davit.node")
    told = {named: reasons[named]} if named else reasons
    text = "no node can run this container: " + "; ".join(f"{node}: {why}" for node, (_, why) in sorted(told.items()))
    if all(check in _LASTING for check, _ in told.values()):
        return InvalidArgument(text, field="Labels")
    return Unavailable(text)
