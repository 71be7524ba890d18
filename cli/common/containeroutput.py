"""A container's output, copied to this process's own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import IO

from shared.docker.frames import STDERR, Demultiplexer


def copy(chunks: Iterator[bytes], *, multiplexed: bool) -> None:
    """Write it as it comes; multiplexed: frames of stdout and stderr, each to its own."""
    frames = Demultiplexer()
    for chunk in chunks:
        if not multiplexed:
            _write(sys.stdout.buffer, chunk)
            continue
        for one in frames.feed(chunk):
            _write(sys.stderr.buffer if one.stream == STDERR else sys.stdout.buffer, one.payload)


def _write(target: IO[bytes], data: bytes) -> None:
    target.write(data)
    target.flush()
