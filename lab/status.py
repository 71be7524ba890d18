"""How a lab is: what its nodes are to be and are, where they are, and what is done to links."""

from __future__ import annotations

from typing import Any

from lab.faults.keeping import state
from lab.lab import Lab
from lab.record import ON


def collect(lab: Lab) -> dict[str, Any]:
    """The lab as JSON; ``healthy`` when all that is to run runs."""
    running = lab.running()
    nodes = {}
    for name in lab.machines:
        role = lab.topology.nodes[name].role if name in lab.topology.nodes else "database"
        wanted = lab.record.nodes.get(name, ON)
        addresses = {port.interface: list(port.addresses) for port in lab.ports_of(name)}
        pids = lab.cgroup(name).pids()
        entry: dict[str, Any] = {"role": role, "state": wanted if name in running or wanted != ON else "dead",
                                 "addresses": addresses, "processes": len(pids)}  # fmt: skip
        if role == "manager":
            entry["docker_host"] = f"unix://{lab.places.socket(name)}"
        nodes[name] = entry
    links = [
        {"net": flow.net, "from": flow.source, "to": flow.target, "cut": flow.cut, "does": flow.impairment.spelled()}
        for flow in lab.wires.flows()
        if flow.cut or flow.impairment.anything
    ]
    relay = {"needed": lab.relay.needed, "running": lab.relay.running}
    faults = state(lab)
    kept = faults["done"] == faults["planned"] or bool(faults["running"])
    healthy = kept and all(entry["state"] != "dead" for entry in nodes.values()) and relay["needed"] <= relay["running"]
    return {"lab": lab.places.lab, "directory": str(lab.places.base), "healthy": healthy, "nodes": nodes,
            "links": links, "relay": relay, "faults": faults}  # fmt: skip


def lines(result: dict[str, Any]) -> list[str]:
    """The same for people."""
    text = [f"lab {result['lab']} in {result['directory']}", "",
            f"{'NODE':<20}{'ROLE':<10}{'STATE':<8}{'PROCESSES':>10}  ADDRESSES"]  # fmt: skip
    for name, node in result["nodes"].items():
        where = " ".join(
            f"{interface} {','.join(addresses) or '-'}" for interface, addresses in node["addresses"].items()
        )
        text.append(f"{name:<20}{node['role']:<10}{node['state']:<8}{node['processes']:>10}  {where}")
    if result["links"]:
        text += ["", f"{'NETWORK':<20}{'FROM':<16}{'TO':<16}DOES"]
    for link in result["links"]:
        does = "cut" if link["cut"] else link["does"]
        text.append(f"{link['net']:<20}{link['from']:<16}{link['to']:<16}{does}")
    if result["faults"]["planned"]:
        faults = result["faults"]
        still = "" if faults["running"] or faults["done"] == faults["planned"] else "; nobody keeps to it: davit lab up"
        text += ["", f"timeline: {faults['done']} of {faults['planned']} done{still}"]
    if result["relay"]["needed"] and not result["relay"]["running"]:
        text += ["", "the relay does not run, so that delayed links carry nothing: davit lab up starts it"]
    return text
