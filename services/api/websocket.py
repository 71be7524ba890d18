"""attach/ws: a container's streams in WebSocket messages, over a raw connection. wsproto makes and reads the frames.

Source: RFC 6455, section 4.2.2, for the handshake's answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, generate_accept_token

from services.api.hijack import Headers, RawConnection
from services.api.streaming import end_stream, end_tasks
from shared.docker.frames import Demultiplexer
from shared.errors import DavitError, InvalidArgument

if TYPE_CHECKING:
    from wsproto.events import Event

    from shared.bus.streams import ByteStream


def handshake_key(headers: Mapping[str, str]) -> str:
    """Raises InvalidArgument for a request that is no WebSocket handshake."""
    key = headers.get("sec-websocket-key", "")
    if headers.get("upgrade", "").lower() != "websocket" or not key:
        raise InvalidArgument("not a WebSocket handshake")
    return key


def accept_headers(key: str) -> Headers:
    return [
        (b"Upgrade", b"websocket"),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Accept", generate_accept_token(key.encode("latin-1"))),
    ]


class _Socket:
    """The two directions of one connection, which share a protocol's state."""

    def __init__(self, connection: RawConnection) -> None:
        self._raw = connection
        self._protocol = Connection(ConnectionType.SERVER)

    async def send(self, event: Event) -> None:
        try:
            data = self._protocol.send(event)
        except LocalProtocolError:  # the client has said goodbye: nothing is sent after that
            return
        await self._raw.write(data)

    async def receive_into(self, stream: ByteStream) -> None:
        """What the client sends, until it goes or closes."""
        while data := await self._raw.read():
            self._protocol.receive_data(data)
            for event in self._protocol.events():
                if isinstance(event, CloseConnection):
                    await self.send(event.response())
                    return
                if isinstance(event, Ping):
                    await self.send(event.response())
                elif isinstance(event, BytesMessage | TextMessage) and event.data:
                    await stream.write(event.data.encode() if isinstance(event.data, str) else bytes(event.data))


async def pump(connection: RawConnection, stream: ByteStream, *, multiplexed: bool) -> None:
    """Join a WebSocket client and a stream until either ends."""
    socket = _Socket(connection)
    inward = asyncio.create_task(socket.receive_into(stream))
    outward = asyncio.create_task(_send_output(stream, socket, multiplexed))
    try:
        await asyncio.wait({inward, outward}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        finished = outward.done() and outward.exception() is None
        await end_tasks(inward, outward)
        await end_stream(stream, finished=finished)
        await connection.finish()


async def _send_output(stream: ByteStream, socket: _Socket, multiplexed: bool) -> None:
    demultiplexer = Demultiplexer() if multiplexed else None
    try:
        while chunk := await stream.read():
            payload = b"".join(one.payload for one in demultiplexer.feed(chunk)) if demultiplexer else chunk
            if payload:
                await socket.send(BytesMessage(data=payload))
        await socket.send(CloseConnection(code=CloseReason.NORMAL_CLOSURE))
    except DavitError:
        await socket.send(CloseConnection(code=CloseReason.INTERNAL_ERROR))
