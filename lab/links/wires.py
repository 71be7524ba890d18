"""What is to happen to frames from one node to another: the file's parameters, then what commands changed. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from lab.topology.impairment import Impairment
from lab.topology.model import Link, Topology
from lab.topology.wiring import Net
from shared.errors import InvalidArgument, NotFound

ALL = "*"
_Key = tuple[str, str, str]  # network, source, target; on a segment, * for all others of it
NOTHING = Impairment()


@dataclass(frozen=True)
class Flow:
    """What happens to frames of one network from one node to another.

    Attributes:
        own_rate: On a segment, the limit that only these two have; those of each node's way to it are shared.
    """

    net: str
    source: str
    target: str
    impairment: Impairment = NOTHING
    cut: bool = False
    own_rate: int = 0


@dataclass
class Changes:
    """What commands have done to a running lab's wires.

    Attributes:
        parameters: By ``net|source|target``, in place of the file's.
        cuts: ``a|b``, sorted: nothing goes between the two; ``a|*``: between a and all others.
    """

    parameters: dict[str, Impairment] = field(default_factory=dict)
    cuts: set[str] = field(default_factory=set)


def filed(topology: Topology, nets: Iterable[Net]) -> dict[_Key, Impairment]:
    """The parameters that the file gives."""
    result: dict[_Key, Impairment] = {}
    links = iter(topology.links)
    for net in nets:
        if net.is_link:
            link = next(links)
            one, other = (node for node, _ in link.ends)
            result[net.name, one, other] = _direction(link, one)
            result[net.name, other, one] = _direction(link, other)
        elif net.name in topology.segments:
            for port in net.ports:
                result[net.name, port.node, ALL] = result[net.name, ALL, port.node] = topology.segments[net.name].both
    return {key: value for key, value in result.items() if value.anything}


def _direction(link: Link, sender: str) -> Impairment:
    own = link.directions.get(sender)
    if own is None:
        return link.both
    return link.both.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})


class Wires:
    """The parameters in force."""

    def __init__(self, topology: Topology, nets: Iterable[Net], changes: Changes) -> None:
        self._nets = list(nets)
        self._parameters = filed(topology, self._nets)
        for key, value in changes.parameters.items():
            net, source, target = key.split("|")
            self._parameters[net, source, target] = value
        self._cuts = changes.cuts

    def of(self, net: str, source: str, target: str) -> Impairment:
        return self._parameters.get((net, source, target), NOTHING)

    def flows(self) -> Iterator[Flow]:
        """Each direction of each two nodes on a network, as it is to be."""
        for net in self._nets:
            for source in net.ports:
                for target in net.ports:
                    if source is not target:
                        yield self._flow(net, source.node, target.node)

    def _flow(self, net: Net, source: str, target: str) -> Flow:
        pair = self.of(net.name, source, target)
        own_rate = 0 if net.is_link else pair.rate
        if not net.is_link:
            pair = self.of(net.name, source, ALL).then(pair).then(self.of(net.name, ALL, target))
        return Flow(net.name, source, target, pair, self._is_cut(net.name, source, target), own_rate)

    def _is_cut(self, net: str, source: str, target: str) -> bool:
        if not self._cuts:
            return False
        cuts = (cut_key(source, target), cut_key(source, ALL), cut_key(target, ALL), cut_key(source, net),
                cut_key(target, net))  # fmt: skip
        return any(cut in self._cuts for cut in cuts)


def cut_key(one: str, other: str) -> str:
    """The name of a cut, whichever end is named first."""
    return f"{one}|{ALL}" if other == ALL else "|".join(sorted((one, other)))


def directions(nets: Iterable[Net], one: str, other: str) -> list[_Key]:
    """The wires that a command means by two names: first those from `one`, then those back.

    Two nodes with a link of their own: that link; else the segments that both are on. A node and a segment: the
    node's way to all others of it.

    Raises:
        NotFound: there is no wire between them.
    """
    nets = list(nets)
    by_name = {net.name: net for net in nets}
    for node, name in ((one, other), (other, one)):
        net = by_name.get(name)
        if net is not None and not net.is_link and net.port(node) is not None:
            there, back = (name, node, ALL), (name, ALL, node)
            return [there, back] if node == one else [back, there]
    both = [net for net in nets if net.port(one) and net.port(other)]
    chosen = [net for net in both if net.is_link] or both
    if one == other or not chosen:
        raise NotFound(f"there is no link between {one} and {other}")
    return [(net.name, one, other) for net in chosen] + [(net.name, other, one) for net in chosen]


def named_pair(text: str, names: Iterable[str]) -> tuple[str, str]:
    """The two ends of ``a-b``; names may have dashes of their own. Raises InvalidArgument."""
    known = set(names)
    for at, character in enumerate(text):
        if character == "-" and text[:at] in known and text[at + 1 :] in known:
            return text[:at], text[at + 1 :]
    raise InvalidArgument(f"{text!r} does not name two of {', '.join(sorted(known))}")


def parameters(changes: Mapping[str, Impairment]) -> dict[str, dict[str, object]]:
    """`Changes.parameters` as JSON."""
    return {key: value.model_dump(mode="json", exclude_defaults=True) for key, value in changes.items()}
