"""TLS that can be half-closed, under an ordinary asyncio protocol.

asyncio ends the whole connection when the peer ends its direction with a close_notify. Docker's clients do just that
when a container's stdin is at its end and go on reading, so that every `docker run` over TLS would lose its output.

::

    raw transport ──► TlsProtocol ── MemoryBIO ── SSLObject ── plain bytes ──► inner protocol
                  ◄──              ◄───────────────────────── TlsTransport ◄──

Source: RFC 8446 section 6.1 (each direction is closed on its own).
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any

HANDSHAKE_TIMEOUT_S = 10.0
READ_BYTES = 64 * 1024
# What Go's server says, and to which beginnings.
BEGINNING_BYTES = 5
HTTP_BEGINNINGS = (b"GET /", b"HEAD ", b"POST ", b"PUT /", b"OPTIO", b"DELET")
SPOKEN_TO_IN_HTTP = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"


class TlsProtocol(asyncio.Protocol):
    """The server's side of TLS on one connection.

    Args:
        inner: The protocol that speaks plain bytes; connected once the handshake is done.
    """

    def __init__(self, context: ssl.SSLContext, inner: asyncio.Protocol) -> None:
        self._context = context
        self._inner = inner
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._established = False
        self._eof = False
        self._paused = False
        self._timeout: asyncio.TimerHandle | None = None
        self._first = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.raw = transport
        self._timeout = asyncio.get_running_loop().call_later(HANDSHAKE_TIMEOUT_S, transport.abort)

    def data_received(self, data: bytes) -> None:
        if not self._established and len(self._first) < BEGINNING_BYTES:
            self._first += data[:BEGINNING_BYTES]
        self._incoming.write(data)
        self.advance()

    def eof_received(self) -> bool | None:
        return None  # the end of the connection itself, whether or not TLS was ended before: nobody reads any more

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
        if self._established:
            self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def advance(self) -> None:
        """Do what the bytes at hand allow: the handshake, then plain bytes to the inner protocol."""
        try:
            if not self._established and not self._shake_hands():
                return
            self._read()
        except ssl.SSLError:
            if not self._established and self._first.startswith(HTTP_BEGINNINGS):
                self.raw.write(SPOKEN_TO_IN_HTTP)
            else:
                self.flush()  # the alert that tells the peer why
            self.raw.close()
        else:
            self.flush()

    def _shake_hands(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self.flush()
            return False
        assert self._timeout is not None
        self._timeout.cancel()
        self._established = True
        self._inner.connection_made(TlsTransport(self))
        return True

    def _read(self) -> None:
        while not self._paused and not self._eof and not self.raw.is_closing():
            try:
                data = self._tls.read(READ_BYTES)
            except ssl.SSLWantReadError:
                return
            except ssl.SSLZeroReturnError:
                data = b""
            if data:
                self._inner.data_received(data)
            else:
                self._eof = True
                if not self._inner.eof_received():
                    self.close()

    def pause(self, paused: bool) -> None:
        self._paused = paused
        if paused:
            self.raw.pause_reading()
        else:
            self.raw.resume_reading()
            asyncio.get_running_loop().call_soon(self._advance_later)

    def _advance_later(self) -> None:
        if not self.raw.is_closing():
            self.advance()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if data and not self.raw.is_closing():
            self._tls.write(data)  # into memory, whole
            self.flush()

    def flush(self) -> None:
        if data := self._outgoing.read():
            self.raw.write(data)

    def close(self) -> None:
        if self.raw.is_closing():
            return
        with contextlib.suppress(ssl.SSLError):  # our close_notify is out; the peer's is not waited for
            self._tls.unwrap()
        self.flush()
        self.raw.close()

    def extra(self, name: str, default: Any) -> Any:
        match name:
            case "sslcontext":
                return self._context
            case "ssl_object":
                return self._tls
            case "peercert":
                return self._tls.getpeercert()
            case _:
                return self.raw.get_extra_info(name, default)


class TlsTransport(asyncio.Transport):
    """The plain side, as the inner protocol sees it."""

    def __init__(self, protocol: TlsProtocol) -> None:
        super().__init__()
        self._protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._protocol.extra(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._protocol.write(data)

    def close(self) -> None:
        self._protocol.close()

    def abort(self) -> None:
        self._protocol.raw.abort()

    def is_closing(self) -> bool:
        return self._protocol.raw.is_closing()

    def pause_reading(self) -> None:
        self._protocol.pause(True)

    def resume_reading(self) -> None:
        self._protocol.pause(False)

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return self._protocol.raw.get_write_buffer_size()
