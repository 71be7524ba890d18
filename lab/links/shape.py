"""Gives a lab's wires their parameters: queues, rules, and what the relay has to do. Only what differs is touched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lab.links import names
from lab.links.fabric import OWN, Fabric
from lab.links.rules import ruleset
from lab.links.timing import Queue, flow_values, has_netem, queues, relayed
from lab.links.wires import Flow
from shared.kernel.nftables import Nftables

if TYPE_CHECKING:
    from lab.lab import Lab


def shape(lab: Lab, fabric: Fabric, alive: set[str], dark: set[str]) -> None:
    """Apply the wires' parameters.

    Args:
        alive: Nodes whose namespaces are there.
        dark: Nodes that neither hear nor say anything.
    """
    flows, wires = list(lab.wires.flows()), lab.wires
    timed = [flow for flow in flows if flow.impairment.timed or flow.own_rate]
    netem = bool(timed) and has_netem()
    relay = [flow for flow in relayed(flows, lab.nets, netem=netem) if not {flow.source, flow.target} & dark]
    _set_queues(lab, fabric, queues(lab.nets, wires, netem=netem), alive)
    _set_segments(lab, fabric, flows, alive)
    nets = {net.name: net for net in lab.nets}
    lab.relay.tell([flow_values(flow, nets, lab.topology.seed) for flow in relay])
    ports = [names.port(port.net, port.node) for net in lab.nets for port in net.ports if port.node in dark]
    with lab.namespaces.inside(OWN):
        nftables = Nftables()
        try:
            nftables.run(ruleset(flows, relay, ports))
        finally:
            nftables.close()


def _set_queues(lab: Lab, fabric: Fabric, wanted: list[Queue], alive: set[str]) -> None:
    there = lab.record.queues
    by_device = {f"{queue.node}|{queue.device}": queue for queue in wanted if not queue.node or queue.node in alive}
    for key in there.keys() - by_device.keys():
        node, _, device = key.partition("|")
        if not node or node in alive:
            fabric.shape(None, node, device)
        del there[key]
    for key, queue in by_device.items():
        if there.get(key) != queue.spelled:
            fabric.shape(queue, queue.node, queue.device)
            there[key] = queue.spelled


def _set_segments(lab: Lab, fabric: Fabric, flows: list[Flow], alive: set[str]) -> None:
    """What is lost, held or changed by the frame leaves its node in frames that a wire could carry."""
    nets = {net.name: net for net in lab.nets}
    wanted = set()
    for flow in flows:
        port = nets[flow.net].port(flow.source)
        if port is not None and (flow.impairment.loss or flow.impairment.timed) and flow.source in alive:
            wanted.add(f"{flow.source}|{port.interface}")
    there = set(lab.record.single_segments)
    for key in wanted ^ there:
        node, _, interface = key.partition("|")
        if node in alive:
            fabric.single_segments(node, interface, key in wanted)
    lab.record.single_segments = sorted(wanted)
