"""Tar headers: what one says, and how to write one.

Own code instead of `tarfile`, which takes about ten times as long per entry: images have many small files.

Source: POSIX.1-2017 pax, "ustar Interchange Format" and "pax Extended Header"; tar(5), "GNU tar Archives".
"""

from __future__ import annotations

import zlib

BLOCK = 512
ZERO_BLOCK = bytes(BLOCK)

REGULAR, HARD_LINK, SYMLINK, CHAR_DEVICE, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
CONTIGUOUS, GNU_SPARSE, GNU_LONG_NAME, GNU_LONG_LINK = b"7", b"S", b"L", b"K"
PAX_HEADER, PAX_GLOBAL, PAX_SOLARIS = b"x", b"g", b"X"

XATTR_PREFIX = "SCHILY.xattr."
_XATTR_PREFIX_BYTES = XATTR_PREFIX.encode()
_MAX_OCTAL_11 = 0o77777777777
_MAX_OCTAL_7 = 0o7777777


class TarError(Exception):
    """The archive is damaged, truncated, or asks for what must not be."""


class Entry:
    """One entry. Names are text with surrogate escapes for bytes that are no UTF-8.

    Attributes:
        kind: A type flag; regular files are always `REGULAR`.
        size: Bytes of the file, holes included.
        stored: Bytes that follow in the archive.
        sparse: ``(offset, length)`` of the data of a sparse file, in order; None for an ordinary file.
        mtime_ns, atime_ns: Nanoseconds since the epoch; atime_ns None when the archive does not say.
    """

    __slots__ = (
        "atime_ns",
        "gid",
        "kind",
        "link",
        "major",
        "minor",
        "mode",
        "mtime_ns",
        "name",
        "size",
        "sparse",
        "stored",
        "uid",
        "xattrs",
    )

    def __init__(self, name: str, kind: bytes = REGULAR, mode: int = 0o644) -> None:
        self.name = name
        self.kind = kind
        self.mode = mode
        self.uid = 0
        self.gid = 0
        self.size = 0
        self.stored = 0
        self.mtime_ns = 0
        self.atime_ns: int | None = None
        self.link = ""
        self.major = 0
        self.minor = 0
        self.xattrs: dict[str, bytes] | None = None
        self.sparse: list[tuple[int, int]] | None = None


def text(field: bytes) -> str:
    """The text of a NUL-terminated field."""
    end = field.find(b"\0")
    return (field if end < 0 else field[:end]).decode("utf-8", "surrogateescape")


