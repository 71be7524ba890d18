"""A container's output, copied to this process's own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import IO

_FRAME_HEADER = 8
_STDERR = 2


def copy(chunks: Iterator[bytes], *, multiplexed: bool) -> None:
    """Write it as it comes; multiplexed: frames of stdout and stderr, each to its own."""
    buffered = b""
    for chunk in chunks:
        if not multiplexed:
            _write(sys.stdout.buffer, chunk)
            continue
        buffered += chunk
        while len(buffered) >= _FRAME_HEADER:
            length = int.from_bytes(buffered[4:_FRAME_HEADER], "big")
            if len(buffered) < _FRAME_HEADER + length:
                break
            target = sys.stderr.buffer if buffered[0] == _STDERR else sys.stdout.buffer
            _write(target, buffered[_FRAME_HEADER : _FRAME_HEADER + length])
            buffered = buffered[_FRAME_HEADER + length :]


def _write(target: IO[bytes], data: bytes) -> None:
    target.write(data)
    target.flush()
