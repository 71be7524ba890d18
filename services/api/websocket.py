"""The server's side of WebSocket, over a raw connection: enough for attach/ws.

::

    +-+-------+-+-------------+-------------------------------+
    |F| opcode|M| length 7 bit| 16 or 64 bit length, when 126 |   client -> server: M is set, 4 bytes of mask,
    | | (4)   | |             | or 127                        |   payload xored with them
    +-+-------+-+-------------+-------------------------------+

Source: RFC 6455, sections 4.2.2 (handshake) and 5 (frames).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import struct
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING

from services.api.hijack import Headers, RawConnection
from services.api.streaming import end_stream, end_tasks
from shared.docker.frames import Demultiplexer
from shared.errors import DavitError, InvalidArgument

if TYPE_CHECKING:
    from shared.bus.streams import ByteStream

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FRAME_LIMIT_BYTES = 16 * 1024 * 1024


def handshake_key(headers: Mapping[str, str]) -> str:
    """Raises InvalidArgument for a request that is no WebSocket handshake."""
    key = headers.get("sec-websocket-key", "")
    if headers.get("upgrade", "").lower() != "websocket" or not key:
        raise InvalidArgument("not a WebSocket handshake")
    return key


def accept_headers(key: str) -> Headers:
    digest = hashlib.sha1(key.encode() + GUID, usedforsecurity=False).digest()
    return [
        (b"Upgrade", b"websocket"),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Accept", base64.b64encode(digest)),
    ]


def frame(opcode: int, payload: bytes) -> bytes:
    """An unmasked, final frame."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", 0x80 | opcode, 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 127, size)
    return head + payload


class FrameReader:
    """Takes frames out of a raw connection. Yields (opcode, payload); ends at the connection's end."""

    def __init__(self, connection: RawConnection) -> None:
        self._connection = connection
        self._buffer = bytearray()

    async def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            data = await self._connection.read()
            if not data:
                raise EOFError
            self._buffer += data
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    async def frames(self) -> AsyncIterator[tuple[int, bytes]]:
        """Raises InvalidArgument for a frame that is too large."""
        with contextlib.suppress(EOFError):
            while True:
                first, second = await self._take(2)
                size = second & 0x7F
                if size == 126:
                    (size,) = struct.unpack("!H", await self._take(2))
                elif size == 127:
                    (size,) = struct.unpack("!Q", await self._take(8))
                if size > FRAME_LIMIT_BYTES:
                    raise InvalidArgument("WebSocket frame is too large")
                mask = await self._take(4) if second & 0x80 else b""
                payload = await self._take(size)
                yield first & 0x0F, unmask(payload, mask) if mask else payload


def unmask(payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    repeated = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(size, "big")


async def pump(connection: RawConnection, stream: ByteStream, *, multiplexed: bool) -> None:
    """Join a WebSocket client and a stream until either ends."""
    inward = asyncio.create_task(_frames_to_stream(connection, stream))
    outward = asyncio.create_task(_stream_to_frames(stream, connection, multiplexed))
    try:
        await asyncio.wait({inward, outward}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        finished = outward.done() and outward.exception() is None
        await end_tasks(inward, outward)
        await end_stream(stream, finished=finished)
        await connection.finish()


async def _frames_to_stream(connection: RawConnection, stream: ByteStream) -> None:
    async for opcode, payload in FrameReader(connection).frames():
        if opcode == CLOSE:
            return
        if opcode == PING:
            await connection.write(frame(PONG, payload))
        elif opcode in (CONTINUATION, TEXT, BINARY) and payload:
            await stream.write(payload)


async def _stream_to_frames(stream: ByteStream, connection: RawConnection, multiplexed: bool) -> None:
    demultiplexer = Demultiplexer() if multiplexed else None
    try:
        while chunk := await stream.read():
            payload = b"".join(one.payload for one in demultiplexer.feed(chunk)) if demultiplexer else chunk
            if payload:
                await connection.write(frame(BINARY, payload))
        await connection.write(frame(CLOSE, struct.pack("!H", 1000)))
    except DavitError:
        await connection.write(frame(CLOSE, struct.pack("!H", 1011)))