def number(field: bytes) -> int:
    """The value of a numeric field: octal, or base 256 when its first bit is set."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ~(0x80 << 8 * (len(field) - 1))
        if field[0] & 0x40:
            value -= 1 << (8 * len(field) - 1)
        return value
    digits = field.rstrip(b"\0 ").strip(b" \0")
    if not digits:
        return 0
    try:
        return int(digits.split(b"\0")[0], 8)
    except ValueError as error:
        raise TarError("invalid tar header: a number has other characters than octal digits") from error


def parse(block: bytes) -> Entry:
    """The entry of a header block. Extended headers are the caller's to apply.

    Raises:
        TarError: The checksum is wrong or a field is no number.
    """
    stated = number(block[148:156])
    found = _sum(block[:148]) + _sum(block[156:334]) + _sum(block[334:]) + 256
    if found != stated and _signed_sum(block) != stated:
        raise TarError("invalid tar header: wrong checksum")
    entry = Entry(text(block[:100]), block[156:157], number(block[100:108]) & 0o7777)
    entry.uid = number(block[108:116])
    entry.gid = number(block[116:124])
    entry.size = entry.stored = number(block[124:136])
    entry.mtime_ns = number(block[136:148]) * 1_000_000_000
    entry.link = text(block[157:257])
    if entry.kind in (CHAR_DEVICE, BLOCK_DEVICE):
        entry.major = number(block[329:337])
        entry.minor = number(block[337:345])
    if entry.kind in (b"\0", CONTIGUOUS):
        entry.kind = DIRECTORY if entry.name.endswith("/") else REGULAR
    if block[257:263] == b"ustar\0" and block[345]:
        entry.name = f"{text(block[345:500])}/{entry.name}"
    if entry.size < 0:
        raise TarError(f"invalid tar header: {entry.name!r} has a negative size")
    return entry


def _sum(data: bytes) -> int:
    """The sum of at most 256 bytes, which is one less than the lower half of their Adler-32 (RFC 1950)."""
    return (zlib.adler32(data) & 0xFFFF) - 1


def _signed_sum(block: bytes) -> int:
    """The checksum as some old programs computed it, with signed characters."""
    return sum(byte - 256 if byte > 127 else byte for byte in block[:148] + block[156:]) + 256


def parse_pax(data: bytes) -> list[tuple[bytes, bytes]]:
    """The records of an extended header, in order."""
    records = []
    at = 0
    while at < len(data) and data[at] != 0:
        space = data.find(b" ", at, at + 20)
        digits = data[at:space]
        if space < 0 or not digits.isdigit():
            raise TarError("invalid pax header: a record has no length")
        end = at + int(digits)
        if end > len(data) or end <= space + 1 or data[end - 1] != 0x0A:
            raise TarError("invalid pax header: a record is not as long as it says")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals:
            raise TarError("invalid pax header: a record has no value")
        records.append((key, value))
        at = end
    return records


def apply_pax(entry: Entry, records: list[tuple[bytes, bytes]]) -> None:
    """Let an extended header's records overrule the entry's header. Sparse records are read elsewhere."""
    for key, value in records:
        if key == b"path":
            entry.name = value.decode("utf-8", "surrogateescape")
        elif key == b"linkpath":
            entry.link = value.decode("utf-8", "surrogateescape")
        elif key == b"size":
            entry.size = entry.stored = _whole(key, value)
        elif key == b"uid":
            entry.uid = _whole(key, value)
        elif key == b"gid":
            entry.gid = _whole(key, value)
        elif key == b"mtime":
            entry.mtime_ns = _nanoseconds(key, value)
        elif key == b"atime":
            entry.atime_ns = _nanoseconds(key, value)
        elif key.startswith(_XATTR_PREFIX_BYTES):
            name = key[len(_XATTR_PREFIX_BYTES) :].decode("utf-8", "surrogateescape")
            entry.xattrs = {**(entry.xattrs or {}), name: value}


def _whole(key: bytes, value: bytes) -> int:
    if not value.isdigit() or len(value) > 20:
        raise TarError(f"invalid pax header: {key.decode()} is {value[:40]!r}")
    return int(value)


def _nanoseconds(key: bytes, value: bytes) -> int:
    seconds, _, fraction = value.partition(b".")
    negative = seconds.startswith(b"-")
    digits = seconds.lstrip(b"-")
    if not digits.isdigit() or (fraction and not fraction.isdigit()) or len(digits) > 18:
        raise TarError(f"invalid pax header: {key.decode(errors='replace')} is {value[:40]!r}")
    nanos = int(digits) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0") or 0)
    return -nanos if negative else nanos


# What follows the checksum of an entry without a link, a device or a prefix; and what that and the blanks which stand
# for the checksum add to it, less the one that Adler-32 begins with.
_TAILS = {
    kind: b"".join((kind, bytes(100), b"ustar\x0000", bytes(64), b"0000000\0" * 2, bytes(167)))
    for kind in (REGULAR, DIRECTORY)
}
_TAIL_SUMS = {kind: sum(tail) + 256 - 1 for kind, tail in _TAILS.items()}


def plain(name: str, kind: bytes, mode: int, uid: int, gid: int, size: int, seconds: int) -> bytes | None:
    """The header block of a file or a directory that ustar has room for; None when `encode` has to write it."""
    if len(name) > 100 or not name.isascii() or uid > _MAX_OCTAL_7 or gid > _MAX_OCTAL_7:
        return None
    if not 0 <= seconds <= _MAX_OCTAL_11 or size > _MAX_OCTAL_11:
        return None
    head = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0" % (
        name.encode().ljust(100, b"\0"), mode & 0o7777, uid, gid, size, seconds
    )  # fmt: skip
    return b"%b%06o\0 %b" % (head, (zlib.adler32(head) & 0xFFFF) + _TAIL_SUMS[kind], _TAILS[kind])


def encode(entry: Entry) -> bytes:
    """The header blocks of an entry: ustar, with an extended header before it where ustar is too small.

    Times are whole seconds, as the reference engine writes them, so that equal trees give equal archives.
    """
    name = entry.name.encode("utf-8", "surrogateescape")
    link = entry.link.encode("utf-8", "surrogateescape")
    seconds = entry.mtime_ns // 1_000_000_000
    records: list[tuple[bytes, bytes]] = []
    prefix, short = _split(name)
    if short is None:
        records.append((b"path", name))
        prefix, short = b"", name[:100]
    if len(link) > 100 or not link.isascii():
        records.append((b"linkpath", link))
    for key, value, most in ((b"uid", entry.uid, _MAX_OCTAL_7), (b"gid", entry.gid, _MAX_OCTAL_7)):
        if value > most:
            records.append((key, b"%d" % value))
    if entry.size > _MAX_OCTAL_11:
        records.append((b"size", b"%d" % entry.size))
    if not 0 <= seconds <= _MAX_OCTAL_11:
        records.append((b"mtime", b"%d" % seconds))
    for xattr, content in sorted((entry.xattrs or {}).items()):
        records.append(((XATTR_PREFIX + xattr).encode("utf-8", "surrogateescape"), content))
    block = _block(entry, prefix, short, link[:100], seconds)
    return _pax_blocks(short, records) + block if records else block


def _split(name: bytes) -> tuple[bytes, bytes | None]:
    """A name as ustar's prefix and name; no name when it does not fit."""
    if not name.isascii():
        return b"", None
    if len(name) <= 100:
        return b"", name
    cut = name.rfind(b"/", 0, 156)
    if cut > 0 and 0 < len(name) - cut - 1 <= 100:
        return name[:cut], name[cut + 1 :]
    return b"", None


