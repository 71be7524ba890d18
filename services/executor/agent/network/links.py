"""Messages for links, addresses and routes, and what the kernel says of its links.

Every function that changes something returns a `Message`, so that a caller sends several in one system call.

Source: rtnetlink(7); include/uapi/linux/if_link.h, if_bridge.h and veth.h of Linux 6.1.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from dataclasses import dataclass

from services.executor.agent.network import netlink
from services.executor.agent.network.netlink import Message, Netlink, NetlinkError, attribute, nested, text, u8, u32

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE = 24
RTNLGRP_LINK = 1

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_PROTINFO, IFLA_LINKINFO = 1, 3, 4, 5, 10, 12, 18
IFLA_AF_SPEC, IFLA_NET_NS_FD, IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES = 26, 28, 31, 32
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
IFLA_INET6_ADDR_GEN_MODE = 8
IN6_ADDR_GEN_MODE_NONE = 1
VETH_INFO_PEER = 1
IFLA_MACVLAN_MODE = 1
MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
IFLA_BRPORT_STATE, IFLA_BRPORT_MODE, IFLA_BRPORT_FLUSH, IFLA_BRPORT_ISOLATED = 1, 4, 24, 33
BR_STATE_DISABLED = 0
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS = 1, 2, 4, 8
IFA_F_NODAD = 0x02
RTA_OIF, RTA_GATEWAY = 4, 5
RT_TABLE_MAIN, RTPROT_BOOT, RTN_UNICAST = 254, 3, 1
IFF_UP = 1

IFINFO = struct.Struct("=BxHiII")
IFADDR = struct.Struct("=BBBBI")
RTMSG = struct.Struct("=BBBBBBBBI")

GONE = (errno.ENODEV,)


@dataclass(frozen=True, slots=True)
class Link:
    """A link as the kernel reports it. master, peer: interface indexes, 0 for none; kind: ``bridge``, ``veth``, …"""

    index: int
    name: str
    up: bool
    master: int
    peer: int
    mtu: int
    kind: str
    mac_address: str


def _ifinfo(index: int, *, flags: int = 0, change: int = 0, family: int = socket.AF_UNSPEC) -> bytes:
    return IFINFO.pack(family, 0, index, flags, change)


def _mac(value: str) -> bytes:
    return bytes.fromhex(value.replace(":", ""))


def new_bridge(name: str, mac_address: str, mtu: int) -> Message:
    """A bridge with a fixed MAC: one that is left to the kernel changes whenever a port comes or goes."""
    payload = (
        _ifinfo(0)
        + text(IFLA_IFNAME, name)
        + u32(IFLA_MTU, mtu)
        + attribute(IFLA_ADDRESS, _mac(mac_address))
        + nested(IFLA_LINKINFO, text(IFLA_INFO_KIND, "bridge"))
    )
    return Message(RTM_NEWLINK, payload, netlink.NLM_F_CREATE | netlink.NLM_F_EXCL, (errno.EEXIST,))


def new_veth(name: str, peer: str, peer_namespace: int, *, mtu: int = 1500) -> Message:
    """A pair: `name` in the socket's namespace, up at once; `peer` in another's (a file descriptor), down.

    One queue each: per-CPU queues cost memory and bring a veth pair nothing.
    """
    queues = u32(IFLA_NUM_TX_QUEUES, 1) + u32(IFLA_NUM_RX_QUEUES, 1) + u32(IFLA_MTU, mtu)
    far_end = _ifinfo(0) + text(IFLA_IFNAME, peer) + u32(IFLA_NET_NS_FD, peer_namespace) + queues
    info = nested(IFLA_LINKINFO, text(IFLA_INFO_KIND, "veth"), nested(IFLA_INFO_DATA, nested(VETH_INFO_PEER, far_end)))
    return Message(
        RTM_NEWLINK, _ifinfo(0) + text(IFLA_IFNAME, name) + queues + info, netlink.NLM_F_CREATE | netlink.NLM_F_EXCL
    )


def new_macvlan(name: str, parent: int, namespace: int, mode: str) -> Message:
    info = nested(
        IFLA_LINKINFO,
        text(IFLA_INFO_KIND, "macvlan"),
        nested(IFLA_INFO_DATA, u32(IFLA_MACVLAN_MODE, MACVLAN_MODES[mode])),
    )
    payload = _ifinfo(0) + text(IFLA_IFNAME, name) + u32(IFLA_LINK, parent) + u32(IFLA_NET_NS_FD, namespace) + info
    return Message(RTM_NEWLINK, payload, netlink.NLM_F_CREATE | netlink.NLM_F_EXCL)


def set_link(
    index: int,
    *,
    up: bool | None = None,
    master: int | None = None,
    mac_address: str = "",
    mtu: int = 0,
    name: str = "",
    link_local: bool = True,
) -> Message:
    """Change what is given. master 0: off its bridge; `link_local=False` keeps IPv6 from inventing addresses."""
    payload = _ifinfo(index, flags=IFF_UP if up else 0, change=IFF_UP if up is not None else 0)
    if name:
        payload += text(IFLA_IFNAME, name)
    if master is not None:
        payload += u32(IFLA_MASTER, master)
    if mac_address:
        payload += attribute(IFLA_ADDRESS, _mac(mac_address))
    if mtu:
        payload += u32(IFLA_MTU, mtu)
    if not link_local:
        mode = u8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE)
        payload += nested(IFLA_AF_SPEC, nested(socket.AF_INET6, mode))
    return Message(RTM_SETLINK, payload)


def delete_link(index: int) -> Message:
    return Message(RTM_DELLINK, _ifinfo(index), tolerate=GONE)


def port_options(index: int, *, isolated: bool, hairpin: bool) -> Message:
    """Options of a bridge port.

    Args:
        isolated: Keep it from talking to other isolated ports: inter-container communication off.
        hairpin: Let it hear what it sent itself, after a translation.
    """
    options = nested(IFLA_PROTINFO, u8(IFLA_BRPORT_MODE, hairpin), u8(IFLA_BRPORT_ISOLATED, isolated))
    return Message(RTM_SETLINK, _ifinfo(index, family=socket.AF_BRIDGE) + options)


def silence_port(index: int) -> Message:
    """Shut a bridge port and forget what was learned on it.

    The namespace behind it dies some time later, in the kernel's own time; until then nothing in it may answer for
    an address that the next container already has. Deleting the link would wait for an RCU grace period.
    """
    shut = nested(IFLA_PROTINFO, u8(IFLA_BRPORT_STATE, BR_STATE_DISABLED), attribute(IFLA_BRPORT_FLUSH, b""))
    tolerate = (errno.ENODEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENETDOWN)
    return Message(RTM_SETLINK, _ifinfo(index, family=socket.AF_BRIDGE) + shut, tolerate=tolerate)


def add_address(index: int, cidr: str) -> Message:
    """An address with its prefix length; IPv4 with its broadcast address, IPv6 without duplicate detection."""
    interface = ipaddress.ip_interface(cidr)
    packed = interface.ip.packed
    payload = attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
    if isinstance(interface, ipaddress.IPv4Interface):
        family, flags = socket.AF_INET, 0
        if interface.network.prefixlen < 31:
            payload += attribute(IFA_BROADCAST, interface.network.broadcast_address.packed)
    else:
        # The engine hands every address out once; probing would leave it unusable for the first second.
        family, flags = socket.AF_INET6, IFA_F_NODAD
        payload += u32(IFA_FLAGS, IFA_F_NODAD)
    head = IFADDR.pack(family, interface.network.prefixlen, flags, 0, index)
    return Message(RTM_NEWADDR, head + payload, netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE, (errno.EEXIST,))


def delete_address(index: int, cidr: str) -> Message:
    interface = ipaddress.ip_interface(cidr)
    family = socket.AF_INET if interface.version == 4 else socket.AF_INET6
    head = IFADDR.pack(family, interface.network.prefixlen, 0, 0, index)
    return Message(RTM_DELADDR, head + attribute(IFA_LOCAL, interface.ip.packed), tolerate=(errno.EADDRNOTAVAIL,))


def default_route(index: int, gateway: str) -> Message:
    """The default route of the gateway's family; without a gateway, straight onto the link."""
    address = ipaddress.ip_address(gateway)
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    head = RTMSG.pack(family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST, 0)
    payload = head + u32(RTA_OIF, index) + attribute(RTA_GATEWAY, address.packed)
    return Message(RTM_NEWROUTE, payload, netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE)


