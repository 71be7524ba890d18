"""Containers: none lost, none doubled, none that nobody knows; their addresses and ports are in the kernel."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from lab.checks.view import Container, View
from shared.kernel.nftables import Nftables

_TABLE = "davit"  # and more behind it, when the engine is not the only one of its machine
_STILL = ("created", "exited", "dead")


def check(view: View) -> Iterator[str]:
    """Records against processes and files of every node."""
    known = {container.id: container for container in view.containers}
    for container in view.containers:
        if container.running and not container.nodes:
            yield f"{container.name} is to run, and has no process on any node"
        if len(container.nodes) > 1:
            yield f"{container.name} runs on {' and '.join(sorted(container.nodes))}"
        if container.values["State"]["Status"] in _STILL and container.nodes:
            yield f"{container.name} is {container.values['State']['Status']}, and runs on {', '.join(container.nodes)}"
        if container.running and container.nodes:
            (node, *_) = container.nodes
            if container.pid not in view.processes[node][container.id]:
                yield f"{container.name}: process {container.pid} is not one of its control group on {node}"
    for node in view.engines:
        for unknown in view.processes[node].keys() - known.keys():
            yield f"{node} runs {unknown[:12]}, which no record has"
        for unknown in view.on_disk(node) - known.keys():
            yield f"{node} keeps files of {unknown[:12]}, which no record has"


def check_networks(view: View) -> Iterator[str]:
    """Addresses and published ports of the records, against interfaces and rules of every node."""
    published: dict[str, set[tuple[str, int]]] = {}
    for container in view.containers:
        if not (container.running and container.nodes):
            continue
        yield from _addresses(view, container)
        (node, *_) = container.nodes
        for port, bindings in (container.values["NetworkSettings"]["Ports"] or {}).items():
            for binding in bindings or ():
                published.setdefault(node, set()).add((port.rpartition("/")[2], int(binding["HostPort"])))
    for node in view.engines:
        there, wanted = _translations(view, node), published.get(node, set())
        for protocol, number in sorted(wanted - there):
            yield f"{node}: port {number}/{protocol} is published, and no rule leads to its container"
        for protocol, number in sorted(there - wanted):
            yield f"{node}: a rule leads from port {number}/{protocol}, which no running container publishes"


def _addresses(view: View, container: Container) -> Iterator[str]:
    wanted = {
        network[field]
        for network in container.networks.values()
        for field in ("IPAddress", "GlobalIPv6Address")
        if network.get(field)
    }
    if not wanted:
        return
    with view.lab.namespaces.inside_of(view.namespace(container)):
        from pyroute2 import IPRoute

        with IPRoute(groups=0) as ipr:
            there = {entry.get("address") for entry in ipr.get_addr()}
    for address in sorted(wanted - there):
        yield f"{container.name}: the records give it {address}, and no interface of it has that"


def _translations(view: View, node: str) -> set[tuple[str, int]]:
    """Protocol and port of each translation that the engine's firewall on a node has."""
    with view.lab.namespaces.inside(node):
        nftables = Nftables()
        try:
            tables = _listed(nftables, "tables inet", "table")
            names = [table["name"] for table in tables if table["name"].startswith(_TABLE)]
            maps = [one for name in names for one in _listed(nftables, f"table inet {name}", "map")]
        finally:
            nftables.close()
    found = set()
    for one in maps:
        for key, _ in one.get("elem", ()) if one["name"].startswith("publish") else ():
            *_, protocol, port = key["concat"]
            found.add((_PROTOCOLS.get(protocol, str(protocol)), int(port)))
    return found


def _listed(nftables: Nftables, what: str, kind: str) -> list[dict[str, Any]]:
    entries: list[dict[str, dict[str, Any]]] = json.loads(nftables.run(f"list {what}"))["nftables"]
    return [entry[kind] for entry in entries if kind in entry]


_PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}