def _octal(value: int, digits: int) -> bytes:
    most = (1 << 3 * digits) - 1
    return b"%0*o\0" % (digits, value if 0 <= value <= most else 0)


def _block(entry: Entry, prefix: bytes, name: bytes, link: bytes, seconds: int) -> bytes:
    device = entry.kind in (CHAR_DEVICE, BLOCK_DEVICE)
    head = b"".join(
        (
            name.ljust(100, b"\0"),
            _octal(entry.mode & 0o7777, 7),
            _octal(entry.uid, 7),
            _octal(entry.gid, 7),
            _octal(entry.size if entry.kind == REGULAR else 0, 11),
            _octal(seconds, 11),
        )
    )
    tail = b"".join(
        (
            entry.kind,
            link.ljust(100, b"\0"),
            b"ustar\x0000",
            bytes(64),
            _octal(entry.major if device else 0, 7),
            _octal(entry.minor if device else 0, 7),
            prefix.ljust(155, b"\0"),
            bytes(12),
        )
    )
    checksum = sum(head) + sum(tail) + 256
    return head + b"%06o\0 " % checksum + tail


def _pax_blocks(name: bytes, records: list[tuple[bytes, bytes]]) -> bytes:
    data = b"".join(_record(key, value) for key, value in records)
    base = name.rstrip(b"/").rpartition(b"/")[2]
    header = Entry("", PAX_HEADER)
    block = bytearray(_block(header, b"", (b"PaxHeaders.0/" + base)[:100], b"", 0))
    block[124:136] = _octal(len(data), 11)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + data + padding(len(data))


def _record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = len(body) + len(str(len(body)))
    if len(str(length)) + len(body) != length:
        length += 1
    return b"%d" % length + body


def padding(size: int) -> bytes:
    """The zeros between the end of a file's data and the next block."""
    return bytes(-size % BLOCK)
