"""From the file to wires: networks with ports, the interface and addresses of each. Pure.

What is chosen automatically is remembered by name, so that a changed file leaves alone what it does not mention.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass

from lab.topology.model import DATABASE_NODE, Link, Segment, Topology

# Ranges that neither Docker's default pools nor the usual home networks use.
SEGMENT_RANGE = ipaddress.IPv4Network("10.213.0.0/16")
LINK_RANGE = ipaddress.IPv4Network("10.214.0.0/16")
_LARGEST_ORDINARY = 250
# What was chosen: network name -> subnet, "network|node|interface" and "network|node|address" -> that.
Choices = MutableMapping[str, str]


@dataclass(frozen=True)
class Port:
    """A node's end of a wire. `addresses` have a prefix length each."""

    net: str
    node: str
    interface: str
    mac: str
    addresses: tuple[str, ...]
    mtu: int


@dataclass(frozen=True)
class Net:
    """What connects ports: a link has two, a segment any number."""

    name: str
    is_link: bool
    ports: tuple[Port, ...]

    def port(self, node: str) -> Port | None:
        return next((port for port in self.ports if port.node == node), None)


def wire(topology: Topology, choices: Choices) -> list[Net]:
    """All networks of a lab; `choices` is completed, and cleared of what is no longer there."""
    plan = [*_segments(topology), *_links(topology)]
    _forget(choices, plan)
    taken = _Taken(topology, choices)
    return [_net(topology.name, name, part, nodes, choices, taken) for name, part, nodes in plan]


_Planned = tuple[str, Link | Segment, list[str]]


def _segments(topology: Topology) -> Iterator[_Planned]:
    for name, segment in topology.wired.items():
        nodes = list(topology.nodes) if segment.nodes is None else segment.nodes
        yield name, segment, list(dict.fromkeys(nodes))
    if topology.database == "postgres":
        yield DATABASE_NODE + "s", Segment(), [DATABASE_NODE, *topology.managers()]


def _links(topology: Topology) -> Iterator[_Planned]:
    seen: dict[str, int] = {}
    for link in topology.links:
        nodes = [node for node, _ in link.ends]
        name = "-".join(nodes)
        seen[name] = seen.get(name, 0) + 1
        yield name if seen[name] == 1 else f"{name}-{seen[name]}", link, nodes


def _forget(choices: Choices, plan: list[_Planned]) -> None:
    there = {name for name, _, _ in plan} | {f"{name}|{node}" for name, _, nodes in plan for node in nodes}
    for key in [key for key in choices if key.rsplit("|", 1)[0] not in there and key not in there]:
        del choices[key]


class _Taken:
    """What is in use: subnets of the lab, interfaces of each node."""

    def __init__(self, topology: Topology, choices: Choices) -> None:
        self.subnets = [ipaddress.ip_network(value) for key, value in choices.items() if "|" not in key]
        self.subnets += [ipaddress.ip_network(s.subnet) for s in topology.segments.values() if s.subnet]
        parts: tuple[Link | Segment, ...] = (*topology.segments.values(), *topology.links)
        for part in parts:
            for address in (a for addresses in (part.addresses or {}).values() for a in addresses):
                self.subnets.append(ipaddress.ip_interface(address).network)
        self.interfaces = {(node, name) for link in topology.links for node, name in link.ends if name}
        for key, value in choices.items():
            if key.endswith("|interface"):
                self.interfaces.add((key.split("|")[1], value))

    def subnet(self, within: ipaddress.IPv4Network, prefix: int) -> str:
        for candidate in within.subnets(new_prefix=prefix):
            if not any(candidate.version == other.version and candidate.overlaps(other) for other in self.subnets):
                self.subnets.append(candidate)
                return str(candidate)
        raise ValueError(f"segments: {within} has no room for another network: give one a subnet of its own")

    def interface(self, node: str) -> str:
        number = 0
        while (node, f"eth{number}") in self.interfaces:
            number += 1
        self.interfaces.add((node, f"eth{number}"))
        return f"eth{number}"


def _net(lab: str, name: str, part: Link | Segment, nodes: list[str], choices: Choices, taken: _Taken) -> Net:
    subnet = _subnet(name, part, nodes, choices, taken)
    ports = []
    for index, node in enumerate(nodes):
        named = part.ends[index][1] if isinstance(part, Link) else ""
        key = f"{name}|{node}|interface"
        interface = named or choices.get(key) or choices.setdefault(key, taken.interface(node))
        digest = hashlib.sha256(f"{lab}|{name}|{node}".encode()).hexdigest()
        mac = "02:" + ":".join(digest[at : at + 2] for at in range(0, 10, 2))
        ports.append(Port(name, node, interface, mac, _addresses(name, part, node, subnet, choices), part.mtu))
    return Net(name, isinstance(part, Link), tuple(ports))


def _subnet(name: str, part: Link | Segment, nodes: list[str], choices: Choices, taken: _Taken) -> str:
    """Where automatic addresses come from; "" when none are needed."""
    if isinstance(part, Segment) and part.subnet:
        return part.subnet
    if isinstance(part, Link):
        if part.addresses is not None:
            return ""
        return choices.get(name) or choices.setdefault(name, taken.subnet(LINK_RANGE, 30))
    prefix = 24 if len(nodes) <= _LARGEST_ORDINARY else 20
    return choices.get(name) or choices.setdefault(name, taken.subnet(SEGMENT_RANGE, prefix))


def _addresses(name: str, part: Link | Segment, node: str, subnet: str, choices: Choices) -> tuple[str, ...]:
    if part.addresses is not None and (node in part.addresses or isinstance(part, Link)):
        return tuple(part.addresses.get(node, ()))
    network = ipaddress.ip_network(subnet)
    key = f"{name}|{node}|address"
    if key not in choices or ipaddress.ip_address(choices[key]) not in network:
        fixed = {str(ipaddress.ip_interface(a).ip) for given in (part.addresses or {}).values() for a in given}
        fixed |= {value for other, value in choices.items() if other.startswith(f"{name}|")}
        free = (str(host) for host in network.hosts() if str(host) not in fixed)
        choices[key] = next(free, "")
        if not choices[key]:
            raise ValueError(f"segments.{name}: {subnet} has no address left for {node}")
    return (f"{choices[key]}/{network.prefixlen}",)