def get_link(kernel: Netlink, name: str) -> Link | None:
    """The link of that name, or None."""
    try:
        answers = kernel.ask(Message(RTM_GETLINK, _ifinfo(0) + text(IFLA_IFNAME, name)))
    except NetlinkError as error:
        if error.errno == errno.ENODEV:
            return None
        raise
    return parse_link(answers[0][1])


def list_links(kernel: Netlink) -> list[Link]:
    return [parse_link(payload) for _, payload in kernel.ask(Message(RTM_GETLINK, _ifinfo(0)), dump=True)]


def list_addresses(kernel: Netlink) -> dict[int, set[str]]:
    """Addresses with prefix lengths by interface index."""
    found: dict[int, set[str]] = {}
    for _, payload in kernel.ask(Message(RTM_GETADDR, IFADDR.pack(0, 0, 0, 0, 0)), dump=True):
        _, prefix, _, _, index = IFADDR.unpack_from(payload)
        parts = netlink.attributes(payload[IFADDR.size :])
        packed = parts.get(IFA_LOCAL) or parts.get(IFA_ADDRESS)
        if packed:
            found.setdefault(index, set()).add(f"{ipaddress.ip_address(packed)}/{prefix}")
    return found


def parse_link(payload: bytes) -> Link:
    """A link out of the payload of an RTM_NEWLINK or RTM_DELLINK message."""
    _, _, index, flags, _ = IFINFO.unpack_from(payload)
    parts = netlink.attributes(payload[IFINFO.size :])

    def number(kind: int) -> int:
        return int(struct.unpack("=I", parts[kind])[0]) if kind in parts else 0

    info = netlink.attributes(parts.get(IFLA_LINKINFO, b""))
    return Link(
        index=index,
        name=parts.get(IFLA_IFNAME, b"").rstrip(b"\0").decode(),
        up=bool(flags & IFF_UP),
        master=number(IFLA_MASTER),
        peer=number(IFLA_LINK),
        mtu=number(IFLA_MTU),
        kind=info.get(IFLA_INFO_KIND, b"").rstrip(b"\0").decode(),
        mac_address=parts.get(IFLA_ADDRESS, b"").hex(":"),
    )
