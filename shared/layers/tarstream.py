"""Reading a tar front to back, from any source of chunks.

Where it ends is Go's rule, whose programs make the archives that come here: two zero blocks, or the end of the source
after an entry's last byte, be it before or in the middle of what fills its last block. After one zero block nothing but
another, or the end, may come.

Source: Go, archive/tar, Reader.Next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from shared.layers import tarheader
from shared.layers.tarheader import BLOCK, ZERO_BLOCK, Entry, TarError

# An extended header holds a name, a link and extended attributes, each limited to 64 KiB or less by the kernel.
MAX_EXTENDED_BYTES = 4 * 1024 * 1024
MAX_SPARSE_RUNS = 1 << 20

# A hard link may carry its file's size, and no data follows (tar(5)).
_WITHOUT_DATA = frozenset((b"1", b"2", b"3", b"4", b"5", b"6"))

Records = list[tuple[bytes, bytes]]


class TarStream:
    """The entries of a tar, one after the other; the data of each is read before the next is asked for.

    Args:
        read: Gives the next chunk of the (uncompressed) archive, of any size; ``b""`` at the end.
    """

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._read = read
        self._chunk = b""
        self._at = 0
        self._left = 0  # of the current entry's data
        self._padding = 0
        self._over = False

    def next(self) -> Entry | None:
        """The next entry, None at the end of the archive.

        Raises:
            TarError: The archive is damaged or ends in the middle.
        """
        self.skip()
        records: Records = []
        long_name = long_link = ""
        while True:
            block = self._block()
            if block is None:
                if records or long_name:
                    raise TarError("unexpected EOF")
                return None
            entry = tarheader.parse(block)
            kind = entry.kind
            if kind in (tarheader.PAX_HEADER, tarheader.PAX_SOLARIS):
                records = tarheader.parse_pax(self._extended(entry))
            elif kind == tarheader.PAX_GLOBAL:
                self._extended(entry)  # describes the archive; neither Docker nor containerd apply it to files
            elif kind == tarheader.GNU_LONG_NAME:
                long_name = tarheader.text(self._extended(entry))
            elif kind == tarheader.GNU_LONG_LINK:
                long_link = tarheader.text(self._extended(entry))
            else:
                entry.name = long_name or entry.name
                entry.link = long_link or entry.link
                return self._begin(entry, block, records)

    def _begin(self, entry: Entry, block: bytes, records: Records) -> Entry:
        tarheader.apply_pax(entry, records)
        if "\0" in entry.name or "\0" in entry.link:
            raise TarError("invalid tar header: a name contains NUL")
        if entry.kind in _WITHOUT_DATA:
            entry.stored = 0
        self._left = entry.stored
        self._padding = -entry.stored % BLOCK
        if entry.kind == tarheader.GNU_SPARSE:
            self._old_sparse(entry, block)
        elif any(key.startswith(b"GNU.sparse.") for key, _ in records):
            self._pax_sparse(entry, records)
        return entry

    @property
    def unused_bytes(self) -> int:
        """Bytes that were read from the source and not used yet: the rest of the last chunk."""
        return len(self._chunk) - self._at

    @property
    def left_bytes(self) -> tuple[int, int]:
        """Bytes of the current entry that are still to come, and those that fill its last block."""
        return self._left, self._padding

    def data(self) -> Iterator[memoryview]:
        """The current entry's data, in pieces that are only valid until the next one."""
        while self._left:
            if self._at >= len(self._chunk):
                self._fill()
            piece = memoryview(self._chunk)[self._at : self._at + self._left]
            self._at += len(piece)
            self._left -= len(piece)
            yield piece

    def content(self, limit: int) -> bytes:
        """All of the current entry's data, when it is at most `limit` bytes."""
        if self._left > limit:
            raise TarError(f"an entry of {self._left} bytes is larger than the {limit} allowed here")
        return self._exactly(self._take_left())

    def skip(self) -> None:
        """Go past what is left of the current entry."""
        left, self._left = self._left, 0
        self._pass(left)
        self._pass_padding()

    def _pass(self, left: int) -> None:
        while left:
            if self._at >= len(self._chunk):
                self._fill()
            step = min(left, len(self._chunk) - self._at)
            self._at += step
            left -= step

    def _pass_padding(self) -> None:
        """What fills a block may be cut off by the end of the source."""
        while self._padding:
            if self._at >= len(self._chunk) and not self._more():
                self._padding = 0
                return
            step = min(self._padding, len(self._chunk) - self._at)
            self._at += step
            self._padding -= step

    def drain(self) -> None:
        """Read the rest of the source, so that whoever computes its digest has seen all of it."""
        self._chunk = b""
        while self._read():
            pass

    def _take_left(self) -> int:
        left, self._left = self._left, 0
        return left

    def _fill(self) -> None:
        if not self._more():
            raise TarError("unexpected EOF")

    def _more(self) -> bool:
        """The next chunk, if there is one; the source is not asked again after its end."""
        if not self._over:
            self._chunk = self._read()
            self._at = 0
            self._over = not self._chunk
        return not self._over

    def _exactly(self, size: int) -> bytes:
        at = self._at
        if at + size <= len(self._chunk):
            self._at = at + size
            return self._chunk[at : at + size]
        parts = []
        while size:
            if self._at >= len(self._chunk):
                self._fill()
            part = self._chunk[self._at : self._at + size]
            self._at += len(part)
            size -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _block(self) -> bytes | None:
        """The next header block; None at the end."""
        if self._at >= len(self._chunk) and not self._more():
            return None
        block = self._exactly(BLOCK)
        if block != ZERO_BLOCK:
            return block
        if (self._at < len(self._chunk) or self._more()) and self._exactly(BLOCK) != ZERO_BLOCK:
            raise TarError("invalid tar header: a zero block in the middle of the archive")
        return None

    def _extended(self, entry: Entry) -> bytes:
        if entry.stored > MAX_EXTENDED_BYTES:
            raise TarError(f"an extended header of {entry.stored} bytes is too large")
        data = self._exactly(entry.stored)
        self._padding = -entry.stored % BLOCK
        self._pass_padding()
        return data

    # -- sparse files -------------------------------------------------------------------------------------------

    def _old_sparse(self, entry: Entry, block: bytes) -> None:
        """GNU's first format: a map in the header, continued in blocks before the data."""
        runs = _runs(block[386:482])
        extended = block[482]
        while extended:
            more = self._exactly(BLOCK)
            runs += _runs(more[:504])
            extended = more[504]
            _check_runs(runs)
        entry.kind = tarheader.REGULAR
        self._set_sparse(entry, tarheader.number(block[483:495]), runs)

    def _pax_sparse(self, entry: Entry, records: Records) -> None:
        """GNU's formats in extended headers: 0.0 and 0.1 carry the map in records, 1.0 before the data."""
        found = dict(records)
        name = found.get(b"GNU.sparse.name")
        if name:
            entry.name = name.decode("utf-8", "surrogateescape")
        size = found.get(b"GNU.sparse.realsize") or found.get(b"GNU.sparse.size") or b""
        if found.get(b"GNU.sparse.major") == b"1":
            runs = self._leading_map()
        elif b"GNU.sparse.map" in found:
            runs = _paired(found[b"GNU.sparse.map"].split(b","))
        else:
            offsets = [value for key, value in records if key == b"GNU.sparse.offset"]
            lengths = [value for key, value in records if key == b"GNU.sparse.numbytes"]
            runs = _paired([part for pair in zip(offsets, lengths, strict=False) for part in pair])
        if not size.isdigit():
            raise TarError("invalid pax header: a sparse file without its size")
        self._set_sparse(entry, int(size), runs)

    def _leading_map(self) -> list[tuple[int, int]]:
        numbers: list[bytes] = []
        wanted = -1
        rest = b""
        while wanted < 0 or len(numbers) < wanted:
            if self._left < BLOCK:
                raise TarError("invalid sparse file: its map does not end")
            self._left -= BLOCK
            *lines, rest = (rest + self._exactly(BLOCK)).split(b"\n")
            numbers += lines
            if wanted < 0 and numbers:
                wanted = 2 * _natural(numbers.pop(0))
                if wanted > 2 * MAX_SPARSE_RUNS:
                    raise TarError("invalid sparse file: too many runs")
        return _paired(numbers[:wanted])

    def _set_sparse(self, entry: Entry, size: int, runs: list[tuple[int, int]]) -> None:
        _check_runs(runs)
        end = 0
        for offset, length in runs:
            if offset < end or length < 0 or offset + length > size:
                raise TarError("invalid sparse file: its runs are not in order or leave the file")
            end = offset + length
        if sum(length for _, length in runs) != self._left:
            raise TarError("invalid sparse file: its runs do not match its data")
        entry.sparse = runs
        entry.size = size


def _check_runs(runs: list[tuple[int, int]]) -> None:
    if len(runs) > MAX_SPARSE_RUNS:
        raise TarError("invalid sparse file: too many runs")


def _runs(fields: bytes) -> list[tuple[int, int]]:
    runs = []
    for at in range(0, len(fields) - 23, 24):
        if fields[at] == 0 and fields[at + 12] == 0:
            break
        runs.append((tarheader.number(fields[at : at + 12]), tarheader.number(fields[at + 12 : at + 24])))
    return runs


def _natural(value: bytes) -> int:
    if not value.isdigit() or len(value) > 20:
        raise TarError(f"invalid sparse file: {value[:40]!r} is no number")
    return int(value)


def _paired(values: list[bytes]) -> list[tuple[int, int]]:
    numbers = [_natural(value) for value in values if value != b""]
    return list(zip(numbers[::2], numbers[1::2], strict=False))
