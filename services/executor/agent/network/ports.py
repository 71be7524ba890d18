"""Host ports of published ports, held by bound sockets.

The kernel translates a published port before any socket sees it. The socket is there so that nobody else on the host
takes the port, and so that a port somebody else has is an error at start and not a silent takeover. It dies with the
agent while the translation stays, and is bound again when the agent adopts the container.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from shared.contracts.networks import Attachment, PublishedPort
from shared.errors import Conflict

IPPROTO_SCTP = 132
BACKLOG = 128
# A kernel without IPv6, or without SCTP sockets.
ABSENT = (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT)


@dataclass(slots=True)
class HeldPort:
    """A port and the socket that holds it; None where this kernel lacks the protocol, so that nobody can take it."""

    port: PublishedPort
    socket: socket.socket | None

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()


@dataclass(slots=True)
class HostPorts:
    """Sockets by endpoint id. `proxied` says which ports are served by the proxy and must stay listening."""

    proxied: Callable[[Attachment, PublishedPort], bool]
    held: dict[str, list[HeldPort]] = field(default_factory=dict)

    def hold(self, attachment: Attachment) -> list[HeldPort]:
        """Bind all of an endpoint's ports, or none.

        Raises:
            Conflict: Somebody on the host has one of them, in Docker's words.
        """
        taken: list[HeldPort] = []
        try:
            for port in attachment.ports:
                taken.append(HeldPort(port, _bind(port, listening=self.proxied(attachment, port))))
        except OSError as error:
            for held in taken:
                held.close()
            raise _refusal(attachment, attachment.ports[len(taken)], error) from error
        if taken:
            self.held[attachment.endpoint_id] = taken
        return taken

    def release(self, endpoint_id: str) -> None:
        for held in self.held.pop(endpoint_id, []):
            held.close()

    def close(self) -> None:
        for endpoint_id in list(self.held):
            self.release(endpoint_id)


def _bind(port: PublishedPort, *, listening: bool) -> socket.socket | None:
    version = ipaddress.ip_address(port.host_ip).version
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    kind, protocol = {
        "tcp": (socket.SOCK_STREAM, 0),
        "udp": (socket.SOCK_DGRAM, 0),
        "sctp": (socket.SOCK_STREAM, IPPROTO_SCTP),
    }[port.protocol]
    try:
        holder = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
    except OSError as error:
        if error.errno in ABSENT:
            return None
        raise
    try:
        if family == socket.AF_INET6:
            holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            _bind_stream(holder, port, listening=listening)
        else:
            holder.bind((port.host_ip, port.host_port))
    except OSError:
        holder.close()
        raise
    return holder


def _bind_stream(holder: socket.socket, port: PublishedPort, *, listening: bool) -> None:
    # SO_REUSEADDR passes over connections in TIME_WAIT, but also over bound sockets that do not listen; listening
    # once meets those that do.
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind((port.host_ip, port.host_port))
    holder.listen(BACKLOG)
    if not listening:
        # Back to merely bound: a connection that is not translated is refused instead of waiting for an accept.
        with contextlib.suppress(OSError):
            holder.shutdown(socket.SHUT_RD)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)


def _refusal(attachment: Attachment, port: PublishedPort, error: OSError) -> Conflict:
    """Docker's words, which start-up scripts look for. Source: the reference engine's answer to a foreign listener."""
    host = f"[{port.host_ip}]" if ":" in port.host_ip else port.host_ip
    version = 6 if ":" in port.host_ip else 4
    reason = os.strerror(error.errno or errno.EADDRINUSE).lower()
    where = f"{port.protocol}{version} {host}:{port.host_port}"
    return Conflict(
        "driver failed programming external connectivity on endpoint "
        f"{attachment.container_name} ({attachment.endpoint_id}): "
        f"Error starting userland proxy: listen {where}: bind: {reason}",
        host_port=port.host_port,
        protocol=port.protocol,
        reason="foreign_listener",
    )
