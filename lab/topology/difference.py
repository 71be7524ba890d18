"""What has to be done to a running lab, so that it is as a changed file says. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from lab.topology.model import Node, Topology
from lab.topology.wiring import Net, Port

# Fields of a node that its namespaces and its data depend on; with another value it is another node.
_IDENTITY = ("role", "image", "command", "environment", "binds")
_ENGINE = ("labels", "daemon")
_LIMITS = ("memory", "cpus")


@dataclass(frozen=True)
class Difference:
    """Names of nodes by what is to be done with them, and the ports that are to be made anew.

    Attributes:
        engines: Nodes whose engine has to be started again; their containers go on.
        ports: Those that are there with other addresses, or another interface, than they are to have.
        nets: Links and segments that come or go.
        parameters: Those of which the file says something else than before of what they do to frames.
    """

    removed: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    engines: list[str] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)
    ports: list[Port] = field(default_factory=list)
    nets: list[str] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """What is done, for the user."""
        for verb, nodes in (
            ("remove", self.removed), ("replace", self.replaced), ("add", self.added),
            ("start the engine again on", self.engines), ("change the limits of", self.limits),
        ):  # fmt: skip
            if nodes:
                yield f"{verb} {', '.join(nodes)}"
        for port in self.ports:
            yield f"replace the wire of {port.node} to {port.net}"
        if self.nets:
            yield f"connect or disconnect {', '.join(sorted(self.nets))}"
        if self.parameters:
            yield f"change the parameters of {', '.join(sorted(self.parameters))}"


def difference(before: Topology, after: Topology, nets_before: Iterable[Net], nets_after: Iterable[Net]) -> Difference:
    """From one file to the other."""
    result = Difference()
    result.removed.extend(name for name in before.nodes if name not in after.nodes)
    result.added.extend(name for name in after.nodes if name not in before.nodes)
    for name in before.nodes.keys() & after.nodes.keys():
        old, new = before.nodes[name], after.nodes[name]
        if _differ(old, new, _IDENTITY):
            result.replaced.append(name)
            continue
        if new.role != "image" and _differ(old, new, _ENGINE):
            result.engines.append(name)
        if _differ(old, new, _LIMITS):
            result.limits.append(name)
    _wires(result, {net.name: net for net in nets_before}, {net.name: net for net in nets_after})
    return result


def _differ(old: Node, new: Node, fields: tuple[str, ...]) -> bool:
    return any(getattr(old, name) != getattr(new, name) for name in fields)


def _wires(result: Difference, before: dict[str, Net], after: dict[str, Net]) -> None:
    gone = set(result.removed) | set(result.replaced)
    for name in before.keys() | after.keys():
        old, new = before.get(name), after.get(name)
        if old is None or new is None:
            result.nets.append(name)
            continue
        for port in old.ports:
            other = new.port(port.node)
            if other is not None and other != port and port.node not in gone:
                result.ports.append(port)
