"""Raw access to a client's connection, as an ASGI extension of uvicorn's HTTP protocol.

Docker's attach and exec leave HTTP: after the response's headers both sides speak raw bytes, and each may end its own
direction alone. A handler finds ``scope["extensions"]["davit.hijack"]`` and calls it with a status and headers; from
then on the connection is its `RawConnection`, and uvicorn is done with it.

::

    client                               HijackProtocol              handler
      │ POST …/attach, Upgrade: tcp ──────►│ parser stops at the end of the headers
      │ stdin bytes, sent early ──────────►│ kept ──────────────┐       │
      │                                    │◄── hijack(101) ────┼───────┤
      │◄── 101 UPGRADED ───────────────────┤                    └──────►│ read()
      │ shutdown(SHUT_WR) ────────────────►│ eof_received ─────────────►│ read() -> b""
      │◄──────────────────── write(), close() ──────────────────────────┤

Clients before ``Upgrade: tcp`` get 200 and the same. Their bytes would be parsed as a next request, so on paths that
may be hijacked everything after the request itself is kept aside until the handler has decided.

Source: Docker Engine API 1.50, ContainerAttach ("Hijacking"); RFC 9110 section 7.8.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import select
import socket
import struct
from collections.abc import Iterable
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from services.api.heads import Cycle

EXTENSION_HIJACK = "davit.hijack"
EXTENSION_PEER = "davit.peer"
SO_PEERPIDFD = 77

READ_HIGH_WATER_BYTES = 256 * 1024
GONE_CHECK_S = 5.0
LINGER_S = 2.0
REASONS = {101: b"UPGRADED", 200: b"OK"}
# Requests that may become raw connections without saying so in an Upgrade header.
# As much as Go's server takes.
HEAD_BYTES = 1 << 20
HEAD_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
MAY_HIJACK = re.compile(rb"POST [^ ]*/(?:containers/[^/ ?]+/attach|exec/[^/ ?]+/start)[ ?]")
CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)
UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)

Headers = Iterable[tuple[bytes, bytes]]


class RawConnection:
    """A client's connection after HTTP: bytes in both directions, each with back-pressure and an end of its own."""

    def __init__(self, protocol: HijackProtocol) -> None:
        self._protocol = protocol
        self._buffer = bytearray()
        self._eof = False
        self._lost = asyncio.Event()
        self._readable = asyncio.Event()
        self.received_bytes = 0
        self.sent_bytes = 0

    def feed(self, data: bytes) -> None:
        self.received_bytes += len(data)
        self._buffer += data
        if len(self._buffer) > READ_HIGH_WATER_BYTES:
            self._protocol.flow.pause_reading()
        self._readable.set()

    def feed_eof(self) -> None:
        self._eof = True
        self._readable.set()

    def connection_lost(self) -> None:
        self._eof = True
        self._lost.set()
        self._readable.set()

    @property
    def lost(self) -> bool:
        """Whether the connection is gone in both directions."""
        return self._lost.is_set()

    async def read(self) -> bytes:
        """What the client sent, as soon as there is any; b"" once it has ended its direction."""
        while not self._buffer and not self._eof:
            self._readable.clear()
            await self._readable.wait()
        data = bytes(self._buffer)
        self._buffer.clear()
        if not self.lost:
            self._protocol.flow.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        """Send to the client, waiting while it is slow. Raises ConnectionResetError when it is gone."""
        if self.lost or self._protocol.transport.is_closing():
            raise ConnectionResetError("the client is gone")
        self.sent_bytes += len(data)
        self._protocol.transport.write(data)
        if self._protocol.flow.write_paused:
            await self._protocol.flow.drain()

    async def wait_lost(self) -> None:
        """Return when the client is gone in both directions.

        After a half-close nothing is read any more, so a later full close shows only in poll(2), as POLLHUP.
        """
        while not self.lost:
            try:
                await asyncio.wait_for(self._lost.wait(), GONE_CHECK_S)
            except TimeoutError:
                if self._eof and self._hung_up():
                    return

    def _hung_up(self) -> bool:
        descriptor = self._protocol.transport.get_extra_info("socket").fileno()
        if descriptor < 0:
            return True
        poll = select.poll()
        poll.register(descriptor, 0)
        return bool(poll.poll(0))

    async def finish(self) -> None:
        """End our direction, and close when the client has ended its own.

        Closing over input that nobody has read would reset the connection under output that the client has yet to
        read. A client that goes on sending is not listened to for long.
        """
        transport = self._protocol.transport
        if not self._eof and transport.can_write_eof() and not transport.is_closing():
            transport.write_eof()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER_S):
                    while await self.read():
                        pass
        transport.close()

    def close(self) -> None:
        """End both directions at once, after what was written has left."""
        self._protocol.transport.close()


BODY_WAITING_BYTES = 512 * 1024


class HijackProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with the hijack and peer extensions."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._aside: RawConnection | None = None
        self._body_left = 0
        self._peer: dict[str, Any] | None = None
        self._head_bytes: int | None = 0  # of the head that is being read; None while a body is

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._peer = peer_of(transport)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0
        cast("dict[str, Any]", self.scope)["extensions"] = {EXTENSION_HIJACK: self._hijack, EXTENSION_PEER: self._peer}

    def on_headers_complete(self) -> None:
        self._head_bytes = None
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        cycle.__class__ = Cycle  # uvicorn makes its own, and asks nobody which
        super()._start_asgi_task(cycle, app)

    def data_received(self, data: bytes) -> None:
        if self._head_bytes is not None and self._aside is None:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:  # the parser itself would collect it for ever
                self.transport.write(HEAD_TOO_LARGE)
                self.transport.close()
                return
        if self._body_left:
            data = self._feed_body(data)
        if self._aside is not None:
            if data:
                self._aside.feed(data)
            return
        rest = b""
        if MAY_HIJACK.match(data):
            data, rest = split_request(data)
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._body_left = declared_length(self.headers)
            self._keep_aside(self._feed_body(data[upgrade.args[0] :]))
        except httptools.HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("Invalid HTTP request received.")
        else:
            if rest:
                self._keep_aside(rest)

    def on_body(self, body: bytes) -> None:
        """As uvicorn's, but with room for several reads: pausing and resuming for each of them takes longer than it."""
        cycle = self.cycle
        if (self.parser.should_upgrade() and self._should_upgrade()) or cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > BODY_WAITING_BYTES:
            self.flow.pause_reading()
        cycle.message_event.set()

    def _feed_body(self, data: bytes) -> bytes:
        """Give the request its body, which the parser skips in requests that ask for an upgrade; the rest of `data`."""
        body, rest = data[: self._body_left], data[self._body_left :]
        self._body_left -= len(body)
        self.cycle.body += body
        self.cycle.more_body = self._body_left > 0
        self.cycle.message_event.set()
        return rest

    def _keep_aside(self, data: bytes) -> None:
        """From here on the parser is out of it: bytes wait for the handler's decision, and HTTP ends with it."""
        self._aside = RawConnection(self)
        if data:
            self._aside.feed(data)
        if self.cycle is not None:
            self.cycle.keep_alive = False

    async def _hijack(self, status: int, headers: Headers) -> RawConnection:
        """Send the response's head and hand over the connection.

        Raises:
            ConnectionResetError: The client has gone.
        """
        cycle: RequestResponseCycle = self.cycle
        if self.transport.is_closing() or cycle.disconnected:
            raise ConnectionResetError("the client is gone")
        if self._aside is None:
            self._aside = RawConnection(self)
        cycle.response_started = cycle.response_complete = True
        head = [b"HTTP/1.1 %d %s\r\n" % (status, REASONS.get(status, b"Switching Protocols"))]
        head += [b"%s: %s\r\n" % pair for pair in headers]
        head.append(b"\r\n")
        self.flow.resume_reading()
        self.transport.write(b"".join(head))
        return self._aside

    def eof_received(self) -> bool | None:  # type: ignore[override]
        if self._aside is None:
            return None
        self._aside.feed_eof()
        return True  # keeps our direction open

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._peer is not None and (pidfd := self._peer.pop("pidfd", None)) is not None:
            os.close(pidfd)
        if self._aside is not None:
            self._aside.connection_lost()


def declared_length(headers: Headers) -> int:
    for name, value in headers:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0


def split_request(data: bytes) -> tuple[bytes, bytes]:
    """The first request in `data` and what follows it, when that can be told from its head alone."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return data, b""
    head = data[:end]
    if UPGRADE.search(head) or CHUNKED.search(head):
        return data, b""
    length = CONTENT_LENGTH.search(head)
    end += 4 + (int(length[1]) if length else 0)
    return data[:end], data[end:]


def peer_of(transport: asyncio.BaseTransport) -> dict[str, Any] | None:
    """Who is at the other end: ``{"uid", "gid", "pid", "pidfd"}`` on a unix socket, ``{"subject", …}`` with a client
    certificate. The pidfd, where the kernel has it (Linux 6.5), tells whether the process is still the one that
    connected; whoever takes it out of the dictionary closes it.

    Source: unix(7), SO_PEERCRED; Linux, include/uapi/asm-generic/socket.h, SO_PEERPIDFD.
    """
    certificate = transport.get_extra_info("peercert")
    if certificate:
        return certificate_facts(certificate, transport.get_extra_info("ssl_object"))
    wrapped = transport.get_extra_info("socket")
    if wrapped is None or wrapped.family != socket.AF_UNIX:
        return None
    duplicate = socket.socket(fileno=os.dup(wrapped.fileno()))
    with duplicate:
        raw = duplicate.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        try:
            pidfd = duplicate.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
        except OSError:  # an older kernel, or the process has been reaped
            pidfd = None
    pid, uid, gid = struct.unpack("3i", raw)
    return {"pid": pid, "uid": uid, "gid": gid, "pidfd": pidfd}


def certificate_facts(certificate: dict[str, Any], tls: Any) -> dict[str, Any]:
    """Of a client's certificate that was verified: the common name, the names beside it, and its fingerprint."""
    parts = [(key, value) for part in certificate.get("subject", ()) for key, value in part]
    names = [value for key, value in parts if key == "commonName"]
    facts: dict[str, Any] = {
        "subject": names[0] if names else "unnamed",
        "distinguished_name": ",".join(f"{key}={value}" for key, value in parts),
        "issuer": ",".join(f"{key}={value}" for part in certificate.get("issuer", ()) for key, value in part),
        "serial": certificate.get("serialNumber", ""),
        "sans": [f"{kind}:{value}" for kind, value in certificate.get("subjectAltName", ())],
    }
    if tls is not None and (encoded := tls.getpeercert(True)):
        facts["fingerprint"] = f"sha256:{hashlib.sha256(encoded).hexdigest()}"
    return facts
