"""127.0.0.11 inside every container on a user-defined network.

::

    container                         agent
      │ query to 127.0.0.11:53          │
      │   nft in its namespace: DNAT to a port of the agent's own choosing, so that a container may
      │   itself serve port 53 on all its addresses
      ├────────────────────────────────►│ a name on one of its networks → answered from records
      │                                 │ else → forwarded from the agent's namespace to --dns or the host's servers
      │◄────────────────────────────────┤

Names with no address of the asked family get an empty answer, so that clients do not ask the outside world for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import struct
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.executor.agent.network import dnswire, namespace
from services.executor.agent.network.dnsrecords import NameRecords
from services.executor.agent.network.dnswire import AAAA, ANY, PTR, A, MalformedQuery, Query
from shared.kernel.nftables import Nftables

log = logging.getLogger(__name__)

ADDRESS = "127.0.0.11"
PORT = 53
# Names move with their containers, so nobody may remember them for long.
# Which of a name's two addresses answer a question.
FAMILIES = {A: (0,), AAAA: (1,), ANY: (0, 1)}
TTL_S = 5
FORWARD_TIMEOUT_S = 4.0
TCP_IDLE_S = 20.0
MAX_MESSAGE_BYTES = 65535
MAX_IN_WORK = 256
BIND_TRIES = 16
# Nothing is deleted where there is nothing yet: a deletion makes the kernel wait 5 ms for a grace period.
REDIRECT = f"""
add table ip davit_dns
add chain ip davit_dns output {{ type nat hook output priority -100; policy accept; }}
flush chain ip davit_dns output
add rule ip davit_dns output ip daddr {ADDRESS} meta l4proto {{ tcp, udp }} th dport {PORT} dnat to {ADDRESS}:%d
"""


@dataclass(slots=True)
class DnsView:
    """What one container sees: its networks (ids), its links (alias -> container name), and who is asked outside.

    Attributes:
        servers: Outside servers; none means that nothing leaves (internal networks only).
    """

    networks: list[str]
    links: dict[str, str] = field(default_factory=dict)
    servers: list[str] = field(default_factory=list)


def open_sockets(netns_fd: int) -> tuple[socket.socket, socket.socket]:
    """Bound UDP and listening TCP socket inside a namespace, with 127.0.0.11:53 redirected to them.

    Raises:
        OSError: The namespace is gone, or nft refuses the redirection.
    """
    with namespace.entered(netns_fd):
        udp, tcp = _bind_both()
        try:
            nftables = Nftables()
            try:
                nftables.run(REDIRECT % udp.getsockname()[1])
            finally:
                nftables.close()
        except BaseException:
            udp.close()
            tcp.close()
            raise
        return udp, tcp


def _bind_both() -> tuple[socket.socket, socket.socket]:
    """The same free port for both protocols."""
    for attempt in range(BIND_TRIES):
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            udp.bind((ADDRESS, 0))
            tcp.bind((ADDRESS, udp.getsockname()[1]))
            tcp.listen(16)
        except OSError:
            udp.close()
            tcp.close()
            if attempt + 1 == BIND_TRIES:
                raise
            continue
        return udp, tcp
    raise AssertionError("unreachable")


class DnsServer:
    """Answers one container. Made and used in the agent's loop; owns both sockets."""

    def __init__(self, udp: socket.socket, tcp: socket.socket, records: NameRecords, view: DnsView) -> None:
        self._udp, self._tcp = udp, tcp
        self._records = records
        self.view = view
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._loop.add_reader(self._udp.fileno(), self._readable)
        self._loop.add_reader(self._tcp.fileno(), self._connectable)

    def close(self) -> None:
        """Stop answering. Idempotent."""
        if self._udp.fileno() >= 0:
            self._loop.remove_reader(self._udp.fileno())
            self._loop.remove_reader(self._tcp.fileno())
        for task in self._tasks:
            task.cancel()
        self._udp.close()
        self._tcp.close()

    def resolve(self, query: Query) -> bytes | None:
        """The answer from records; None for what they do not know."""
        if query.kind == PTR:
            address = dnswire.reverse_address(query.name)
            name = self._records.name_of(self.view.networks, address) if address else ""
            return dnswire.answer_name(query, name, TTL_S) if name else None
        found = self._records.lookup(self.view.networks, self.view.links.get(query.name, query.name))
        if found is None:
            return None
        # A name of ours is nobody else's: where it has no record of a type (MX, HTTPS, …), the outside has none either.
        families = FAMILIES.get(query.kind, ())
        addresses = [pair[family] for pair in found for family in families if pair[family]]
        random.shuffle(addresses)
        return dnswire.answer_addresses(query, addresses, TTL_S)

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _readable(self) -> None:
        while True:
            try:
                data, client = self._udp.recvfrom(MAX_MESSAGE_BYTES)
            except OSError:  # nothing more, or the namespace is going away
                return
            reply = self._local(data)
            if reply is not None:
                self._send(reply, client)
            elif len(self._tasks) < MAX_IN_WORK:
                self._own(self._forward_datagram(data, client))

    def _local(self, data: bytes) -> bytes | None:
        try:
            return self.resolve(dnswire.parse_query(data))
        except MalformedQuery:
            return dnswire.format_error(data)

    def _send(self, reply: bytes, client: Any) -> None:
        with contextlib.suppress(OSError):  # a client that is gone needs no answer
            self._udp.sendto(reply, client)

    async def _forward_datagram(self, data: bytes, client: Any) -> None:
        reply = await self._forward(data, stream=False)
        self._send(reply, client)

    async def _forward(self, data: bytes, *, stream: bool) -> bytes:
        """What the first outside server that answers says; SERVFAIL when none does."""
        for server in self.view.servers:
            try:
                async with asyncio.timeout(FORWARD_TIMEOUT_S):
                    return await (self._ask_stream if stream else self._ask_datagram)(server, data)
            except (OSError, TimeoutError, EOFError) as error:
                log.debug("DNS server %s did not answer: %s", server, error)
        return dnswire.failure(dnswire.parse_query(data), dnswire.SERVER_FAILURE)

    async def _ask_datagram(self, server: str, data: bytes) -> bytes:
        with _outside(server, socket.SOCK_DGRAM) as channel:
            channel.connect(_endpoint(server))
            await self._loop.sock_sendall(channel, data)
            while True:
                reply = await self._loop.sock_recv(channel, MAX_MESSAGE_BYTES)
                if dnswire.answers(reply, data):
                    return reply

    async def _ask_stream(self, server: str, data: bytes) -> bytes:
        with _outside(server, socket.SOCK_STREAM) as channel:
            await self._loop.sock_connect(channel, _endpoint(server))
            await self._loop.sock_sendall(channel, struct.pack(">H", len(data)) + data)
            return await self._read_message(channel)

    def _connectable(self) -> None:
        try:
            client, _ = self._tcp.accept()
        except OSError:
            return
        client.setblocking(False)
        if len(self._tasks) < MAX_IN_WORK:
            self._own(self._serve_stream(client))
        else:
            client.close()

    async def _serve_stream(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError, TimeoutError, EOFError):
            while True:
                async with asyncio.timeout(TCP_IDLE_S):
                    data = await self._read_message(client)
                reply = self._local(data)
                if reply is None:
                    reply = await self._forward(data, stream=True)
                await self._loop.sock_sendall(client, struct.pack(">H", len(reply)) + reply)

    async def _read_message(self, channel: socket.socket) -> bytes:
        (length,) = struct.unpack(">H", await self._read_exactly(channel, 2))
        return await self._read_exactly(channel, length)

    async def _read_exactly(self, channel: socket.socket, count: int) -> bytes:
        data = b""
        while len(data) < count:
            chunk = await self._loop.sock_recv(channel, count - len(data))
            if not chunk:
                raise EOFError
            data += chunk
        return data


def _outside(server: str, kind: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    return socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


def _endpoint(server: str) -> Any:
    host, _, zone = server.partition("%")
    return (host, PORT, 0, socket.if_nametoindex(zone)) if zone else (host, PORT)


def outside_servers(attachments_internal: Sequence[bool], servers: Sequence[str]) -> list[str]:
    """Who is asked outside: nobody when all of the container's networks are internal."""
    return [] if attachments_internal and all(attachments_internal) else list(servers)
