"""Everything the engine has in this node's kernel for networking, and how it is kept so.

Synchronous, and for one thread: `NodeNetwork` runs it on a worker, because any netlink call may wait for a lock that
the kernel holds while it takes a namespace apart.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Callable, Iterable, Sequence

from services.executor.agent.network import links, namespace, sandbox, wanted
from services.executor.agent.network.netlink import Message, Netlink, NetlinkError
from services.executor.agent.network.nft import Firewall, NoFirewall
from services.executor.agent.network.policy import NetworkPolicy
from services.executor.agent.network.ports import HostPorts
from services.executor.agent.network.sandbox import Pair, Sandbox, SandboxPool
from services.executor.agent.network.wanted import Bridge, Elements
from shared.contracts.networks import SYSCTLS, Attachment, NodeNetwork
from shared.errors import Conflict, InvalidArgument, NotFound, Unsupported

log = logging.getLogger(__name__)

# A full comparison of links when nothing was announced: what the announcements missed is found within this.
FULL_CHECK_CHECKS = 30


class KernelNetwork:
    """Bridges, sandboxes, host ports and the firewall of one node."""

    def __init__(self, pool: SandboxPool, policy: NetworkPolicy) -> None:
        self._policy = policy
        self._pool = pool
        self._host = Netlink()
        self._announced = Netlink(groups=[links.RTNLGRP_LINK])
        self._firewall = Firewall(policy.table, ipv6=policy.firewall6) if policy.firewall else NoFirewall()
        self.ports = HostPorts(policy.needs_proxy)
        self._networks: dict[str, NodeNetwork] = {}
        self._bridges: dict[str, int] = {}
        self._sandboxes: dict[str, Sandbox] = {}
        self._attachments: dict[str, dict[str, Attachment]] = {}
        # What an earlier agent left for containers that are not adopted yet: their packets keep flowing.
        self._unclaimed: Elements = {}
        self._quiet_checks = 0
        self._hairpin = _bridges_are_filtered()

    def start(self, networks: Iterable[NodeNetwork]) -> None:
        """Make the networks exist; what an earlier agent left in the firewall stays until `settle`."""
        self._unclaimed = self._firewall.present()
        for network in networks:
            self._networks[network.id] = network
        try:
            self._firewall.install(self._elements())
        except OSError as error:
            log.warning("what an earlier agent left contradicts the records and is dropped: %s", error)
            self._unclaimed = {}
            self._firewall.install(self._elements())
        for network in self._networks.values():
            self._ensure_network_links(network)

    def close(self) -> None:
        """Let go of sockets and descriptors. Bridges, running containers' links and the firewall stay."""
        self.ports.close()
        for box in self._sandboxes.values():
            box.close()
        self._firewall.close()
        self._announced.close()
        self._host.close()

    def settle(self) -> None:
        """All running containers are adopted: what is left of an earlier agent's ports belongs to nobody."""
        if any(self._unclaimed.values()):
            self._unclaimed = {}
            self._firewall.install(self._elements())

    # Networks

    @property
    def networks(self) -> dict[str, NodeNetwork]:
        return self._networks

    def in_use(self, network_id: str) -> bool:
        """Whether a container on this node is connected to it."""
        return any(
            attachment.network.id == network_id
            for attachments in self._attachments.values()
            for attachment in attachments.values()
        )

    def apply(self, network: NodeNetwork) -> None:
        """Make a network exist, or follow a change of it. Cheap when it does already."""
        known = self._networks.get(network.id)
        if known == network and (network.driver != "bridge" or network.bridge in self._bridges):
            return
        self._networks[network.id] = network
        self._ensure_network_links(network)
        if known is None:
            self._add(wanted.network_elements([network]))
        else:
            self._firewall.install(self._elements())

    def remove(self, network: NodeNetwork) -> None:
        """Take a network away. Idempotent."""
        gone = self._networks.pop(network.id, None) or network
        elements = wanted.network_elements([gone])
        still = wanted.network_elements(self._networks.values())
        self._delete({name: texts - still.get(name, set()) for name, texts in elements.items()})
        if (
            gone.driver == "bridge"
            and not gone.foreign_bridge
            and not any(one.bridge == gone.bridge for one in self._networks.values())
        ):
            self._bridges.pop(gone.bridge, None)
            link = links.get_link(self._host, gone.bridge)
            if link is not None and link.kind == "bridge":
                self._host.run([links.delete_link(link.index)])

    def _ensure_network_links(self, network: NodeNetwork) -> None:
        bridge = wanted.wanted_bridge(network)
        if bridge is not None:
            find = self._foreign_bridge if network.foreign_bridge else self._ensure_bridge
            self._bridges[bridge.name] = find(bridge)

    def _foreign_bridge(self, bridge: Bridge) -> int:
        """A bridge that somebody else made and configures; its interface index. Raises Conflict without one."""
        link = links.get_link(self._host, bridge.name)
        if link is None or link.kind != "bridge":
            raise Conflict(f"bridge device {bridge.name} doesn't exist")
        self._set_host_sysctls(bridge.name, ipv6=any(":" in address for address in bridge.addresses))
        self._hairpin = _bridges_are_filtered()
        return link.index

    def _ensure_bridge(self, bridge: Bridge) -> int:
        """Create or correct a bridge; its interface index."""
        link = links.get_link(self._host, bridge.name)
        if link is None:
            self._host.run([links.new_bridge(bridge.name, bridge.mac_address, bridge.mtu)])
            link = links.get_link(self._host, bridge.name)
        if link is None or link.kind != "bridge":
            raise Conflict(f"interface {bridge.name} exists on this node and is not a bridge")
        has6 = any(":" in address for address in bridge.addresses)
        messages: list[Message] = [] if has6 else [links.set_link(link.index, link_local=False)]
        self._set_host_sysctls(bridge.name, ipv6=has6)
        self._hairpin = _bridges_are_filtered()
        present = links.list_addresses(self._host).get(link.index, set())
        messages += [links.add_address(link.index, address) for address in bridge.addresses if address not in present]
        stale = {one for one in present - set(bridge.addresses) if not one.startswith("fe80:")}
        messages += [links.delete_address(link.index, address) for address in stale]
        self._host.run([*messages, links.set_link(link.index, up=True, mtu=bridge.mtu)])
        return link.index

    def _set_host_sysctls(self, bridge: str, *, ipv6: bool) -> None:
        # Published ports answer on 127.0.0.1 too: the kernel may route such packets onto this bridge (and only it).
        namespace.set_sysctl(f"net/ipv4/conf/{bridge}/route_localnet", "1")
        switches = ["net/ipv4/ip_forward"] + (["net/ipv6/conf/all/forwarding"] if ipv6 else [])
        for name in switches if self._policy.forwarding else ():
            if namespace.get_sysctl(name) != "1":
                namespace.set_sysctl(name, "1")
        if ipv6:
            namespace.set_sysctl(f"net/ipv6/conf/{bridge}/disable_ipv6", "0")

    # Containers

    def sandbox(self, container_id: str) -> Sandbox | None:
        return self._sandboxes.get(container_id)

    def attachments(self, container_id: str) -> list[Attachment]:
        return list(self._attachments.get(container_id, {}).values())

    def present(self) -> list[Attachment]:
        """Every endpoint on this node."""
        return [attachment for container_id in list(self._attachments) for attachment in self.attachments(container_id)]

    def prepare(self, container_id: str, attachments: Sequence[Attachment]) -> Sandbox:
        """A configured namespace for a container about to start.

        Raises:
            Conflict: A published port is taken on this node.
        """
        self.release(container_id)
        box = self._pool.take() or sandbox.create_sandbox(self._host)
        self._sandboxes[container_id] = box
        try:
            for attachment in attachments:
                self._connect(container_id, box, attachment)
            if box.spare is not None:
                box.socket().run([links.delete_link(box.spare.index)])
                box.spare = None
        except BaseException:
            self.release(container_id)
            raise
        box.close_socket()
        return box

    def empty(self, container_id: str) -> Sandbox:
        """A namespace with loopback only."""
        self.release(container_id)
        box = sandbox.create_sandbox(None)
        box.close_socket()
        self._sandboxes[container_id] = box
        return box

    def release(self, container_id: str) -> None:
        """Undo `prepare`, `empty` or `adopt`. Idempotent."""
        box = self._sandboxes.pop(container_id, None)
        attachments = self._attachments.pop(container_id, {})
        if box is not None:
            silenced = [links.silence_port(pair.host_index) for pair in box.pairs.values() if pair.host_index]
            with contextlib.suppress(NetlinkError):  # gone with its bridge; the namespace dies all the same
                self._host.run(silenced)
        for attachment in attachments.values():
            self.ports.release(attachment.endpoint_id)
        self._delete(wanted.merge(*map(wanted.port_elements, attachments.values())))
        if box is not None:
            box.close()

    def attach(self, container_id: str, pid: int, attachment: Attachment) -> Sandbox:
        """Connect a running container to one more network. Idempotent per endpoint."""
        box = self._held(container_id, pid)
        if attachment.endpoint_id in box.pairs:
            return box
        try:
            self._connect(container_id, box, attachment)
        except BaseException:
            self.detach(container_id, pid, attachment)
            raise
        finally:
            box.close_socket()
        return box

    def detach(self, container_id: str, pid: int, attachment: Attachment) -> Sandbox:
        """Take a running container off a network. Idempotent."""
        box = self._held(container_id, pid)
        self._attachments.get(container_id, {}).pop(attachment.endpoint_id, None)
        self._delete(wanted.port_elements(attachment))
        self.ports.release(attachment.endpoint_id)
        pair = box.pairs.pop(attachment.endpoint_id, None)
        if pair is not None:
            box.socket().run([links.delete_link(pair.index)])
            self._reroute(container_id, box)
        box.close_socket()
        return box

    def adopt(self, container_id: str, pid: int, attachments: Sequence[Attachment]) -> Sandbox:
        """Take over a running container of an earlier agent: its namespace, links, ports. Changes no packet's way.

        Raises:
            NotFound: The process is gone.
        """
        box = self._held(container_id, pid)
        inside = box.socket()
        claimed: Elements = {}
        for attachment in attachments:
            self._remember(container_id, attachment)
            self.apply(attachment.network)
            link = links.get_link(inside, attachment.interface)
            if link is not None:
                outer = link.peer if attachment.network.driver == "bridge" else 0
                box.pairs[attachment.endpoint_id] = Pair("", outer, link.index, attachment.interface)
            try:
                self.ports.hold(attachment)
            except Conflict as error:
                log.warning("port of a running container is not held on this node: %s", error)
            claimed = wanted.merge(claimed, wanted.port_elements(attachment))
        box.close_socket()
        missing = {name: texts - self._unclaimed.get(name, set()) for name, texts in claimed.items()}
        for name, texts in claimed.items():
            self._unclaimed.get(name, set()).difference_update(texts)
        self._add(missing)
        return box

    def _held(self, container_id: str, pid: int) -> Sandbox:
        box = self._sandboxes.get(container_id)
        if box is None:
            try:
                box = Sandbox(netns_fd=namespace.open_of(pid))
            except OSError as error:
                raise NotFound(f"the network namespace of container {container_id} is gone") from error
            self._sandboxes[container_id] = box
        return box

    def _connect(self, container_id: str, box: Sandbox, attachment: Attachment) -> None:
        network = attachment.network
        self.apply(network)
        self._remember(container_id, attachment)
        self.ports.hold(attachment)
        pair = self._pair(box, attachment)
        box.pairs[attachment.endpoint_id] = pair
        self._configure(box, pair, attachment)
        if network.driver == "bridge":
            self._plug(pair, network)
        self._add(wanted.port_elements(attachment))

    def _remember(self, container_id: str, attachment: Attachment) -> None:
        self._attachments.setdefault(container_id, {})[attachment.endpoint_id] = attachment

    def _pair(self, box: Sandbox, attachment: Attachment) -> Pair:
        network = attachment.network
        if network.driver == "macvlan":
            return self._macvlan(box, attachment)
        if network.driver != "bridge":
            raise Unsupported(f"network driver {network.driver} has no endpoints on a node", field="Driver")
        if box.spare is not None:
            pair, box.spare = box.spare, None
            if pair.interface != attachment.interface:
                _rename(box, pair, attachment.interface)
            if network.mtu != sandbox.DEFAULT_MTU:
                self._host.run([links.set_link(pair.host_index, mtu=network.mtu)])
            return pair
        return sandbox.make_pair(self._host, box.socket(), box.netns_fd, attachment.interface, network.mtu)

    def _macvlan(self, box: Sandbox, attachment: Attachment) -> Pair:
        options = attachment.network.options
        parent = links.get_link(self._host, options.get("parent", ""))
        if parent is None:
            raise InvalidArgument(f"parent interface {options.get('parent')!r} does not exist", field="Options.parent")
        inside = box.socket()
        if box.spare is not None:
            inside.run([links.delete_link(box.spare.index)])
            box.spare = None
        mode = options.get("macvlan_mode", "") or "bridge"
        self._host.run([links.new_macvlan(attachment.interface, parent.index, box.netns_fd, mode)])
        made = links.get_link(inside, attachment.interface)
        if made is None:
            raise OSError(errno.ENODEV, f"interface {attachment.interface} vanished while it was made")
        return Pair("", 0, made.index, attachment.interface)

    def _configure(self, box: Sandbox, pair: Pair, attachment: Attachment) -> None:
        if attachment.address6:
            with namespace.entered(box.netns_fd):
                namespace.set_sysctl(f"net/ipv6/conf/{pair.interface}/disable_ipv6", "0")
        _set_sysctls(box, pair, attachment)
        mtu = attachment.network.mtu if attachment.network.mtu != sandbox.DEFAULT_MTU else 0
        messages = [links.set_link(pair.index, up=True, mac_address=attachment.mac_address, mtu=mtu)]
        messages += [links.add_address(pair.index, cidr) for cidr in _addresses(attachment)]
        if attachment.default_gateway:
            messages += _default_routes(pair, attachment)
        box.socket().run(messages)

    def _plug(self, pair: Pair, network: NodeNetwork) -> None:
        """Put a host end onto its bridge, which is built again should somebody have deleted it meanwhile."""
        try:
            self._host.run(self._plugging(pair, network))
        except NetlinkError as error:
            if error.errno not in (errno.ENODEV, errno.EINVAL):
                raise
            self._ensure_network_links(network)
            self._host.run(self._plugging(pair, network))

    def _plugging(self, pair: Pair, network: NodeNetwork) -> list[Message]:
        messages = [links.set_link(pair.host_index, master=self._bridges[network.bridge])]
        if self._hairpin or not network.icc:
            messages.append(links.port_options(pair.host_index, isolated=not network.icc, hairpin=self._hairpin))
        return messages

    def _reroute(self, container_id: str, box: Sandbox) -> None:
        """The default route went with its link: another endpoint's gateway takes over, as Docker does it."""
        routed: set[int] = set()
        for attachment in sorted(self.attachments(container_id), key=wanted.gateway_rank):
            pair = box.pairs.get(attachment.endpoint_id)
            if pair is None or attachment.network.internal:
                continue
            for gateway in _gateways(attachment):
                version = 6 if ":" in gateway else 4
                if version not in routed:
                    routed.add(version)
                    box.socket().run([links.default_route(pair.index, gateway)])

    # The firewall's elements

    def _elements(self) -> Elements:
        """Everything wanted now, from records alone."""
        live = [
            wanted.port_elements(attachment)
            for attachments in self._attachments.values()
            for attachment in attachments.values()
        ]
        published = wanted.merge(*live)
        taken = {(name, _key(text)) for name, texts in published.items() for text in texts}
        kept = {
            name: {text for text in texts if (name, _key(text)) not in taken} for name, texts in self._unclaimed.items()
        }
        return wanted.merge(wanted.network_elements(self._networks.values()), published, kept)

    def _add(self, elements: Elements) -> None:
        self._change(lambda: self._firewall.change(add=elements), elements)

    def _delete(self, elements: Elements) -> None:
        self._change(lambda: self._firewall.change(remove=elements), elements)

    def _change(self, change: Callable[[], None], elements: Elements) -> None:
        if not any(elements.values()):
            return
        try:
            change()
        except OSError as error:
            # Somebody flushed the table, or an earlier agent's element is in the way.
            log.info("installing the whole firewall table: %s", error)
            self._firewall.install(self._elements())

    # Keeping it so

    def check(self) -> bool:
        """Compare the kernel with the records and put right what differs. Returns whether anything did."""
        repaired = False
        if self._firewall.differs(self._elements()):
            log.warning("the firewall table differs from the records; installing it again")
            self._firewall.install(self._elements())
            repaired = True
        self._quiet_checks += 1
        if self._links_disturbed() or self._quiet_checks >= FULL_CHECK_CHECKS:
            self._quiet_checks = 0
            repaired = self._repair_links() or repaired
        return repaired

    def _links_disturbed(self) -> bool:
        announced = self._announced.drain()
        if announced is None:
            return True
        masters = self._wanted_masters()
        bridges = set(self._bridges.values())
        for kind, payload in announced:
            if kind not in (links.RTM_NEWLINK, links.RTM_DELLINK):
                continue
            link = links.parse_link(payload)
            if link.index in bridges and (kind == links.RTM_DELLINK or not link.up):
                return True
            if link.index in masters and (kind == links.RTM_DELLINK or link.master != masters[link.index]):
                return True
        return False

    def _wanted_masters(self) -> dict[int, int]:
        """Host end -> the bridge it belongs on, by interface index."""
        return {
            pair.host_index: self._bridges.get(attachment.network.bridge, 0)
            for container_id, box in self._sandboxes.items()
            for endpoint_id, pair in box.pairs.items()
            if pair.host_index and (attachment := self._attachments.get(container_id, {}).get(endpoint_id)) is not None
        }

    def _repair_links(self) -> bool:
        repaired = False
        present = {link.index: link for link in links.list_links(self._host)}
        for network in self._networks.values():
            index = self._bridges.get(network.bridge, 0)
            if network.driver == "bridge" and (index not in present or not present[index].up):
                log.warning("bridge %s is gone or down; making it again", network.bridge)
                self._ensure_network_links(network)
                repaired = True
        for container_id, box in list(self._sandboxes.items()):
            for endpoint_id, pair in list(box.pairs.items()):
                attachment = self._attachments.get(container_id, {}).get(endpoint_id)
                if attachment is None or not pair.host_index:
                    continue
                repaired = self._repair_pair(container_id, box, pair, attachment, present) or repaired
        return repaired

    def _repair_pair(
        self, container_id: str, box: Sandbox, pair: Pair, attachment: Attachment, present: dict[int, links.Link]
    ) -> bool:
        link = present.get(pair.host_index)
        if link is not None and link.master == self._bridges.get(attachment.network.bridge):
            return False
        log.warning("container %s lost its link to %s; connecting it again", container_id, attachment.network.name)
        if link is None:
            pair = sandbox.make_pair(
                self._host, box.socket(), box.netns_fd, attachment.interface, attachment.network.mtu
            )
            box.pairs[attachment.endpoint_id] = pair
            self._configure(box, pair, attachment)
        self._plug(pair, attachment.network)
        box.close_socket()
        return True


