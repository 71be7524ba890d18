"""Records as they lie in a spool file, one after the other.

::

    0           4           8
    ┌───────────┬───────────┬──────────────────┐
    │ n (LE)    │ CRC-32    │ n bytes of JSON  │  …  n = 0: nothing was written from here on
    └───────────┴───────────┴──────────────────┘

The file is made longer ahead, with zeros, so that a full disk cannot keep a record out that has a place in it.
"""

from __future__ import annotations

import struct
import zlib

HEAD = struct.Struct("<II")
LARGEST_BYTES = 1 << 20


class Torn(Exception):
    """There is something, but not a whole record: its writer was killed, or is just writing it."""


def packed(payload: bytes) -> bytes:
    return HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def unpacked(data: bytes, at: int) -> tuple[bytes, int] | None:
    """The record at a position, and the position after it; None where nothing was written or read yet.

    Raises:
        Torn: What is there is no record.
    """
    if at + HEAD.size > len(data):
        return None
    size, check = HEAD.unpack_from(data, at)
    if size == 0:
        if check:
            raise Torn
        return None
    if size > LARGEST_BYTES:
        raise Torn
    end = at + HEAD.size + size
    if end > len(data):
        return None
    payload = data[at + HEAD.size : end]
    if zlib.crc32(payload) != check:
        raise Torn
    return payload, end
