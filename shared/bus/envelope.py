"""Bodies of messages too large for the bus as they are: compressed, which shrinks JSON to a tenth or less.

The list of what changed in a container after an upgrade, or of thousands of volumes, is larger than the megabyte that
a NATS server takes in one message unless it is told otherwise.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping

HEADER_ENCODING = "Davit-Encoding"
DEFLATE = "deflate"
COMPRESS_FROM_BYTES = 256 * 1024
FASTEST = 1


async def packed(body: bytes) -> tuple[bytes, dict[str, str]]:
    """The body as it is sent, and the headers that say how; compressed beside the event loop, and only when large."""
    if len(body) < COMPRESS_FROM_BYTES:
        return body, {}
    return await asyncio.to_thread(zlib.compress, body, FASTEST), {HEADER_ENCODING: DEFLATE}


async def unpacked(body: bytes, headers: Mapping[str, str] | None) -> bytes:
    """The body as it was before `packed`."""
    if not headers or headers.get(HEADER_ENCODING) != DEFLATE:
        return body
    return await asyncio.to_thread(zlib.decompress, body)