def _bridges_are_filtered() -> bool:
    """Whether br_netfilter is at work.

    It translates addresses while a frame is still on the bridge, so that a container which calls its own published
    port gets the frame back on the port it came from, and that needs hairpin mode.
    """
    try:
        return namespace.get_sysctl("net/bridge/bridge-nf-call-iptables") == "1"
    except FileNotFoundError:
        return False


def _addresses(attachment: Attachment) -> list[str]:
    return [cidr for cidr in (attachment.address, attachment.address6) if cidr]


def _gateways(attachment: Attachment) -> list[str]:
    network = attachment.network
    pairs = ((attachment.address, network.gateway), (attachment.address6, network.gateway6))
    return [gateway.partition("/")[0] for address, gateway in pairs if address and gateway]


def _rename(box: Sandbox, pair: Pair, name: str) -> None:
    """Give the far end another name, which it can only get while it is down."""
    changes = [links.set_link(pair.index, up=False), links.set_link(pair.index, name=name)]
    box.socket().run([*changes, links.set_link(pair.index, up=True)])
    pair.interface = name


def _set_sysctls(box: Sandbox, pair: Pair, attachment: Attachment) -> None:
    """Settings that the endpoint's options ask for, of its own interface. Raises InvalidArgument."""
    for text in filter(None, attachment.driver_opts.get(SYSCTLS, "").split(",")):
        name, _, value = text.partition("=")
        path = name.replace(".", "/").replace("/IFNAME/", f"/{pair.interface}/")
        try:
            with namespace.entered(box.netns_fd):
                namespace.set_sysctl(path, value)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise InvalidArgument(f"endpoint sysctl {text}: {reason}", field=f"DriverOpts.{SYSCTLS}") from error


def _default_routes(pair: Pair, attachment: Attachment) -> list[Message]:
    if attachment.network.internal:
        return []
    return [links.default_route(pair.index, gateway) for gateway in _gateways(attachment)]


def _key(element: str) -> str:
    return element.partition(" : ")[0]
