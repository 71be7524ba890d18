"""Carries published IPv6 ports to containers where the kernel cannot: IPv6 to IPv4, and ``::1``.

TCP and UDP only. Runs in the agent's loop, so these connections, unlike translated ones, end with the agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket

log = logging.getLogger(__name__)

CHUNK_BYTES = 64 * 1024
UDP_IDLE_S = 90.0
CONNECT_TIMEOUT_S = 10.0

Address = tuple[str, int]


class PortProxy:
    """Forwards everything that arrives at a bound socket to one address until closed. The socket stays the caller's."""

    def __init__(self, listener: socket.socket, target: Address) -> None:
        self._listener = listener
        self._target = target
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._peers: dict[object, socket.socket] = {}

    def start(self) -> None:
        stream = self._listener.type & 0xF == socket.SOCK_STREAM
        self._own(self._accept() if stream else self._receive())

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _own(self, work: object) -> None:
        task: asyncio.Task[None] = self._loop.create_task(work)  # type: ignore[arg-type]  # a coroutine; named by callers
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self) -> None:
        while True:
            client, _ = await self._loop.sock_accept(self._listener)
            client.setblocking(False)
            self._own(self._carry(client))

    async def _carry(self, client: socket.socket) -> None:
        family = socket.AF_INET6 if ":" in self._target[0] else socket.AF_INET
        with client, socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as server:
            try:
                await asyncio.wait_for(self._loop.sock_connect(server, self._target), CONNECT_TIMEOUT_S)
                await asyncio.gather(self._copy(client, server), self._copy(server, client))
            except OSError as error:  # a peer that resets or is not there ends this connection, nothing else
                log.debug("proxied connection to %s ended: %s", self._target, error)

    async def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        while data := await self._loop.sock_recv(source, CHUNK_BYTES):
            await self._loop.sock_sendall(sink, data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    async def _receive(self) -> None:
        while True:
            data, client = await self._loop.sock_recvfrom(self._listener, CHUNK_BYTES)
            peer = self._peers.get(client)
            if peer is None:
                family = socket.AF_INET6 if ":" in self._target[0] else socket.AF_INET
                peer = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
                peer.connect(self._target)
                self._peers[client] = peer
                self._own(self._answer(peer, client))
            with contextlib.suppress(OSError):
                peer.send(data)

    async def _answer(self, peer: socket.socket, client: object) -> None:
        try:
            while True:
                data = await asyncio.wait_for(self._loop.sock_recv(peer, CHUNK_BYTES), UDP_IDLE_S)
                await self._loop.sock_sendto(self._listener, data, client)  # type: ignore[arg-type]  # as recvfrom gave it
        except (TimeoutError, OSError):  # idle, or the port is closed in the container
            pass
        finally:
            self._peers.pop(client, None)
            peer.close()
