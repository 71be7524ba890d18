"""Who holds, doubles and changes frames: the kernel's netem where there is one, else the lab's relay.

Source: tc-netem(8), tc-tbf(8).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from lab.links import names
from lab.links.wires import ALL, Flow, Wires
from lab.topology.impairment import Impairment
from lab.topology.wiring import Net

# Set to "relay" to do without netem: for comparing the two.
CHOICE = "DAVIT_LAB_TIMING"
# A queue that holds so much time's worth of frames, as most kernels' do.
_LATENCY_MS = 400
_LEAST_BURST = 3_000
_BURST_S = 0.005


@dataclass(frozen=True)
class Queue:
    """The queueing discipline of one device: what leaves by it is slowed down, and with netem held and changed.

    Attributes:
        device: Its name in the kernel.
        node: The namespace it is in; "" for the lab's own.
    """

    device: str
    node: str
    rate: int
    netem: Impairment | None

    @property
    def spelled(self) -> str:
        return f"rate {self.rate} netem {self.netem.spelled() if self.netem else '-'}"

    @property
    def burst(self) -> int:
        return max(_LEAST_BURST, int(self.rate / 8 * _BURST_S))

    @property
    def limit(self) -> int:
        """Bytes that wait at most."""
        return max(_LEAST_BURST, int(self.rate / 8 * _LATENCY_MS / 1000)) + self.burst


@cache
def has_netem() -> bool:
    """Whether the kernel has netem, or can load it. Asks the kernel, in a namespace of its own."""
    if os.environ.get(CHOICE) == "relay":
        return False
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    from lab.nodes.namespaces import elsewhere

    with elsewhere():
        ipr = IPRoute(groups=0)
    try:
        ipr.tc("add", "netem", 1, 0x10000, delay=1000)
    except NetlinkError:
        return False
    finally:
        ipr.close()
    return True


def relayed(flows: Iterable[Flow], nets: Iterable[Net], *, netem: bool) -> list[Flow]:
    """The flows that a relay takes care of: what is timed, when netem cannot do it for this direction alone."""
    kinds = {net.name: net.is_link for net in nets}
    return [
        flow for flow in flows
        if not flow.cut and (flow.own_rate or (flow.impairment.timed and not (netem and kinds[flow.net])))
    ]  # fmt: skip


def queues(nets: Iterable[Net], wires: Wires, *, netem: bool) -> list[Queue]:
    """The disciplines that are wanted; devices without one have the kernel's default.

    On a link, the receiver's port of the lab. On a segment, what a node sends at a limited rate waits in the node, what
    it gets in its port.
    """
    result = []
    for net in nets:
        for port in net.ports:
            ours = names.port(net.name, port.node)
            if net.is_link:
                sender = next(other.node for other in net.ports if other is not port)
                result.append(_queue(ours, "", wires.of(net.name, sender, port.node), netem=netem))
            else:
                result.append(_queue(ours, "", wires.of(net.name, ALL, port.node), netem=False))
                result.append(_queue(port.interface, port.node, wires.of(net.name, port.node, ALL), netem=False))
    return [queue for queue in result if queue is not None]


def _queue(device: str, node: str, impairment: Impairment, *, netem: bool) -> Queue | None:
    timed = impairment.model_copy(update={"loss": 0.0, "rate": 0}) if netem and impairment.timed else None
    return Queue(device, node, impairment.rate, timed) if timed or impairment.rate else None


def flow_values(flow: Flow, nets: dict[str, Net], seed: int) -> dict[str, object]:
    """What the relay is told of a flow. Rates that more than this flow share are kept by queues, not by the relay."""
    net = nets[flow.net]
    target = net.port(flow.target)
    assert target is not None
    values = flow.impairment.model_dump(exclude_defaults=True, exclude={"rate"})
    return values | {
        "in": names.port(flow.net, flow.source),
        "out": names.port(flow.net, flow.target),
        "mac": None if net.is_link else target.mac,
        "rate": flow.own_rate,
        "seed": f"{seed}|{flow.net}|{flow.source}|{flow.target}",
    }
