"""A byte stream in batches, each with the position that it leads to.

Who reads such a stream and loses it asks for the rest from the position of the last complete batch. What a position
means, only the writer knows::

    0                  2               6          6 + n
    ┌──────────────────┬───────────────┬──────────┬──────────────┐
    │ n: bytes of      │ bytes of data │ position │ data         │
    │ position (BE)    │ (BE)          │          │              │
    └──────────────────┴───────────────┴──────────┴──────────────┘
"""

from __future__ import annotations

import struct
from typing import NamedTuple, Protocol

_HEAD = struct.Struct(">HI")


class Source(Protocol):
    """A stream's reading side."""

    async def read(self) -> bytes: ...


class Batch(NamedTuple):
    """data: may be empty, when there is only a position to tell."""

    position: str
    data: bytes


def pack(batch: Batch) -> bytes:
    position = batch.position.encode()
    return _HEAD.pack(len(position), len(batch.data)) + position + batch.data


def _whole(chunk: bytes) -> Batch | None:
    """The batch that a chunk is, when it is just one: most are, and need not be put together."""
    position_bytes, data_bytes = _HEAD.unpack_from(chunk)
    head_end = _HEAD.size + position_bytes
    if len(chunk) != head_end + data_bytes:
        return None
    return Batch(chunk[_HEAD.size : head_end].decode(), chunk[head_end:])


class BatchReader:
    """Puts batches together from what a stream gives."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._buffer = bytearray()

    async def read(self) -> Batch | None:
        """The next complete batch; None at the end. What the stream's `read` raises is raised here."""
        if not self._buffer:
            chunk = await self._source.read()
            if len(chunk) >= _HEAD.size and (whole := _whole(chunk)) is not None:
                return whole
            self._buffer += chunk
        if not await self._fill(_HEAD.size):
            return None
        position_bytes, data_bytes = _HEAD.unpack_from(self._buffer)
        size = _HEAD.size + position_bytes + data_bytes
        if not await self._fill(size):
            return None
        head_end = _HEAD.size + position_bytes
        batch = Batch(self._buffer[_HEAD.size : head_end].decode(), bytes(self._buffer[head_end:size]))
        del self._buffer[:size]
        return batch

    async def _fill(self, size: int) -> bool:
        while len(self._buffer) < size:
            chunk = await self._source.read()
            if not chunk:
                return False
            self._buffer += chunk
        return True
