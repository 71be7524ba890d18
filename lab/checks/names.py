"""Names of containers lead to living endpoints, and to no others: asked inside the containers, as they would.

Source: RFC 1035, section 4.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

from lab.checks.view import Container, View

_RESOLVER = ("127.0.0.11", 53)
_TIMEOUT_S = 3.0
_ANSWER_BITS = 0x000F


def check(view: View) -> Iterator[str]:
    """For each running container: the names of all that share a network with it."""
    alive = [container for container in view.containers if container.running and container.nodes]
    for container in alive:
        for network, endpoint in container.networks.items():
            if not endpoint.get("DNSNames"):
                continue
            expected = _expected(view, container, network)
            for name, addresses in expected.items():
                try:
                    answered = _resolve(view, container, name)
                except OSError as error:
                    yield f"{container.name}: {name} cannot be resolved: {error}"
                    continue
                if answered != addresses:
                    told, wanted = (", ".join(sorted(found)) or "nothing" for found in (answered, addresses))
                    yield f"{container.name}: {name} resolves to {told}, and is {wanted}"


def _expected(view: View, container: Container, network: str) -> dict[str, set[str]]:
    """Name -> the addresses of its living endpoints; none for names of containers that do not run."""
    expected: dict[str, set[str]] = {}
    for other in view.containers:
        endpoint = other.networks.get(network)
        if endpoint is None:
            continue
        for name in endpoint.get("DNSNames") or ():
            found = expected.setdefault(name, set())
            if other.running and endpoint.get("IPAddress"):
                found.add(endpoint["IPAddress"])
    return expected


def _resolve(view: View, container: Container, name: str) -> set[str]:
    """The IPv4 addresses that a container is told for a name. Raises OSError."""
    with view.lab.namespaces.inside_of(view.namespace(container)):
        asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with asking:
        asking.settimeout(_TIMEOUT_S)
        labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
        asking.sendto(struct.pack("!6H", 1, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", 1, 1), _RESOLVER)
        return _addresses(asking.recv(4096))


def _addresses(answer: bytes) -> set[str]:
    _, bits, questions, answers, _, _ = struct.unpack_from("!6H", answer)
    if bits & _ANSWER_BITS:
        return set()
    at = 12
    for _ in range(questions):
        at = _after_name(answer, at) + 4
    found = set()
    for _ in range(answers):
        at = _after_name(answer, at)
        kind, _, _, length = struct.unpack_from("!2HIH", answer, at)
        at += 10
        if kind == 1:
            found.add(socket.inet_ntoa(answer[at : at + length]))
        at += length
    return found


def _after_name(message: bytes, at: int) -> int:
    while length := message[at]:
        if length & 0xC0:
            return at + 2
        at += length + 1
    return at + 1
