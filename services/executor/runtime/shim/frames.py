"""Frames on a shim's socket: four bytes of length, big-endian, then one JSON document.

A connection starts in frames. Requests are {"id", "op", …}, answers {"id", "ok": …} or {"id", "error": …}, and what the
shim says by itself is {"event": …}. After the answer to "attach" the connection carries raw bytes.
"""

from __future__ import annotations

from services.executor.runtime import jsonlite
from services.executor.runtime.errors import InvalidSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LARGEST = 1 << 20


def pack(message: dict[str, Any]) -> bytes:
    """One frame."""
    data = jsonlite.dumps(message).encode()
    return len(data).to_bytes(4, "big") + data


class Unpacker:
    """Takes bytes as they come, gives whole messages.

    Attributes:
        rest: bytes after the last whole message; raw data when the connection has changed over.
    """

    __slots__ = ("rest",)

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, data: bytes) -> None:
        """Add bytes."""
        self.rest += data

    def next(self) -> dict[str, Any] | None:
        """The next whole message, or None.

        Raises:
            InvalidSpec: a length beyond all reason, or not an object.
        """
        if len(self.rest) < 4:
            return None
        size = int.from_bytes(self.rest[:4], "big")
        if size > LARGEST:
            raise InvalidSpec("frame", f"{size} bytes are too long")
        if len(self.rest) < 4 + size:
            return None
        body, self.rest = self.rest[4 : 4 + size], self.rest[4 + size :]
        message = jsonlite.loads(body)
        if not isinstance(message, dict):
            raise InvalidSpec("frame", "must be a JSON object")
        return message
