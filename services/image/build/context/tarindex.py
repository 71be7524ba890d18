"""Where the files of a tar are, found while the tar arrives."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from shared.layers.tarheader import REGULAR, Entry, TarError
from shared.layers.tarstream import TarStream

Runs = list[tuple[int, int]]

# Files up to this size are known by their digest at once: they are in memory anyway.
DIGESTED_BYTES = 256 * 1024


class _More(Exception):
    """The chunk is used up, and there will be another."""


class TarIndex:
    """Use once: `feed` with the tar's bytes in order, then `finish`.

    Args:
        add: Takes each entry, where its data begins in the tar and how long it is there, its runs when it is sparse,
            and its SHA-256 when that is known.

    Attributes:
        digesting: Whether small files are digested as they pass.
    """

    def __init__(self, add: Callable[[Entry, int, int, Runs | None, bytes | None], None]) -> None:
        self._add = add
        self._at = 0  # where the next header begins
        self._data_end = 0  # where the last entry's data ends
        self._seen = 0
        self._rest = b""  # what is known of the tar from there on
        self._ended = False
        self.digesting = False

    def feed(self, chunk: bytes) -> None:
        """Raises TarError, and what `add` raises."""
        before = self._seen
        self._seen += len(chunk)
        if not self._ended and self._at < self._seen:
            self._go_through(self._rest + chunk if self._rest else chunk[max(0, self._at - before) :], last=False)

    def finish(self) -> None:
        """There is no more. Raises TarError when something is missing, other than what fills the last block."""
        if self._data_end > self._seen:
            raise TarError("unexpected EOF")
        if not self._ended and self._at <= self._seen:
            self._go_through(self._rest, last=True)

    def _go_through(self, data: bytes, *, last: bool) -> None:
        """Look at `data`, which begins with a header."""
        chunks = iter((data,))

        def read() -> bytes:
            chunk = next(chunks, None)
            if chunk is None and not last:
                raise _More
            return chunk or b""

        tar = TarStream(read)
        at = 0
        while at <= len(data) or last:
            try:
                member = tar.next()
            except _More:
                break
            if member is None:
                self._ended = True
                break
            begins = len(data) - tar.unused_bytes
            left, padding = tar.left_bytes
            end = begins + left
            if end > len(data) and not last and self.digesting and member.stored <= DIGESTED_BYTES:
                break  # looked at again when all of it is here
            self._take(member, data, begins)
            at, self._data_end = end + padding, self._at + end
        self._at += at
        self._rest = data[at:]

    def _take(self, member: Entry, data: bytes, begins: int) -> None:
        stored = sum(length for _, length in member.sparse) if member.sparse is not None else member.stored
        digest = None
        ends = begins + stored
        if self.digesting and member.kind == REGULAR and member.sparse is None and ends <= len(data):
            digest = hashlib.sha256(memoryview(data)[begins:ends]).digest()
        self._add(member, self._at + begins, stored, member.sparse, digest)
