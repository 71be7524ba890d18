"""Address pools and addresses: which subnet a network gets, and which address an endpoint. Pure.

Source: Docker's IPAM as the reference engine behaves, and the dockerd reference on ``default-address-pools``.
"""

from __future__ import annotations

import hashlib
import ipaddress
import socket
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field

from shared.contracts.networks import IpamPool
from shared.errors import Forbidden, InvalidArgument, NotFound

Net = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# (base, prefix length of each network): Docker's defaults.
DEFAULT_POOLS: tuple[tuple[str, int], ...] = (
    *((f"172.{second}.0.0/16", 16) for second in range(17, 32)),
    ("192.168.0.0/16", 20),
)
OVERLAP = "Pool overlaps with other one on this address space"


@dataclass(frozen=True, slots=True)
class Pool:
    """One family's addresses of a network.

    Attributes:
        range: Where endpoints without a wish get theirs; the subnet, or a part of it.
        reserved: Auxiliary addresses by name, never handed out.
    """

    subnet: Net
    range: Net
    gateway: Address
    reserved: dict[str, Address] = field(default_factory=dict)

    def cidr(self, address: Address) -> str:
        return f"{address}/{self.subnet.prefixlen}"

    def offset(self, address: Address) -> int:
        """The address's number in the subnet, 0 being the network's own."""
        return int(address) - int(self.subnet.network_address)

    def view(self) -> IpamPool:
        """As `docker network inspect` shows it."""
        return IpamPool(
            subnet=str(self.subnet),
            ip_range=str(self.range) if self.range != self.subnet else "",
            gateway=str(self.gateway),
            aux={name: str(address) for name, address in self.reserved.items()},
        )


def parse_pool(wanted: IpamPool) -> Pool:
    """A pool as asked for; the gateway is the first address unless one is named.

    Raises:
        InvalidArgument: In Docker's words.
    """
    try:
        subnet = ipaddress.ip_network(wanted.subnet, strict=False)
    except ValueError as error:
        raise InvalidArgument(
            f"Invalid subnet {wanted.subnet} : invalid CIDR address: {wanted.subnet}", field="IPAM.Config.Subnet"
        ) from error
    if "/" not in wanted.subnet:
        raise InvalidArgument(
            f"Invalid subnet {wanted.subnet} : invalid CIDR address: {wanted.subnet}", field="IPAM.Config.Subnet"
        )
    within = subnet
    if wanted.ip_range:
        within = _parse_range(wanted.ip_range, subnet)
    gateway = _parse_member(wanted.gateway, subnet, "gateway") if wanted.gateway else _first(subnet, within)
    reserved = {
        name: _parse_member(address, subnet, f"auxiliary address {name}") for name, address in wanted.aux.items()
    }
    if gateway in reserved.values():
        raise InvalidArgument(f"failed to allocate secondary ip address ({gateway}): Address already in use")
    return Pool(subnet, within, gateway, reserved)


def _parse_range(text: str, subnet: Net) -> Net:
    try:
        found = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise InvalidArgument(
            f"Invalid subPool {text}, it does not belong to the network subnet", field="IPAM.Config.IPRange"
        ) from error
    if found.version != subnet.version or not found.subnet_of(subnet):  # type: ignore[arg-type]  # versions agree
        raise InvalidArgument(
            f"invalid ip-range {text}: parent subnet {subnet} doesn't contain it", field="IPAM.Config.IPRange"
        )
    return found


def _parse_member(text: str, subnet: Net, what: str) -> Address:
    try:
        address = ipaddress.ip_address(text.partition("/")[0])
    except ValueError as error:
        raise InvalidArgument(f"invalid {what} address {text}", field="IPAM.Config") from error
    if address not in subnet:
        raise InvalidArgument(
            f"failed to allocate {what} ({text}): Requested address is out of range", field="IPAM.Config"
        )
    return address


def _first(subnet: Net, within: Net) -> Address:
    first = within.network_address
    if first == subnet.network_address and subnet.num_addresses > 2:
        first += 1
    return first


