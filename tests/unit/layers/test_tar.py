"""Reading and writing tar headers, compared with the standard library's own."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.layers import compression, tarheader
from shared.layers.tarheader import Entry, TarError
from shared.layers.tarstream import TarStream


def source(data: bytes, size: int = 700) -> Callable[[], bytes]:
    """Chunks of an awkward size."""
    stream = io.BytesIO(data)
    return lambda: stream.read(size)


def entries(data: bytes, size: int = 700) -> list[tuple[Entry, bytes]]:
    tar = TarStream(source(data, size))
    found = []
    while (entry := tar.next()) is not None:
        found.append((entry, b"".join(bytes(piece) for piece in tar.data())))
    return found


def written(members: list[tuple[tarfile.TarInfo, bytes]], form: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


_name = st.text(st.characters(blacklist_characters="\0/", blacklist_categories=["Cs"]), min_size=1, max_size=60).filter(
    lambda name: name not in (".", "..")
)
_path = st.lists(_name, min_size=1, max_size=5).map("/".join)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            _path, st.binary(max_size=2000), st.integers(0, 0o7777), st.integers(0, 1 << 31), st.integers(0, 1 << 34)
        ),
        max_size=5,
    ),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    st.integers(1, 5000),
)
def test_reads_what_the_standard_library_writes(
    files: list[tuple[str, bytes, int, int, int]], form: int, size: int
) -> None:
    members = []
    for path, data, mode, owner, mtime in files:
        info = tarfile.TarInfo(path)
        info.size, info.mode, info.uid, info.gid, info.mtime = len(data), mode, owner, owner, mtime
        members.append((info, data))
    found = entries(written(members, form), size)
    assert [(entry.name, data, entry.mode, entry.uid, entry.gid, entry.mtime_ns) for entry, data in found] == [
        (path, data, mode, owner, owner, mtime * 10**9) for path, data, mode, owner, mtime in files
    ]


@settings(deadline=None)
@given(
    _path,
    _path,
    st.integers(0, 1 << 40),
    st.integers(-(1 << 33), 1 << 40),
    st.dictionaries(_name.filter(lambda n: "=" not in n), st.binary(max_size=100), max_size=3),
)
def test_the_standard_library_reads_what_is_written(
    name: str, link: str, owner: int, mtime: int, xattrs: dict[str, bytes]
) -> None:
    entry = Entry(name, tarheader.SYMLINK, 0o777)
    entry.link, entry.uid, entry.mtime_ns = link, owner, mtime * 10**9
    entry.xattrs = xattrs
    blocks = tarheader.encode(entry)
    assert len(blocks) % tarheader.BLOCK == 0
    with tarfile.open(fileobj=io.BytesIO(blocks + bytes(1024))) as tar:
        info = tar.next()
    assert info is not None
    assert (info.name, info.linkname, info.uid, info.mtime) == (name, link, owner, mtime)
    [(again, _)] = entries(blocks + bytes(1024))
    assert (again.name, again.link, again.uid, again.mtime_ns) == (name, link, owner, mtime * 10**9)
    assert (again.xattrs or {}) == xattrs


@pytest.mark.parametrize("cut", [100, 512, 600, 1500, 2511])
def test_a_truncated_archive_is_noticed(cut: int) -> None:
    info = tarfile.TarInfo("file")
    info.size = 2000
    data = written([(info, b"x" * 2000)], tarfile.PAX_FORMAT)
    with pytest.raises(TarError, match="unexpected EOF"):
        entries(data[:cut])


def cut_as_go_cuts() -> list[tuple[str, bytes, list[str] | None]]:
    """Ends of an archive, and the names that are read, or None for an error. Source: Go, archive/tar; the engine's."""
    info = tarfile.TarInfo("last")
    info.size = 700
    whole = written([(tarfile.TarInfo("first"), b""), (info, b"x" * 700)], tarfile.PAX_FORMAT)
    end = 3 * 512 + 188
    both = ["first", "last"]
    return [
        ("whole", whole, both),
        ("no padding", whole[:end], both),
        ("some padding", whole[: end + 100], both),
        ("no end", whole[: end + 324], both),
        ("one zero block", whole[: end + 324 + 512], both),
        ("one and a part", whole[: end + 324 + 700], None),
        ("one and another header", whole[: end + 324 + 512] + whole[:512], None),
        ("data cut", whole[: end - 1], None),
        ("header cut", whole[:700], None),
        ("more after the end", whole + b"anything", both),
        ("nothing", b"", []),
        ("zeros only", bytes(1024), []),
        ("a zero block first", bytes(512) + whole, None),
    ]


@pytest.mark.parametrize("size", [1, 100, 512, 1 << 20])
@pytest.mark.parametrize(("how", "data", "names"), cut_as_go_cuts())
def test_the_end_is_where_go_finds_it(how: str, data: bytes, names: list[str] | None, size: int) -> None:
    if names is None:
        with pytest.raises(TarError):
            entries(data, size)
    else:
        assert [entry.name for entry, _ in entries(data, size)] == names, how


def test_a_damaged_header_is_noticed() -> None:
    data = bytearray(written([(tarfile.TarInfo("file"), b"")], tarfile.PAX_FORMAT))
    data[5] ^= 1
    with pytest.raises(TarError, match="checksum"):
        entries(bytes(data))


@settings(deadline=None)
@given(st.binary(max_size=3000))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        entries(data)
    except TarError:
        return


def test_an_enormous_extended_header_is_refused() -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 1 << 30
    with pytest.raises(TarError, match="too large"):
        entries(header.tobuf() + bytes(4096))


@pytest.mark.parametrize("kind", ["gzip", "xz", "bzip2", "zstd"])
@pytest.mark.parametrize("size", [0, 1, 5_000_000])
def test_compressions_come_out_as_they_went_in(kind: str, size: int) -> None:
    import bz2
    import gzip
    import lzma

    import zstandard

    packers: dict[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.compress,
        "xz": lzma.compress,
        "bzip2": bz2.compress,
        "zstd": zstandard.compress,
    }
    pack = packers[kind]
    plain = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    packed = pack(plain) + pack(b"tail")  # members may follow each other
    found = compression.detect(packed)
    assert found == kind
    pieces = list(compression.decompressed(source(packed, 10_000), found))
    assert b"".join(pieces) == plain + b"tail"
    with pytest.raises(compression.CompressionError):
        list(compression.decompressed(source(pack(plain + b"more to come")[:-3], 10_000), found))
    with pytest.raises(compression.CompressionError):
        list(compression.decompressed(source(packed[:12] + b"damage" * 30, 10_000), found))


def test_a_bomb_comes_in_bounded_pieces() -> None:
    import gzip

    packed = gzip.compress(bytes(200_000_000), 1)
    assert max(len(piece) for piece in compression.decompressed(source(packed, 1 << 20), "gzip")) <= 1 << 20
