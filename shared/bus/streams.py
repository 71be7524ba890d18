"""Byte streams over the bus: ordered, flow controlled, closed in halves, and never silently incomplete.

One side offers a stream and sends its reference in a request; the other side accepts it. Each side may then write
and read. A frame is a NATS message on the direction's subject::

    0        1              5
    ┌────────┬──────────────┬───────────────┐        DATA    bytes, at most 512 KiB
    │ kind   │ number (BE)  │ payload       │        END     no more DATA from me (half-close)
    └────────┴──────────────┴───────────────┘        CREDIT  u64: bytes I have room for since the start
                                                             (then my subject, where it is not the usual one)
                                                     FAIL    error as JSON; takes effect after the data before it
    offerer                         acceptor         CANCEL  reason as JSON; takes effect at once
      │ subscribe …<id>.offerer        │             CLOSE   I am gone: I read no more, and you hear no more
      │ reference in a request ───────►│             PING    I am alive
      │                                │ subscribe …<id>.acceptor
      │◄──────────────── CREDIT window │             A writer sends no byte that it has no credit for, so memory is
      │ CREDIT window ────────────────►│             bounded by the window on each side. Frames are numbered per
      │◄════════ DATA … END ══════════►│             direction: one that the bus lost (a server died) is noticed at
      │ CLOSE                    CLOSE │             the next one, a PING at the latest, and the stream breaks.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Protocol, Self

import orjson
from pydantic import BaseModel

from shared.errors import DavitError, Internal, Unavailable, from_wire

log = logging.getLogger(__name__)

CHUNK_BYTES = 512 * 1024
WINDOW_BYTES = 4 * 1024 * 1024
HEARTBEAT_S = 2.0
DEAD_AFTER_S = 8.0
ACCEPT_WITHIN_S = 30.0

_HEADER = struct.Struct(">BI")
_CREDIT = struct.Struct(">Q")
_NUMBERS = 1 << 32

DATA, END, CREDIT, FAIL, CANCEL, CLOSE, PING = range(1, 8)


class StreamCancelled(Unavailable):
    """The other side does not want the stream any more."""


class StreamBroken(Unavailable):
    """The other side is gone, or frames were lost: what was read so far may be incomplete."""


class StreamRef(BaseModel):
    """Names an offered stream, as a field of the request that hands it over."""

    id: str


class Subscription(Protocol):
    async def unsubscribe(self) -> None: ...


class Transport(Protocol):
    """What streams need of the bus.

    Attributes:
        stream_scope: See `shared.bus.client.Bus`.
    """

    stream_scope: str

    async def publish(self, subject: str, data: bytes) -> None: ...

    async def listen(self, subject: str, received: Callable[[bytes], Awaitable[None]]) -> Subscription: ...


class ByteStream:
    """One end of a stream; made by `offer` or `accept`.

    One task may read while another writes; two tasks must not read, or write, at the same time.
    """

    def __init__(self, bus: Transport, stream_id: str, *, offered: bool, window_bytes: int = WINDOW_BYTES) -> None:
        self.ref = StreamRef(id=stream_id)
        self._bus = bus
        own, peer = ("offerer", "acceptor") if offered else ("acceptor", "offerer")
        self._subject = f"davit.stream.{stream_id}.{peer}"
        # A node may listen only to what bears its name; whoever offered the stream is told so with the first credit.
        scope = "" if stream_id.startswith(bus.stream_scope) else bus.stream_scope
        self._own_subject = f"davit.stream.{scope}{stream_id}.{own}"
        self._address = self._own_subject.encode() if scope else b""
        self._subscription: Subscription | None = None
        self._heart: asyncio.Task[None] | None = None
        self._window = window_bytes
        # Sending
        self._number = 0
        self._sent = 0
        self._credit = 0
        self._credit_grown = asyncio.Event()
        self._ended = False
        self._last_word: tuple[int, bytes] | None = None  # an end that waits for somebody to hear it
        # Receiving
        self._expected = 0
        self._chunks: deque[bytes] = deque()
        self._consumed = 0
        self._granted = 0
        self._arrived = asyncio.Event()
        self._peer_ended = False
        self._peer_closed = False
        self._failure: DavitError | None = None
        # Life
        self._accepted = not offered
        self._last_heard = 0.0
        self._broken: DavitError | None = None
        self._closed = False
        self._gone = asyncio.Event()

    @property
    def accepted(self) -> bool:
        """Whether the other side has been heard of."""
        return self._accepted

    # -- making -------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        self._last_heard = asyncio.get_running_loop().time()
        self._subscription = await self._bus.listen(self._own_subject, self._received)
        if self._accepted:
            try:
                await self._grant()
            except BaseException:
                await self._let_go()
                raise
        self._heart = asyncio.create_task(self._beat(), name=f"stream {self.ref.id}")

    async def _beat(self) -> None:
        """Tell the peer that this end lives, and notice when the peer does not."""
        loop = asyncio.get_running_loop()
        while self._broken is None and not self._peer_closed:
            slept_from = loop.time()
            await asyncio.sleep(HEARTBEAT_S)
            if loop.time() - slept_from > 2 * HEARTBEAT_S:
                # This process was stopped or busy; what the peer sent meanwhile is yet to be read.
                self._last_heard = loop.time()
            silent_s = loop.time() - self._last_heard
            if not self._accepted:
                if silent_s > ACCEPT_WITHIN_S:
                    self._break(StreamBroken("the stream was offered and nobody accepted it"))
                continue
            if silent_s > DEAD_AFTER_S and not self._peer_closed:
                self._break(StreamBroken(f"the other end of the stream has been silent for {silent_s:.0f} s"))
                return
            try:
                await self._send(PING)
            except Unavailable:
                self._break(StreamBroken("the message bus is closed"))

    # -- reading ------------------------------------------------------------------------------------------------

    async def read(self) -> bytes:
        """The next bytes, in order; ``b""`` once the other side has ended its direction.

        Raises:
            StreamCancelled: The other side cancelled.
            StreamBroken: The other side is gone, or bytes were lost.
            DavitError: The error with which the other side ended its direction (`fail`).
        """
        while True:
            if self._broken is not None:
                raise self._broken
            if self._chunks:
                return await self._take()
            if self._failure is not None:
                raise self._failure
            if self._peer_ended:
                return b""
            if self._peer_closed:
                raise StreamBroken("the other end of the stream closed without ending it")
            self._arrived.clear()
            await self._arrived.wait()

    async def _take(self) -> bytes:
        size = len(self._chunks[0])
        # Credit is sent by the quarter window: seldom enough to be cheap, early enough to keep the writer going.
        # It goes first: a reader that is cancelled while it is being sent finds the chunk still there.
        if self._consumed + size + self._window - self._granted >= self._window // 4 and not self._peer_ended:
            await self._grant(size)
            if not self._chunks:  # the stream broke meanwhile
                return await self.read()
        self._consumed += size
        return self._chunks.popleft()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self.read()
        if not chunk:
            raise StopAsyncIteration
        return chunk

    # -- writing ------------------------------------------------------------------------------------------------

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes, any number; waits while the other side has no room.

        Raises:
            StreamCancelled: The other side cancelled, or closed and so does not read any more.
            StreamBroken: The other side is gone.
        """
        view = memoryview(data).cast("B") if data else memoryview(b"")
        while len(view):
            room = await self._room()
            piece = view[: min(CHUNK_BYTES, room)]
            view = view[len(piece) :]
            self._sent += len(piece)
            await self._send(DATA, piece)

    async def _room(self) -> int:
        while True:
            self._check_writable()
            if self._credit > self._sent:
                return self._credit - self._sent
            self._credit_grown.clear()
            await self._credit_grown.wait()

    def _check_writable(self) -> None:
        if self._broken is not None:
            raise self._broken
        if self._closed or self._ended:
            raise Internal("write to a stream that this side has closed")
        if self._peer_closed:
            raise StreamCancelled("the other side of the stream does not read any more")

    async def close_write(self) -> None:
        """End this direction: the other side reads ``b""`` after what was written. Reading goes on."""
        await self._end(END)

    async def fail(self, error: DavitError) -> None:
        """End this direction with an error: the other side reads what was written, then gets the error raised."""
        await self._end(FAIL, orjson.dumps(error.to_wire(), default=str))

    async def _end(self, kind: int, payload: bytes = b"") -> None:
        if self._ended or self._broken is not None:
            return
        self._ended = True
        if self._accepted:
            await self._send(kind, payload)
        else:  # nobody listens yet: the frame would be lost, and with it the order of all that follow
            self._last_word = kind, payload

    async def _say_last_word(self) -> None:
        if self._last_word is not None:
            (kind, payload), self._last_word = self._last_word, None
            await self._send(kind, payload)

    async def cancel(self, reason: str) -> None:
        """Give the stream up: both sides' reads and writes raise `StreamCancelled`; what is under way is dropped."""
        if self._broken is None and not self._closed:
            await self._send(CANCEL, orjson.dumps({"reason": reason}))
            self._break(StreamCancelled(reason))

    async def aclose(self) -> None:
        """End this direction, read no more, and let go. Idempotent."""
        if self._closed:
            return
        try:
            await self.close_write()
            if self._broken is None:
                await self._say_last_word()
                await self._send(CLOSE)
        except Unavailable as error:  # the bus is closed; the other side notices the silence
            log.debug("stream %s not closed properly: %s", self.ref.id, error)
        self._closed = True
        await self._let_go()

    async def gone(self) -> None:
        """Return once the other side has closed or is lost, or this side has closed."""
        await self._gone.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, DavitError) and not isinstance(error, StreamCancelled | StreamBroken):
            await self.fail(error)
        elif error is not None:
            await self.cancel(str(error) or type(error).__name__)
        await self.aclose()

    async def _let_go(self) -> None:
        if self._heart is not None and self._heart is not asyncio.current_task():
            self._heart.cancel()
        if self._subscription is not None:
            subscription, self._subscription = self._subscription, None
            await subscription.unsubscribe()
        self._chunks.clear()
        self._gone.set()
        self._arrived.set()
        self._credit_grown.set()

    # -- frames -------------------------------------------------------------------------------------------------

    async def _grant(self, taking: int = 0) -> None:
        self._granted = self._consumed + taking + self._window
        await self._send(CREDIT, _CREDIT.pack(self._granted) + self._address)
        self._address = b""

    async def _send(self, kind: int, payload: bytes | memoryview = b"") -> None:
        frame = b"".join((_HEADER.pack(kind, self._number), payload))
        self._number = (self._number + 1) % _NUMBERS
        await self._bus.publish(self._subject, frame)

    async def _received(self, frame: bytes) -> None:
        if self._broken is not None or self._closed:
            return
        kind, number = _HEADER.unpack_from(frame)
        if number != self._expected:
            self._break(StreamBroken(f"frames were lost on the bus: got {number}, expected {self._expected}"))
            return
        self._expected = (number + 1) % _NUMBERS
        self._last_heard = asyncio.get_running_loop().time()
        if not self._accepted:
            self._accepted = True
            self._find_peer(kind, frame)
            await self._grant()
            await self._say_last_word()
        self._apply(kind, frame)

    def _find_peer(self, kind: int, frame: bytes) -> None:
        """Take the acceptor's subject from its first frame."""
        address = frame[_HEADER.size + _CREDIT.size :] if kind == CREDIT else b""
        if address:
            self._subject = address.decode()

    def _apply(self, kind: int, frame: bytes) -> None:
        if kind == DATA:
            self._chunks.append(frame[_HEADER.size :])
            self._arrived.set()
        elif kind == CREDIT:
            self._credit = max(self._credit, _CREDIT.unpack_from(frame, _HEADER.size)[0])
            self._credit_grown.set()
        elif kind == END:
            self._peer_ended = True
            self._arrived.set()
        elif kind == FAIL:
            self._failure = from_wire(orjson.loads(frame[_HEADER.size :]))
            self._arrived.set()
        elif kind == CANCEL:
            self._break(StreamCancelled(orjson.loads(frame[_HEADER.size :])["reason"]))
        elif kind == CLOSE:
            self._peer_closed = True
            self._gone.set()
            self._arrived.set()
            self._credit_grown.set()
        elif kind != PING:
            self._break(StreamBroken(f"unknown frame {kind}"))

    def _break(self, error: DavitError) -> None:
        self._broken = error
        self._gone.set()
        self._chunks.clear()
        self._arrived.set()
        self._credit_grown.set()


async def offer(bus: Transport) -> ByteStream:
    """A new stream; its `ref` goes to the other side in a request. Writes wait until it is accepted."""
    stream = ByteStream(bus, bus.stream_scope + secrets.token_hex(12), offered=True)
    await stream._open()
    return stream


async def accept(bus: Transport, ref: StreamRef) -> ByteStream:
    """The other end of an offered stream. Only one side may accept it, once."""
    stream = ByteStream(bus, ref.id, offered=False)
    await stream._open()
    return stream
