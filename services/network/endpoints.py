"""Deciding a container's endpoints: addresses, MAC, names, default gateway, ports. Pure.

Source: Docker Engine API 1.50, EndpointSettings; error texts of the reference engine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from services.network import ipam, ports
from services.network.domain import CONTAINER_PREFIX, LONGEST_INTERFACE, NetworkRecord
from services.network.ipam import Pool
from services.network.sql import KnownNetwork, Occupancy
from shared.contracts.docker import EndpointSettings, PortMap
from shared.contracts.networks import IFNAME, SYSCTLS, Attachment
from shared.docker.addresses import check_mac, normal_mac
from shared.errors import InvalidArgument, NotFound

SHORT_ID = 12
SYSCTL = re.compile(r"net\.[a-z0-9_]+\.[a-z0-9_]+\.IFNAME\.[a-z0-9_]+=[^=]+")


@dataclass(frozen=True, slots=True)
class Asker:
    """Whose endpoints."""

    container_id: str
    name: str
    hostname: str


@dataclass(slots=True)
class Wanted:
    """One endpoint to make."""

    place: Occupancy
    settings: EndpointSettings
    links: dict[str, str] = field(default_factory=dict)


def interface_names(asked: Sequence[tuple[NetworkRecord, EndpointSettings]], present: Iterable[str]) -> list[str]:
    """What the endpoints' interfaces are called inside: as asked for, else the network's prefix and a number.

    Args:
        present: Names that the container's interfaces have.

    Raises:
        InvalidArgument: A name that no interface can have, or that another has.
    """
    used = set(present)
    wishes = [settings.driver_opts.get(IFNAME, "") for _, settings in asked]
    for wish in filter(None, wishes):
        if len(wish) > LONGEST_INTERFACE or wish in (".", "..", "lo") or re.search(r"[\s/:]", wish):
            raise InvalidArgument(f"invalid interface name: {wish!r}", field=f"DriverOpts.{IFNAME}")
        if wish in used:
            raise InvalidArgument(f"interface name {wish} is taken in this container", field=f"DriverOpts.{IFNAME}")
        used.add(wish)
    names = []
    for (record, _), wish in zip(asked, wishes, strict=True):
        prefix = record.options.get(CONTAINER_PREFIX, "") or "eth"
        name = wish or next(f"{prefix}{number}" for number in range(len(used) + 1) if f"{prefix}{number}" not in used)
        used.add(name)
        names.append(name)
    return names


def new_endpoint(asker: Asker, wanted: Wanted, interface: str, endpoint_id: str) -> Attachment:
    """An endpoint with its addresses chosen; ports and gateway are decided over all of a container's endpoints.

    Raises:
        InvalidArgument, Forbidden: In Docker's words.
    """
    network, settings = wanted.place.network, wanted.settings
    record = network.record
    _check(network, settings)
    if record.driver in ("host", "null"):
        return Attachment(
            endpoint_id=endpoint_id,
            container_id=asker.container_id,
            container_name=asker.name,
            network=network.node_view,
            interface="",
            default_gateway=False,
        )
    wish = settings.ipam_config
    four = _address(wanted.place, network.four, wish.ipv4_address if wish else "")
    six = _address(wanted.place, network.six, wish.ipv6_address if wish else "")
    address = four.partition("/")[0]
    return Attachment(
        endpoint_id=endpoint_id,
        container_id=asker.container_id,
        container_name=asker.name,
        network=network.node_view,
        interface=interface,
        gw_priority=settings.gw_priority,
        mac_address=normal_mac(settings.mac_address) or ipam.mac_address(address, endpoint_id),
        address=four,
        address6=six,
        default_gateway=False,
        dns_names=dns_names(asker, settings) if record.has_names else [],
        links=wanted.links,
        driver_opts=settings.driver_opts,
    )


def _check(network: KnownNetwork, settings: EndpointSettings) -> None:
    wish = settings.ipam_config
    fixed = bool(wish and (wish.ipv4_address or wish.ipv6_address))
    record = network.record
    if wish and wish.link_local_ips:
        raise InvalidArgument("link-local addresses are not supported", field="IPAMConfig.LinkLocalIPs")
    if record.predefined and fixed:
        raise InvalidArgument(
            "user specified IP address is supported on user defined networks only", field="IPAMConfig"
        )
    if record.predefined and settings.aliases:
        raise InvalidArgument(
            "network-scoped alias is supported only for containers in user defined networks", field="Aliases"
        )
    if record.config_only:
        raise InvalidArgument(f"network {record.name} is a configuration network and has no endpoints")
    check_mac(settings.mac_address, "MacAddress")
    for text in filter(None, settings.driver_opts.get(SYSCTLS, "").split(",")):
        if not SYSCTL.fullmatch(text):
            raise InvalidArgument(
                f"invalid endpoint sysctl: {text}: it is net.<family>.<group>.IFNAME.<name>=<value>",
                field=f"DriverOpts.{SYSCTLS}",
            )


def _address(place: Occupancy, pool: Pool | None, wish: str) -> str:
    """An address with prefix length, empty for a family that the network does not have."""
    if wish:
        record = place.network.record
        address = ipam.check_wish(pool, wish, place.addresses, configured=record.user_pools)
        return pool.cidr(address) if pool else ""
    if pool is None:
        return ""
    address = ipam.allocate(pool, place.addresses, f"{place.network.record.name} ({place.network.record.id})")
    # The next endpoint of the same request must not get it too.
    place.addresses.add(str(address))
    return pool.cidr(address)


def dns_names(asker: Asker, settings: EndpointSettings) -> list[str]:
    """Docker's DNSNames: container name, aliases, short id, hostname; each once."""
    names = [asker.name, *settings.aliases, asker.container_id[:SHORT_ID], asker.hostname]
    return [name for name in dict.fromkeys(names) if name]


