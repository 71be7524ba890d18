"""Which host ports an endpoint gets. Pure.

Source: Docker's port bindings as the reference engine behaves: host port empty, a number, or a range.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from shared.contracts.docker import PortBinding, PortMap
from shared.contracts.networks import PublishedPort
from shared.errors import Conflict, InvalidArgument

EPHEMERAL = range(32768, 61000)
PROTOCOLS = ("tcp", "udp", "sctp")
ANY = {4: "0.0.0.0", 6: "::"}

Taken = dict[tuple[str, int], set[str]]
"""(protocol, host port) -> the host addresses it is taken on."""


@dataclass(frozen=True, slots=True)
class Wish:
    """One binding as asked for. addresses: every host address it is for; the ports allowed, none for any."""

    protocol: str
    container_port: int
    addresses: tuple[str, ...]
    allowed: range | None
    text: str


def parse_container_port(text: str) -> tuple[int, str]:
    """``80/tcp`` -> (80, "tcp"). Raises InvalidArgument."""
    number, _, protocol = text.partition("/")
    protocol = protocol.lower() or "tcp"
    if protocol not in PROTOCOLS:
        raise InvalidArgument(f"invalid proto: {protocol}", field="PortBindings")
    return _number(number, text), protocol


def wishes(ports: PortMap, exposed: Iterable[str], default_address: str, *, publish_all: bool) -> list[Wish]:
    """What is asked for, binding by binding.

    Args:
        default_address: Where bindings without an address go; empty for all addresses of both families.
    """
    bindings = {key: list(values) for key, values in ports.items()}
    if publish_all:
        for key in exposed:
            if not bindings.get(key):
                bindings[key] = [PortBinding()]
    found: list[Wish] = []
    for key in sorted(bindings, key=parse_container_port):
        number, protocol = parse_container_port(key)
        for binding in bindings[key]:
            addresses = _addresses(binding.host_ip or default_address)
            found.append(Wish(protocol, number, addresses, _allowed(binding.host_port), binding.host_port))
    return found


def _addresses(text: str) -> tuple[str, ...]:
    if not text:
        return ANY[4], ANY[6]
    try:
        return (str(ipaddress.ip_address(text.strip("[]"))),)
    except ValueError as error:
        raise InvalidArgument(f"invalid IP address: {text}", field="PortBindings.HostIp") from error


def _allowed(text: str) -> range | None:
    if text in ("", "0"):
        return None
    first, _, last = text.partition("-")
    start = _number(first, text)
    end = _number(last, text) if last else start
    if end < start:
        raise InvalidArgument(f"invalid port range: {text}", field="PortBindings.HostPort")
    return range(start, end + 1)


def _number(text: str, whole: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise InvalidArgument(f"invalid port specification: {whole!r}", field="PortBindings")
    return int(text)


def allocate(
    asked: Iterable[Wish], taken: Taken, *, endpoint: str, ephemeral: range = EPHEMERAL
) -> list[PublishedPort]:
    """A host port for every wish, the same on all of its addresses.

    Args:
        taken: What other endpoints on the node have; grows by what is given out.
        endpoint: ``name (id)``, for the error.
        ephemeral: What wishes without a port of their own choose from.

    Raises:
        Conflict: A port is taken, in Docker's words.
    """
    found: list[PublishedPort] = []
    for wish in asked:
        number = next((port for port in wish.allowed or ephemeral if _free(wish, port, taken)), None)
        if number is None:
            raise _refusal(wish, endpoint)
        for address in wish.addresses:
            taken.setdefault((wish.protocol, number), set()).add(address)
            found.append(
                PublishedPort(
                    protocol=wish.protocol, container_port=wish.container_port, host_ip=address, host_port=number
                )
            )
    return found


def _free(wish: Wish, port: int, taken: Taken) -> bool:
    """Whether a port is free on all of a wish's addresses; a wildcard takes every address of its family."""
    holders = taken.get((wish.protocol, port))
    if not holders:
        return True
    for address in wish.addresses:
        wildcard = ANY[6 if ":" in address else 4]
        if address in holders or wildcard in holders:
            return False
        if address == wildcard and any((":" in other) == (":" in address) for other in holders):
            return False
    return True


def _refusal(wish: Wish, endpoint: str) -> Conflict:
    address = wish.addresses[0]
    host = f"[{address}]" if ":" in address else address
    if wish.allowed is None:
        reason = f"Bind for {host}:0 failed: all ports are allocated"
    else:
        reason = f"Bind for {host}:{wish.allowed.start} failed: port is already allocated"
    return Conflict(
        f"driver failed programming external connectivity on endpoint {endpoint}: {reason}",
        field="PortBindings",
        host_port=wish.allowed.start if wish.allowed else 0,
    )


def port_map(published: Iterable[PublishedPort], exposed: Iterable[str]) -> PortMap:
    """Docker's NetworkSettings.Ports: exposed ports without a binding have an empty list."""
    result: dict[str, list[PortBinding]] = {}
    for text in exposed:
        number, protocol = parse_container_port(text)
        result[f"{number}/{protocol}"] = []
    for port in published:
        result.setdefault(f"{port.container_port}/{port.protocol}", []).append(
            PortBinding(host_ip=port.host_ip, host_port=str(port.host_port))
        )
    return result
