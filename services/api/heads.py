"""The heads of responses, with headers spelled as Go spells them: ``Content-Type``, ``Api-Version``.

Their case means nothing in HTTP, but scripts look for what Docker writes, and ASGI servers write all in small letters.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from uvicorn.protocols.http.httptools_impl import HEADER_VALUE_RE, STATUS_LINE, RequestResponseCycle

from shared.errors import Internal

NO_BODY = (204, 304)


@lru_cache(maxsize=256)
def spelled(name: bytes) -> bytes:
    """``content-type`` as ``Content-Type``. Source: Go, textproto.CanonicalMIMEHeaderKey."""
    return b"-".join(part.capitalize() for part in name.split(b"-"))


class Cycle(RequestResponseCycle):
    """uvicorn's request and response, of which only the head's writing is different."""

    async def send(self, message: Any) -> None:
        if self.response_started or message["type"] != "http.response.start":
            await super().send(message)
            return
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        self.response_started = True
        self.waiting_for_100_continue = False
        self.transport.write(self._head(message["status"], message["headers"]))

    def _head(self, status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
        lines = [STATUS_LINE[status]]
        for name, value in headers:
            self._note(name.lower(), value)
            lines += [spelled(name), b": ", value, b"\r\n"]
        if not self.keep_alive:
            lines.append(b"Connection: close\r\n")
        if self.chunked_encoding is None and self.scope["method"] != "HEAD" and status not in NO_BODY:
            self.chunked_encoding = True
            lines.append(b"Transfer-Encoding: chunked\r\n")
        lines.append(b"\r\n")
        return b"".join(lines)

    def _note(self, name: bytes, value: bytes) -> None:
        if HEADER_VALUE_RE.search(value):  # or a value could begin a header of its own
            raise Internal(f"a value of the header {name.decode('latin-1')} is none")
        if name == b"content-length":
            self.expected_content_length = int(value)
            self.chunked_encoding = False
