"""Telling compressions apart by their first bytes, and undoing them piece by piece.

gzip and zstd, the two that registries serve, use the fastest well-kept libraries; the libraries are imported when
first needed, since every reader of a layer is a process of its own.

Source: RFC 1952 (gzip), RFC 8878 (zstd), the xz and bzip2 file formats; moby pkg/archive, DetectCompression.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

Compression = Literal["", "gzip", "zstd", "xz", "bzip2"]

HEAD_BYTES = 12
PIECE_BYTES = 1 << 20
_MAGIC: tuple[tuple[bytes, Compression], ...] = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"BZh", "bzip2"),
)
_SKIPPABLE_ZSTD = 0x184D2A50


class CompressionError(Exception):
    """The compressed data is damaged or ends too early."""


def detect(head: bytes) -> Compression:
    """The compression of data that begins with these bytes; empty for none that is known."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if len(head) >= 4 and int.from_bytes(head[:4], "little") & ~0xF == _SKIPPABLE_ZSTD:
        return "zstd"
    return ""


def prepare(compression: Compression) -> None:
    """Import what a compression needs, for processes that soon cannot open files."""
    if compression != "":
        _opener(compression)


def decompressed(
    read: Callable[[], bytes], compression: Compression, *, piece_bytes: int = PIECE_BYTES
) -> Iterator[bytes]:
    """The plain data of a compressed source, in pieces of bounded size: what follows a piece is not looked at yet.

    Raises:
        CompressionError: The data is damaged or truncated.
    """
    if compression == "":
        while piece := read():
            yield piece
        return
    opener, failures = _opener(compression)
    try:
        yield from _members(read, opener, 0 if compression == "zstd" else piece_bytes)
    except (*failures, EOFError, ValueError) as error:
        raise CompressionError(f"invalid {compression} data: {error}") from error


def _opener(compression: Compression) -> tuple[Callable[[], Any], tuple[Any, ...]]:
    if compression == "gzip":
        from isal import isal_zlib

        return lambda: isal_zlib.decompressobj(wbits=31), (zlib.error, isal_zlib.error)
    if compression == "zstd":
        import zstandard

        return _ZstdDecompressor, (zstandard.ZstdError,)
    if compression == "xz":
        import lzma

        return lambda: _Paced(lzma.LZMADecompressor(memlimit=1 << 30)), (lzma.LZMAError,)
    import bz2

    return lambda: _Paced(bz2.BZ2Decompressor()), (OSError,)


def _members(read: Callable[[], bytes], opener: Callable[[], Any], limit: int) -> Iterator[bytes]:
    """The members (frames, streams) of a file, which may follow each other."""
    member = opener()
    begun = False
    data = read()
    while data:
        begun = True
        while data:
            piece = member.decompress(data, limit) if limit else member.decompress(data)
            data = member.unconsumed_tail
            if piece:
                yield piece
            if member.eof:
                break
            if not piece and not data:
                break
        if member.eof:
            rest = (member.unused_data or data).lstrip(b"\0")  # tapes and some programs pad with zeros
            while not rest:
                rest = read()
                if not rest:
                    return
                rest = rest.lstrip(b"\0")
            member = opener()
            begun = False
            data = rest
        else:
            data = read()
    if begun:
        # What a decompressor holds back would come with more input; none will.
        raise CompressionError("unexpected EOF")


class _Paced:
    """The interface of zlib's objects over that of bz2's and lzma's, which limit their output differently."""

    def __init__(self, decompressor: Any) -> None:
        self._inner = decompressor
        self.unconsumed_tail = b""

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._inner.unused_data)

    def decompress(self, data: bytes, limit: int) -> bytes:
        # These keep unread input themselves and give the rest for empty input; the marker makes the caller ask.
        piece = self._inner.decompress(b"" if data is _MORE else data, limit)
        self.unconsumed_tail = _MORE if not self._inner.eof and not self._inner.needs_input else b""
        return bytes(piece)


_MORE = b"more"


class _ZstdDecompressor:
    """One frame, its output bounded by feeding it little at a time: zstd has no limit per call.

    A block of 128 KiB may be stored in four bytes, so a step gives at most 128 MiB.
    """

    STEP = 4096
    MAX_WINDOW_BYTES = 1 << 27

    def __init__(self) -> None:
        import zstandard

        self._inner = zstandard.ZstdDecompressor(max_window_size=self.MAX_WINDOW_BYTES).decompressobj()
        self.eof = False
        self.unused_data = b""
        self.unconsumed_tail = b""

    def decompress(self, data: bytes) -> bytes:
        step = data[: self.STEP]
        piece = self._inner.decompress(step)
        self.eof = self._inner.eof
        if self.eof:
            self.unused_data = self._inner.unused_data + data[self.STEP :]
            self.unconsumed_tail = b""
        else:
            self.unconsumed_tail = data[self.STEP :]
        return piece
