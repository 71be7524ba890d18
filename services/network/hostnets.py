"""Which subnets this machine uses already, and claims on new ones against other engines of its network namespace.

A subnet counts as used when a route leads to it. Between the choice of a subnet and the bridge that gets it there is
none yet; for that time, and as long as this process lives, a claim is an abstract unix socket of the subnet's name:
the kernel keeps those apart by network namespace, and gives each name to one process.

Source: proc_net_route (Documentation/networking/proc_net_route or net/ipv4/fib_trie.c of Linux); unix(7).
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterable
from pathlib import Path

from services.network.ipam import Net
from shared.errors import InvalidArgument

ROUTES = Path("/proc/net/route")
_DESTINATION, _MASK = 1, 7


class HostSubnets:
    """Subnets of one network namespace, as the process in it sees them."""

    def __init__(self) -> None:
        self._claims: dict[Net, socket.socket] = {}

    def in_use(self) -> list[Net]:
        """IPv4 subnets that a route leads to, the default route aside."""
        found: list[Net] = []
        for line in ROUTES.read_text().splitlines()[1:]:
            fields = line.split("\t")
            address, mask = (int.from_bytes(bytes.fromhex(fields[at]), "little") for at in (_DESTINATION, _MASK))
            if mask:
                found.append(ipaddress.IPv4Network((address, mask.bit_count()), strict=False))
        return found

    def claim(self, subnet: Net) -> bool:
        """Claim a subnet for this process; False when another one has it."""
        if subnet in self._claims:
            return True
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0davit-subnet-{subnet}")
        except OSError:
            claim.close()
            return False
        self._claims[subnet] = claim
        return True

    def hold(self, subnets: Iterable[Net]) -> None:
        """Claim what is ours already, as far as no copy of this service has."""
        for subnet in subnets:
            self.claim(subnet)

    def release(self, subnets: Iterable[Net]) -> None:
        for subnet in subnets:
            with contextlib.suppress(KeyError):
                self._claims.pop(subnet).close()

    def close(self) -> None:
        self.release(list(self._claims))


def address_of(interface: str) -> str:
    """The first IPv4 address of an interface with its prefix (``10.0.0.1/24``).

    Raises:
        InvalidArgument: There is no such interface, or it has none.
    """
    import psutil

    for address in psutil.net_if_addrs().get(interface, []):
        if address.family == socket.AF_INET and address.netmask:
            return str(ipaddress.IPv4Interface(f"{address.address}/{address.netmask}"))
    raise InvalidArgument(f"bridge: {interface} does not exist or has no IPv4 address", field="bridge")
