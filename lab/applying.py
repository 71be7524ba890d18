"""Makes a running lab as a changed file says: what the file does not change is not touched."""

from __future__ import annotations

import shutil

from lab.lab import Lab
from lab.links import names
from lab.links.fabric import OWN, Fabric
from lab.links.wires import filed
from lab.nodes.cgroups import Limits
from lab.nodes.images import remove_container
from lab.nodes.kinds import write_hosts
from lab.topology.difference import Difference, difference
from lab.topology.model import Topology
from lab.topology.wiring import wire


def apply(lab: Lab, after: Topology) -> Difference:
    """Carry out the difference; what it was."""
    before, nets_before = lab.topology, lab.nets
    choices = dict(lab.record.choices)
    nets_after = wire(after, choices)
    done = difference(before, after, nets_before, nets_after)
    old, new = filed(before, nets_before), filed(after, nets_after)
    changed = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
    done.parameters.extend({net for net, _, _ in changed})
    for key in changed:
        lab.record.changes.parameters.pop("|".join(key), None)  # the file has the last word on what it says anew
    for name in (*done.removed, *done.replaced):
        was_container = lab.is_image(name)
        lab.switch_off(name)
        lab.record.nodes.pop(name, None)
        if was_container:
            remove_container(lab, name)
        else:
            shutil.rmtree(lab.places.node(name))
    with Fabric(lab.namespaces) as fabric:
        for port in done.ports:
            fabric.remove(OWN, names.port(port.net, port.node))
    lab.take_over(after, choices)
    for name in done.limits:
        node = after.nodes[name]
        lab.cgroup(name).limit(Limits(node.memory, node.cpus))
    for name in lab.machines:
        write_hosts(lab, name)
    lab.start([name for name in after.nodes if name in {*done.added, *done.replaced}])
    for name in done.engines:
        lab.restart_engine(name)
    return done
