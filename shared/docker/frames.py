"""Docker's multiplexed stream, in which stdout and stderr share a connection.

::

    stream (1 byte) | zero (3 bytes) | length (4 bytes, big-endian) | payload

Source: Docker Engine API, ContainerAttach, "Stream format".
"""

from __future__ import annotations

from typing import NamedTuple

STDIN, STDOUT, STDERR, SYSTEM_ERROR = range(4)
NUMBERS = {"stdin": STDIN, "stdout": STDOUT, "stderr": STDERR}
HEADER_BYTES = 8


class Frame(NamedTuple):
    """One frame: `stream` is `STDOUT`, `STDERR`, …"""

    stream: int
    payload: bytes


def frame(stream: int, payload: bytes) -> bytes:
    """A payload with its header."""
    return header(stream, len(payload)) + payload


def header(stream: int, size: int) -> bytes:
    return bytes((stream, 0, 0, 0)) + size.to_bytes(4, "big")


class Demultiplexer:
    """Cuts bytes, as they come, into frames. What of a frame has come is `pending`."""

    __slots__ = ("pending",)

    def __init__(self) -> None:
        self.pending = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete now, in order."""
        self.pending += data
        found = []
        at = 0
        while len(self.pending) >= (start := at + HEADER_BYTES):
            end = start + int.from_bytes(self.pending[at + 4 : start], "big")
            if len(self.pending) < end:
                break
            found.append(Frame(self.pending[at], bytes(self.pending[start:end])))
            at = end
        del self.pending[:at]
        return found
