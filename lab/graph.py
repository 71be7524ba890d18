"""A lab drawn: as text, and as Mermaid for documents."""

from __future__ import annotations

from collections.abc import Iterable

from lab.links.wires import Flow, Wires
from lab.topology.model import DATABASE_NODE, Topology
from lab.topology.wiring import Net


def text(topology: Topology, nets: Iterable[Net], wires: Wires) -> list[str]:
    """One network after the other, with those on it and what happens to their frames."""
    notes = _notes(wires)
    lines = []
    for net in nets:
        lines.append(f"{net.name} ({'link' if net.is_link else 'segment'})")
        for index, port in enumerate(net.ports):
            branch = "└──" if index == len(net.ports) - 1 else "├──"
            addresses = " ".join(port.addresses) or "no address"
            lines.append(f"{branch} {port.node} [{_role(topology, port.node)}] {port.interface} {addresses}")
            for flow in notes.get((net.name, port.node), []):
                bar = " " if branch == "└──" else "│"
                lines.append(f"{bar}     → {flow.target}: {_does(flow)}")
    return lines


def mermaid(topology: Topology, nets: Iterable[Net], wires: Wires) -> list[str]:
    """A flowchart; nodes are rounded, segments are not, what is cut is dotted."""
    nets = list(nets)
    ids = {name: f"n{index}" for index, name in enumerate([*topology.nodes, DATABASE_NODE])}
    lines = ["flowchart LR"]
    for name in dict.fromkeys(port.node for net in nets for port in net.ports):
        lines.append(f'    {ids[name]}("{name}<br/>{_role(topology, name)}")')
    flows = {(flow.net, flow.source, flow.target): flow for flow in wires.flows()}
    for index, net in enumerate(nets):
        if net.is_link:
            one, other = net.ports
            there, back = flows[net.name, one.node, other.node], flows[net.name, other.node, one.node]
            label = " / ".join(dict.fromkeys(filter(None, (_does(there), _does(back)))))
            arrow = "-.-" if there.cut else "---"
            lines.append(f"    {ids[one.node]} {arrow}{f'|{label}|' if label else ''} {ids[other.node]}")
            continue
        lines.append(f'    s{index}["{net.name}"]')
        for port in net.ports:
            others = [flow for flow in flows.values() if flow.net == net.name and flow.source == port.node]
            arrow = "-.-" if others and all(flow.cut for flow in others) else "---"
            lines.append(f"    {ids[port.node]} {arrow} s{index}")
    return lines


def _role(topology: Topology, name: str) -> str:
    node = topology.nodes.get(name)
    return "database" if node is None else node.image if node.role == "image" else node.role


def _does(flow: Flow) -> str:
    return "cut" if flow.cut else flow.impairment.spelled()


def _notes(wires: Wires) -> dict[tuple[str, str], list[Flow]]:
    notes: dict[tuple[str, str], list[Flow]] = {}
    for flow in wires.flows():
        if _does(flow):
            notes.setdefault((flow.net, flow.source), []).append(flow)
    return notes