def choose_gateway(attachments: Sequence[tuple[Attachment, int]]) -> Attachment | None:
    """The endpoint with the default route: highest priority, then the network name that sorts first."""
    candidates = [
        (-priority, attachment.network.name, attachment)
        for attachment, priority in attachments
        if not attachment.network.internal and (attachment.network.gateway or attachment.network.gateway6)
    ]
    return min(candidates, key=lambda candidate: candidate[:2])[2] if candidates else None


def port_wishes(
    attachment: Attachment, asked: PortMap, exposed: Iterable[str], *, publish_all: bool
) -> list[ports.Wish]:
    """What host ports an endpoint is to have, with its network's default address."""
    default = attachment.network.host_binding_ip
    default = "" if default == ports.ANY[4] else default
    return ports.wishes(asked, exposed, default, publish_all=publish_all)


def resolve_links(place: Occupancy, links: Iterable[str], find: Callable[[str], Attachment | None]) -> dict[str, str]:
    """``container:alias`` texts -> alias -> what it stands for.

    On user-defined networks that is the container's name, resolved when asked for; on the default bridge its address,
    which the container's short id and name stand for too: a line of /etc/hosts.

    Raises:
        NotFound: On the default bridge, the container is not on it.
    """
    found: dict[str, str] = {}
    for text in links:
        target, _, alias = text.lstrip("/").partition(":")
        alias = alias.rpartition("/")[2] or target
        if place.network.record.has_names:
            found[alias] = target
            continue
        other = find(target)
        if other is None:
            raise NotFound(f"Cannot link to a non running container: /{target}", field="Links")
        names = " ".join(dict.fromkeys((alias, other.container_id[:SHORT_ID], other.container_name)))
        found[names] = other.address.partition("/")[0]
    return found


def same_wish(one: EndpointSettings, other: EndpointSettings) -> bool:
    """Whether the same is asked for, whatever was given."""
    asked = {"ipam_config", "links", "aliases", "driver_opts", "gw_priority"}
    if other.mac_address and normal_mac(other.mac_address) != normal_mac(one.mac_address):
        return False
    return one.model_dump(include=asked) == other.model_dump(include=asked)


def settings_view(attachment: Attachment, asked: EndpointSettings) -> EndpointSettings:
    """What `docker inspect` shows of an endpoint."""
    address, _, prefix = attachment.address.partition("/")
    address6, _, prefix6 = attachment.address6.partition("/")
    network = attachment.network
    return asked.model_copy(
        update={
            "network_id": network.id,
            "endpoint_id": attachment.endpoint_id,
            "mac_address": attachment.mac_address,
            "ip_address": address,
            "ip_prefix_len": int(prefix or 0),
            "gateway": network.gateway.partition("/")[0] if address and not network.internal else "",
            "global_ipv6_address": address6,
            "global_ipv6_prefix_len": int(prefix6 or 0),
            "ipv6_gateway": network.gateway6.partition("/")[0] if address6 and not network.internal else "",
            "dns_names": attachment.dns_names,
        }
    )
