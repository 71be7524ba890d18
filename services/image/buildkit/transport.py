"""gRPC on connections that are there already, in either role, with a fast lane for streams of many small messages.

A client's two connections arrive upgraded: on one it calls the engine, on the other the engine calls it. grpclib does
gRPC and h2 HTTP/2, but a directory of 10,000 files comes as as many messages, each in an HTTP/2 frame of its own, and
the two take some 20 µs for each. So the calling side cuts the bytes into frames itself and hands those of marked
streams past both::

    bytes ─► frames ─┬─ DATA of a marked stream, nothing special about it ─► BulkStream
                     └─ all others ─────────────────────────────────────► h2 ─► grpclib

What goes past h2 is not in its accounts of flow control: the lane gives that credit back itself.

Source: RFC 9113, sections 4.1, 5.2, 6.1, 6.9; gRPC over HTTP/2.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Collection, Iterable, Mapping
from typing import Any, cast

from google.protobuf.message import Message
from grpclib.client import Channel, Handler
from grpclib.config import Configuration
from grpclib.const import Status
from grpclib.encoding.base import StatusDetailsCodecBase
from grpclib.protocol import AbstractHandler, H2Protocol
from grpclib.server import Server
from h2.config import H2Configuration
from h2.errors import ErrorCodes
from h2.events import StreamReset

from services.image.buildkit.wire import status_pb2

FRAME_HEADER_BYTES = 9
DATA, WINDOW_UPDATE = 0, 8
MESSAGE_HEADER_BYTES = 5
WINDOW_BYTES = 8 << 20
# Credit goes back in lumps of this size.
CREDIT_BYTES = 1 << 20
MAX_MESSAGE_BYTES = 64 << 20
STREAM_MASK = 0x7FFFFFFF
CONFIGURATION = Configuration(http2_connection_window_size=WINDOW_BYTES, http2_stream_window_size=WINDOW_BYTES)


class StatusDetails(StatusDetailsCodecBase):
    """The trailer with what an error is about: a list of ``(type URL, value)`` in memory."""

    def encode(self, status: Status, message: str | None, details: Any) -> bytes:
        told = status_pb2.Status(code=status.value, message=message or "")
        for type_url, value in details:
            told.details.add(type_url=type_url, value=value)
        return told.SerializeToString()

    def decode(self, status: Status, message: str | None, data: bytes) -> Any:
        return [(item.type_url, item.value) for item in status_pb2.Status.FromString(data).details]


class EngineServer(Server):
    """Serves the engine's side on connections that are handed to it."""

    def __init__(self, handlers: Collection[Any]) -> None:
        super().__init__(handlers, config=CONFIGURATION, status_details_codec=StatusDetails())

    def take(self) -> H2Protocol:
        """A protocol for a connection whose next bytes are the client's HTTP/2 preface."""
        return self._protocol_factory()


class BulkStream:
    """The received half of a marked stream: whole messages, many at a time."""

    def __init__(self, protocol: SessionProtocol, stream_id: int) -> None:
        self._protocol = protocol
        self._stream_id = stream_id
        self._buffer = bytearray()
        self._unacknowledged = 0
        self._arrived = asyncio.Event()
        self.ended = False

    def feed(self, payload: memoryview) -> None:
        self._buffer += payload
        self._unacknowledged += len(payload)
        self._arrived.set()

    def end(self) -> None:
        self.ended = True
        self._arrived.set()

    async def messages(self) -> list[bytes]:
        """The messages that have arrived whole; empty once there will be none any more.

        Raises:
            ValueError: A message is compressed, or larger than is sensible.
        """
        while True:
            self._arrived.clear()
            found = self._cut()
            if found or self.ended:
                self._give_credit()
                return found
            self._give_credit()
            await self._arrived.wait()

    def _cut(self) -> list[bytes]:
        buffer, at, found = self._buffer, 0, []
        while len(buffer) - at >= MESSAGE_HEADER_BYTES:
            compressed, size = struct.unpack_from(">BI", buffer, at)
            if compressed or size > MAX_MESSAGE_BYTES:
                raise ValueError("a compressed message, or one that is too large")
            end = at + MESSAGE_HEADER_BYTES + size
            if end > len(buffer):
                break
            found.append(bytes(buffer[at + MESSAGE_HEADER_BYTES : end]))
            at = end
        del buffer[:at]
        return found

    def _give_credit(self) -> None:
        if self._unacknowledged >= CREDIT_BYTES:
            self._protocol.give_credit(self._stream_id, self._unacknowledged)
            self._unacknowledged = 0

    def close(self) -> None:
        """Nothing more is read here."""
        self._protocol.unmark(self._stream_id, self._unacknowledged)


