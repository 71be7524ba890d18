"""From records to the kernel state they ask for: bridges, and elements of the firewall's sets and maps. Pure.

An element is written as nft(8) writes it (``6 . 8080 : 172.17.0.2 . 80``), protocols as numbers, so that what is
wanted and what the kernel lists can be compared as texts.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from shared.contracts.networks import Attachment, NodeNetwork, PublishedPort
from shared.errors import Unsupported

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
ANY_IPV4 = "0.0.0.0"
ANY_IPV6 = "::"

Elements = dict[str, set[str]]
"""Set or map name -> its elements."""


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge interface. addresses: CIDR texts of the bridge itself."""

    name: str
    mac_address: str
    addresses: tuple[str, ...]
    mtu: int
    icc: bool


def wanted_bridge(network: NodeNetwork) -> Bridge | None:
    """The bridge a network needs on this node; None for drivers without one."""
    if network.driver != "bridge":
        return None
    addresses = tuple(address for address in (network.gateway, network.gateway6) if address)
    return Bridge(network.bridge, bridge_mac(network), addresses, network.mtu, network.icc)


def bridge_mac(network: NodeNetwork) -> str:
    """Locally administered and the same on every rebuild, so that neighbours' caches stay right."""
    return "02:42:" + ":".join(network.id[i : i + 2] for i in range(0, 8, 2))


def network_elements(networks: Iterable[NodeNetwork]) -> Elements:
    """What the firewall must know of the node's bridge networks."""
    wanted: Elements = {}

    def want(name: str, element: str) -> None:
        wanted.setdefault(name, set()).add(element)

    for network in networks:
        if network.driver != "bridge":
            continue
        bridge = f'"{network.bridge}"'
        want("bridges", bridge)
        want("within", f"{bridge} . {bridge}")
        if network.internal:
            want("internal", bridge)
        for family, subnet in ((4, network.subnet), (6, network.subnet6)):
            if not subnet:
                continue
            subnet = str(ipaddress.ip_network(subnet, strict=False))  # noqa: PLW2901
            want(f"own{family}", f"{bridge} . {subnet}")
            if network.masquerade and not network.internal:
                want(f"masquerade{family}", subnet)
    return wanted


def port_elements(attachment: Attachment) -> Elements:
    """The address translations of an endpoint's published ports.

    A port published on an IPv6 address for a container without one has none: the node's proxy carries it.
    """
    wanted: Elements = {}
    for port in attachment.ports:
        version = ipaddress.ip_address(port.host_ip).version
        target = _address(attachment.address if version == 4 else attachment.address6)
        if not target:
            continue
        name, key = _port_key(port, version)
        wanted.setdefault(name, set()).add(f"{key} : {target} . {port.container_port}")
    return wanted


def _port_key(port: PublishedPort, version: int) -> tuple[str, str]:
    if port.protocol not in PROTOCOLS:
        raise Unsupported(f"invalid proto: {port.protocol}", field="PortBindings")
    key = f"{PROTOCOLS[port.protocol]} . {port.host_port}"
    if port.host_ip in (ANY_IPV4, ANY_IPV6):
        return f"publish{version}_any", key
    return f"publish{version}", f"{ipaddress.ip_address(port.host_ip)} . {key}"


def needs_proxy(attachment: Attachment, port: PublishedPort) -> bool:
    """Whether some of a port's traffic cannot be translated in the kernel: IPv6 to an IPv4 container, and ``::1``."""
    return ipaddress.ip_address(port.host_ip).version == 6 and bool(attachment.address or attachment.address6)


def merge(*parts: Elements) -> Elements:
    merged: Elements = {}
    for part in parts:
        for name, elements in part.items():
            merged.setdefault(name, set()).update(elements)
    return merged


def _address(cidr: str) -> str:
    return cidr.partition("/")[0]


def gateway_rank(attachment: Attachment) -> tuple[bool, int, str]:
    """The order in which endpoints get the default route: who has it, then priority, then the network's name."""
    return (not attachment.default_gateway, -attachment.gw_priority, attachment.network.name)


def elect_gateway(attachments: list[Attachment]) -> None:
    """Let the next one have the default route when who had it is gone, also at the container's next start."""
    candidates = [
        one for one in attachments if not one.network.internal and (one.network.gateway or one.network.gateway6)
    ]
    if candidates and not any(one.default_gateway for one in attachments):
        min(candidates, key=gateway_rank).default_gateway = True
