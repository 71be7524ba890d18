"""The lab's devices in the kernel: compared with what is wanted, and made so. Level-triggered, in any state.

::

    node a                     the lab's namespace                         node b
    eth0 ◄── veth ──► port ── bridge of the link or segment ── port ◄── veth ──► eth0

The bridges, the ports, their queues and rules are the lab's: a node that ends takes none of it along. Its own end of
each wire waits in the lab's namespace until the node is there again.

Source: rtnetlink(7), veth(4).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from lab.links import names
from lab.links.timing import Queue
from lab.nodes.namespaces import Namespaces
from lab.topology.wiring import Net, Port
from shared.errors import Internal

if TYPE_CHECKING:
    from pyroute2 import IPRoute

OWN = ".lab"  # the lab's own namespace, among those of nodes, whose names begin otherwise
_ROOT, _NETEM_CHILD = 0x10000, 0x20000
_MOST_SEGMENTS = 65535
# Reserved addresses that a bridge would keep to itself, but for those it must: LLDP and 802.1X pass.
_FORWARD_RESERVED = 0xFFF8


class Fabric:
    """Netlink of the lab's namespace and of the nodes', opened when needed. A context manager."""

    def __init__(self, namespaces: Namespaces) -> None:
        self._namespaces = namespaces
        self._open: dict[str, IPRoute] = {}

    def __enter__(self) -> Fabric:
        return self

    def __exit__(self, *_: object) -> None:
        for ipr in self._open.values():
            ipr.close()

    def of(self, node: str) -> IPRoute:
        if node not in self._open:
            from pyroute2 import IPRoute  # a quarter of a second, which commands that need no netlink do not spend

            with self._namespaces.inside(node):
                self._open[node] = IPRoute(groups=0)
        return self._open[node]

    def forget(self, node: str) -> None:
        """The node's namespace is another from now on."""
        if node in self._open:
            self._open.pop(node).close()

    def devices(self, node: str = OWN) -> dict[str, Any]:
        """The devices of a namespace by name."""
        return {link.get("ifname"): link for link in self.of(node).get_links()}

    # -- bridges and ports ----------------------------------------------------------------------------------------

    def connect(self, nets: Iterable[Net], alive: set[str]) -> set[str]:
        """Have these bridges and ports, no others, and each wire in its node; the ports that were made anew."""
        nets = list(nets)
        there = self.devices()
        wanted = {names.bridge(net.name) for net in nets}
        wanted |= {
            name(net.name, port.node) for net in nets for port in net.ports for name in (names.port, names.parked)
        }
        for name in [name for name in there if name != "lo" and name not in wanted]:
            self.remove(OWN, name)
            del there[name]
        made = set()
        for net in nets:
            self._bridge(net, there)
            for port in net.ports:
                if names.port(port.net, port.node) not in there:
                    self._plug(port, there)
                    made.add(names.port(port.net, port.node))
        for net in nets:
            for port in net.ports:
                if port.node in alive:
                    self._give(port, there)
        return made

    def _bridge(self, net: Net, there: dict[str, Any]) -> None:
        name = names.bridge(net.name)
        if name in there:
            return
        ours = self.of(OWN)
        ours.link(
            "add", ifname=name, kind="bridge", br_stp_state=0, br_mcast_snooping=0, br_group_fwd_mask=_FORWARD_RESERVED
        )
        index = ours.link_lookup(ifname=name)[0]
        ours.link("set", index=index, state="up", mtu=max(port.mtu for port in net.ports))
        there[name] = {"index": index}

    def _plug(self, port: Port, there: dict[str, Any]) -> None:
        ours, name, other = self.of(OWN), names.port(port.net, port.node), names.parked(port.net, port.node)
        ours.link("add", ifname=name, kind="veth", mtu=port.mtu,
                  peer={"ifname": other, "mtu": port.mtu, "address": port.mac})  # fmt: skip
        index, there_index = ours.link_lookup(ifname=name)[0], ours.link_lookup(ifname=other)[0]
        ours.link("set", index=index, master=there[names.bridge(port.net)]["index"], state="up")
        there[name], there[other] = {"index": index}, {"index": there_index}

    def _give(self, port: Port, there: dict[str, Any]) -> None:
        """Move a waiting end into its node and set it up there."""
        waiting = there.get(names.parked(port.net, port.node))
        if waiting is None:
            return
        namespace = self._namespaces.open(port.node, "net")
        try:
            self.of(OWN).link("set", index=waiting["index"], net_ns_fd=namespace, ifname=port.interface)
        finally:
            os.close(namespace)
        node = self.of(port.node)
        index = node.link_lookup(ifname=port.interface)[0]
        for address in port.addresses:
            ip, _, prefix = address.partition("/")
            node.addr("add", index=index, address=ip, prefixlen=int(prefix))
        node.link("set", index=index, state="up")

    def park(self, node: str, ports: Iterable[Port]) -> None:
        """Take a node's ends out of it, since it is about to end."""
        if not self._namespaces.bound(node):
            return
        there = self.devices(node)
        home = self._namespaces.open(OWN, "net")
        try:
            for port in ports:
                if port.interface in there:
                    self.of(node).link("set", index=there[port.interface]["index"], net_ns_fd=home,
                                       ifname=names.parked(port.net, port.node))  # fmt: skip
        finally:
            os.close(home)

    def remove(self, node: str, name: str) -> None:
        """Delete a device, and with it the other end of its wire."""
        from pyroute2.netlink.exceptions import NetlinkError

        with contextlib.suppress(NetlinkError):  # its other end took it along
            self.of(node).link("del", ifname=name)

    # -- queues ---------------------------------------------------------------------------------------------------

    def shape(self, queue: Queue | None, node: str, device: str) -> None:
        """Give a device its queueing discipline, or back the default when None."""
        from pyroute2.netlink.exceptions import NetlinkError

        ipr = self.of(node or OWN)
        found = ipr.link_lookup(ifname=device)
        if not found:
            return  # the node is away; it gets its queue when it comes back
        with contextlib.suppress(NetlinkError):  # there is only the default, which cannot be deleted
            ipr.tc("del", index=found[0], root=True)
        if queue is None:
            return
        try:
            for arguments in _disciplines(queue):
                ipr.tc("add", index=found[0], **arguments)
        except NetlinkError as error:
            raise Internal(f"{device}: the kernel does not take {queue.spelled}: {error}") from error

    def single_segments(self, node: str, interface: str, wanted: bool) -> None:
        """Have a node send frames no larger than the wire's, so that each is lost or held on its own."""
        ipr = self.of(node)
        found = ipr.link_lookup(ifname=interface)
        if found:
            ipr.link("set", index=found[0], gso_max_segs=1 if wanted else _MOST_SEGMENTS)

    def route(self, node: str, routes: Iterable[str]) -> None:
        """Set routes of the form ``10.2.0.0/24 via 10.1.0.1`` in a node."""
        for text in routes:
            target, _, gateway = text.partition(" via ")
            self.of(node).route("replace", dst=target, gateway=gateway)

    def loopback(self, node: str) -> None:
        self.of(node).link("set", index=1, state="up")


def _disciplines(queue: Queue) -> Iterator[dict[str, Any]]:
    parent: dict[str, Any] = {"handle": _ROOT}
    if queue.netem is not None:
        wanted = queue.netem
        values = {name: getattr(wanted, name) for name in ("duplicate", "corrupt", "reorder") if getattr(wanted, name)}
        values |= {"delay": round(wanted.delay * 1e6), "jitter": round(wanted.jitter * 1e6), "limit": 100_000}
        renamed = {{"corrupt": "prob_corrupt", "reorder": "prob_reorder"}.get(name, name): value
                   for name, value in values.items()}  # fmt: skip
        yield {"kind": "netem", **parent, **renamed}
        parent = {"handle": _NETEM_CHILD, "parent": _ROOT | 1}
    if queue.rate:
        yield {"kind": "tbf", **parent, "rate": queue.rate // 8, "burst": queue.burst, "limit": queue.limit}
