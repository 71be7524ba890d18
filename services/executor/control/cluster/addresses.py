"""The address at which other machines reach this one.

Source: Docker Engine API 1.50, SwarmInit (AdvertiseAddr); the texts are Docker's, since its client adds a hint to them.
"""

from __future__ import annotations

import ipaddress
import socket

from shared.cluster.membership import split_address
from shared.errors import InvalidArgument


def advertised(wanted: str, default_port: int) -> tuple[str, int]:
    """Address and port from ``address``, ``address:port``, an interface's name, or nothing.

    Raises:
        InvalidArgument: There is no such address, or several and none was named.
    """
    try:
        host, port = split_address(wanted, default_port) if wanted else ("", default_port)
    except ValueError as error:
        raise InvalidArgument(f"advertise address must be a non-zero IP address or network interface: {wanted}",
                              field="AdvertiseAddr") from error  # fmt: skip
    host = host.strip("[]")
    if host:
        return _named(host), port
    found = [address for addresses in own_addresses().values() for address in addresses]
    if len(found) == 1:
        return found[0], port
    if not found:
        raise InvalidArgument("could not find the system's IP address - specify one with --advertise-addr",
                              field="AdvertiseAddr")  # fmt: skip
    raise InvalidArgument(
        "could not choose an IP address to advertise since this system has multiple addresses "
        f"({', '.join(found)}) - specify one with --advertise-addr",
        field="AdvertiseAddr",
    )


def _named(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError as error:
        on_interface = own_addresses().get(host)
        if not on_interface:
            raise InvalidArgument(
                f"advertise address must be a non-zero IP address or network interface (with optional port number): "
                f"{host}",
                field="AdvertiseAddr",
            ) from error
        return on_interface[0]
    if address.is_unspecified:
        raise InvalidArgument(
            "advertise address must be a non-zero IP address or network interface (with optional port number)",
            field="AdvertiseAddr",
        )
    return str(address)


def own_addresses() -> dict[str, list[str]]:
    """IPv4 addresses by interface, of those that lead to other machines."""
    import psutil  # a process that founds no cluster does without it

    found: dict[str, list[str]] = {}
    for interface, addresses in psutil.net_if_addrs().items():
        if interface == "lo" or interface.startswith(("br-", "docker", "veth", "davit", "dv")):
            continue
        usable = [one.address for one in addresses if one.family == socket.AF_INET]
        if usable:
            found[interface] = usable
    return found