def choose_subnet(pools: Sequence[tuple[str, int]], taken: Iterable[Net]) -> Net:
    """The first free network of the configured pools.

    Raises:
        NotFound: All are taken, in Docker's words.
    """
    used = [net for net in taken if net.version == 4]
    for base, size in pools:
        for candidate in ipaddress.ip_network(base, strict=False).subnets(new_prefix=size):
            if not any(candidate.overlaps(net) for net in used):
                return candidate
    raise NotFound(
        "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network"
    )


def unique_local_subnet(network_id: str) -> ipaddress.IPv6Network:
    """A /64 for a network that wants IPv6 and names none. Source: RFC 4193, section 3.2."""
    digest = hashlib.sha256(network_id.encode()).digest()[:7]
    return ipaddress.IPv6Network((b"\xfd" + digest + b"\0" * 8, 64))


def check_overlap(subnet: Net, taken: Iterable[Net]) -> None:
    """Raises Forbidden, in Docker's words."""
    if any(net.version == subnet.version and net.overlaps(subnet) for net in taken):
        raise Forbidden(OVERLAP, field="IPAM.Config.Subnet")


def allocate(pool: Pool, used: Set[str], network: str) -> Address:
    """The lowest free address of the pool's range.

    Args:
        used: Addresses that endpoints have.
        network: The network's name, for the error.

    Raises:
        Forbidden: None is left.
    """
    first = int(pool.subnet.network_address)
    reserved = {pool.offset(address) for address in (pool.gateway, *pool.reserved.values())}
    family = socket.AF_INET if pool.subnet.version == 4 else socket.AF_INET6
    length = pool.subnet.max_prefixlen // 8
    for offset in _candidates(pool):
        # Texts are compared, made without an address object: on a full network this runs for every endpoint there is.
        text = socket.inet_ntop(family, (first + offset).to_bytes(length, "big"))
        if text not in used and offset not in reserved:
            return pool.subnet.network_address + offset
    raise Forbidden(f"no available IPv{pool.subnet.version} addresses on this network's address pools: {network}")


def _candidates(pool: Pool) -> Iterator[int]:
    """Offsets that may be handed out: neither the network's own address nor, for IPv4, the broadcast address."""
    first = pool.offset(pool.range.network_address)
    last = first + pool.range.num_addresses - 1
    size = pool.subnet.num_addresses
    if size > 2:
        first = max(first, 1)
        if pool.subnet.version == 4:
            last = min(last, size - 2)
    return iter(range(first, last + 1))


def check_wish(pool: Pool | None, text: str, used: Set[str], *, configured: bool) -> Address:
    """A fixed address that an endpoint asks for.

    Args:
        configured: Whether the user chose the network's subnet.

    Raises:
        InvalidArgument, Forbidden: In Docker's words.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise InvalidArgument(f"invalid IP address: {text}", field="IPAMConfig") from error
    if not configured:
        raise InvalidArgument(
            "user specified IP address is supported only when connecting to networks with user configured subnets",
            field="IPAMConfig",
        )
    if pool is None or address not in pool.subnet:
        raise InvalidArgument(
            f"Invalid address {address}: It does not belong to any of this network's subnets", field="IPAMConfig"
        )
    taken = str(address) in used or address == pool.gateway or address in pool.reserved.values()
    if taken or _is_everybodys(address, pool.subnet):
        raise Forbidden("Address already in use", field="IPAMConfig")
    return address


def _is_everybodys(address: Address, subnet: Net) -> bool:
    """Whether it stands for the subnet itself or for all in it (RFC 919; not in those of RFC 3021)."""
    if subnet.version != 4 or subnet.num_addresses <= 2:
        return False
    return address in (subnet.network_address, subnet.broadcast_address)


def mac_address(address: str, endpoint_id: str) -> str:
    """Docker's MAC: made from the IPv4 address, so that neighbours' caches stay right when it is used again."""
    tail = ipaddress.IPv4Address(address).packed if address else bytes.fromhex(endpoint_id[:8])
    return (b"\x02\x42" + tail).hex(":")