class SessionProtocol(H2Protocol):
    """The calling side of a connection, with the fast lane."""

    def __init__(self, handler: AbstractHandler, config: Configuration, h2_config: H2Configuration) -> None:
        super().__init__(handler, config, h2_config)
        self._rest = b""
        self._bulk: dict[int, BulkStream] = {}
        self._transport: asyncio.Transport | None = None
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        super().connection_made(transport)
        self._reset = self.processor.process_stream_reset
        self.processor.processors[StreamReset] = self._stream_reset

    def _stream_reset(self, event: StreamReset) -> None:
        """A server that has answered may say that it wants to hear no more: no error (RFC 9113, section 8.1)."""
        stream = self.processor.streams.get(event.stream_id)
        if stream is None or stream.trailers is None or event.error_code != ErrorCodes.NO_ERROR:
            self._reset(event)

    def mark(self, stream_id: int) -> BulkStream:
        """Receive a stream past h2."""
        bulk = self._bulk[stream_id] = BulkStream(self, stream_id)
        return bulk

    def unmark(self, stream_id: int, unacknowledged: int) -> None:
        if self._bulk.pop(stream_id, None) is not None and unacknowledged:
            self._credit(0, unacknowledged)

    def give_credit(self, stream_id: int, size: int) -> None:
        self._credit(0, size)
        self._credit(stream_id, size)

    def _credit(self, stream_id: int, size: int) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(struct.pack(">HBBBII", 0, 4, WINDOW_UPDATE, 0, stream_id, size))

    def data_received(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        view, size, at, start = memoryview(data), len(data), 0, 0
        while size - at >= FRAME_HEADER_BYTES:
            end = at + FRAME_HEADER_BYTES + ((data[at] << 16) | (data[at + 1] << 8) | data[at + 2])
            if end > size:
                break
            if data[at + 3] == DATA and data[at + 4] == 0 and self._bulk:
                bulk = self._bulk.get(int.from_bytes(data[at + 5 : at + 9], "big") & STREAM_MASK)
                if bulk is not None:
                    if start < at:
                        self._to_h2(data[start:at])
                    bulk.feed(view[at + FRAME_HEADER_BYTES : end])
                    start = end
            at = end
        if start < at:
            self._to_h2(data[start:at])
        self._rest = data[at:]

    def _to_h2(self, data: bytes) -> None:
        super().data_received(data)
        for stream_id, bulk in list(self._bulk.items()):
            stream = self.processor.streams.get(stream_id)
            if stream is None or stream.trailers is not None or _is_all(stream.headers):
                bulk.end()

    def connection_lost(self, exc: BaseException | None) -> None:
        for bulk in list(self._bulk.values()):
            bulk.end()
        self.lost.set()
        super().connection_lost(exc)


def _is_all(headers: Iterable[tuple[str, str]] | None) -> bool:
    """Whether an answer has no more than its headers: an error that came at once."""
    return any(name == "grpc-status" for name, _ in headers or ())


class SessionChannel(Channel):
    """A gRPC client on a connection that is there already."""

    def __init__(self) -> None:
        super().__init__(config=CONFIGURATION, status_details_codec=StatusDetails())
        self.protocol = SessionProtocol(Handler(), self._config, self._h2_config)

    async def _create_connection(self) -> H2Protocol:
        return self.protocol


def encoded(*messages: Message) -> bytes:
    """Messages as they follow one another on a stream."""
    data = bytearray()
    for message in messages:
        body = message.SerializeToString()
        data += struct.pack(">BI", 0, len(body)) + body
    return bytes(data)


def metadata_of(stream: Any) -> Mapping[str, str]:
    """What the client sent beside a call."""
    return cast("Mapping[str, str]", stream.metadata or {})
