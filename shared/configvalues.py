"""Settings whose values have a form of their own: a wrong one is refused when it is read, not when it is first used.

Each check takes a value and returns it, or raises ValueError with the reason; pydantic adds the key.

Source: dockerd reference, "Daemon configuration file"; dockerd's own answers to wrong values.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

from shared.docker.logconfig import check_driver
from shared.docker.sizes import binary_bytes
from shared.errors import InvalidArgument

# The longest of a network with an address for a container beside the gateway's.
LONGEST_PREFIX = 30
# IFNAMSIZ without the final zero byte.
LONGEST_INTERFACE = 15
REGISTRY = re.compile(r"^[A-Za-z0-9][A-Za-z0-9.-]*(?::\d{1,5})?$|^\[[0-9a-fA-F:]+\](?::\d{1,5})?$")


def address(text: str) -> str:
    """An IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address") from None
    return text


def host_in_network(text: str) -> str:
    """An IPv4 address that a host can have, with the length of its network's prefix; or nothing."""
    if not text:
        return text
    try:
        found = ipaddress.IPv4Interface(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IPv4 address with a prefix, as 172.17.0.1/16 is") from None
    if "/" not in text or found.network.prefixlen > LONGEST_PREFIX:
        raise ValueError(f"{text!r} leaves no addresses for containers: its prefix is at most {LONGEST_PREFIX}")
    if found.ip in (found.network.network_address, found.network.broadcast_address):
        raise ValueError(f"{text!r} is the address of a network, not of a host in it")
    return text


def network4(text: str) -> str:
    """An IPv4 network in CIDR notation; or nothing."""
    if not text:
        return text
    try:
        return str(ipaddress.IPv4Network(text))
    except ValueError:
        raise ValueError(f"{text!r} is not an IPv4 network, as 172.17.8.0/21 is") from None


def interface_name(text: str) -> str:
    """A name that an interface can have; or nothing. Source: dev_valid_name() of Linux, net/core/dev.c."""
    if len(text) > LONGEST_INTERFACE or text in (".", "..") or re.search(r"[/:\s]", text):
        raise ValueError(f"{text!r} is not an interface name of at most {LONGEST_INTERFACE} characters")
    return text


def default_network(bridge: str, bip: str, fixed_cidr: str) -> None:
    """That the three settings of the default network go together, in dockerd's words where it has some."""
    if bridge and bip:
        raise ValueError("bridge and bip are mutually exclusive: an existing bridge has its own address")
    if fixed_cidr and bip:
        subnet, part = ipaddress.IPv4Interface(bip).network, ipaddress.IPv4Network(fixed_cidr)
        if not part.subnet_of(subnet):
            raise ValueError(f"fixed-cidr: {fixed_cidr} is not a part of the default network {subnet}")


def pool(base: str, size: int) -> None:
    """An IPv4 network, and the prefix of the networks that are cut from it."""
    try:
        network = ipaddress.IPv4Network(base, strict=False)
    except ValueError:
        raise ValueError(f"base {base!r} is not an IPv4 network, as 172.30.0.0/16 is") from None
    if not network.prefixlen <= size <= LONGEST_PREFIX:
        raise ValueError(f"size {size} is not between the prefix of base {base} and {LONGEST_PREFIX}")


def mirror(url: str) -> str:
    """Where a registry's mirror is: ``https://host[:port]`` or ``http://…``."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment or parts.username is not None or any(map(str.isspace, url)):
        raise ValueError(f"invalid mirror {url!r}: it is not of the form https://host[:port] or http://host[:port]")
    return url


def registry_or_network(text: str) -> str:
    """``host[:port]``, or a network of them in CIDR notation."""
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        if not REGISTRY.match(text):
            raise ValueError(f"insecure registry {text!r} is neither host[:port] nor a network's CIDR") from None
    return text


def label(text: str) -> str:
    """``key=value``."""
    if not text.partition("=")[0] or "=" not in text:
        raise ValueError(f"bad attribute format: {text}: a label is key=value")
    return text


def log_driver(name: str) -> str:
    """A log driver that there is."""
    try:
        check_driver(name, "log-driver")
    except InvalidArgument as error:
        raise ValueError(error.message) from error
    return name


def size(value: int | str) -> int | str:
    """Bytes, or a text such as ``64m``; more than nothing."""
    try:
        number = binary_bytes(value) if isinstance(value, str) else value
    except InvalidArgument as error:
        raise ValueError(error.message) from error
    if number <= 0:
        raise ValueError(f"{value} is not more than 0 bytes")
    return value


Address = Annotated[str, AfterValidator(address)]
Network4 = Annotated[str, AfterValidator(network4)]
InterfaceName = Annotated[str, AfterValidator(interface_name)]
HostInNetwork = Annotated[str, AfterValidator(host_in_network)]
Label = Annotated[str, AfterValidator(label)]
LogDriver = Annotated[str, AfterValidator(log_driver)]
Mirror = Annotated[str, AfterValidator(mirror)]
RegistryOrNetwork = Annotated[str, AfterValidator(registry_or_network)]
Size = Annotated[int | str, AfterValidator(size)]
