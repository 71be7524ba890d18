"""A tar that arrives in pieces of any size is found to hold what it holds as a whole."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.image.build.context.spool import ContextSpool
from services.image.build.context.tarindex import DIGESTED_BYTES
from services.image.build.context.tartree import TarTree
from services.image.build.context.tree import walk
from shared.errors import InvalidArgument
from shared.layers.tarheader import TarError
from shared.layers.tarstream import TarStream

LONG = "d/" + "n" * 150
FILES = {
    "empty": b"",
    "d/one": b"1",
    "d/block": b"b" * 512,
    LONG: b"long" * 1000,
    "edge": b"e" * DIGESTED_BYTES,
    "large": b"l" * (DIGESTED_BYTES + 1),
    "last": b"z" * 700,
}


def archive(kind: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as out:
        for name, data in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("hard")
        link.type, link.linkname = tarfile.LNKTYPE, "d/one"
        out.addfile(link)
    return buffer.getvalue()


def fed(data: bytes, piece: int, *, digesting: bool = True) -> TarTree:
    spool = ContextSpool(lambda: pytest.fail("no file is needed"))
    tree = TarTree(spool)
    for at in range(0, len(data), piece):
        spool.write(data[at : at + piece])
        tree.feed(data[at : at + piece], digesting=digesting)
    tree.finish()
    return tree


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("piece", [100, 512, 1000, 4096, 100_000, 1 << 24])
def test_pieces_of_any_size(kind: int, piece: int) -> None:
    tree = fed(archive(kind), piece)
    content = {path: tree.open(path).read() for path, entry in walk(tree, "") if entry.kind == "file"}
    assert content == FILES | {"hard": b"1"}
    assert {path: tree.digest(path) for path in content} == {
        path: hashlib.sha256(data).digest() for path, data in content.items()
    }
    tree.close()


def test_small_files_are_digested_as_they_pass() -> None:
    tree = fed(archive(), 4096)
    tree._places.clear()  # nothing can be read any more
    assert tree.digest("edge") == hashlib.sha256(FILES["edge"]).digest()
    with pytest.raises(KeyError):
        tree.digest("large")
    tree.close()


@pytest.mark.parametrize("piece", [100, 512, 1 << 24])
def test_truncated_anywhere(piece: int) -> None:
    whole = archive()
    for end in (511, 513, len(whole) - 10_240 - 5, whole.index(b"l" * 100) + 50):
        with pytest.raises(InvalidArgument, match=r"unexpected EOF|invalid tar header"):
            fed(whole[:end], piece)


def test_what_follows_the_end_does_not_count() -> None:
    tree = fed(archive() + b"rubbish" * 1000, 300)
    assert tree.names("") == ["d", "edge", "empty", "hard", "large", "last"]
    tree.close()


def test_a_large_context_moves_to_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.image.build.context.spool.MEMORY_BYTES", 5000)
    with (tmp_path / "spool").open("w+b") as file:
        spool = ContextSpool(lambda: file)
        tree = TarTree(spool)
        data = archive()
        for at in range(0, len(data), 3000):
            spool.write(data[at : at + 3000])
            tree.feed(data[at : at + 3000], digesting=spool.fits_memory(3000))
        tree.finish()
        assert (tmp_path / "spool").stat().st_size == spool.size_bytes == len(data)
        assert tree.open("last").read() == FILES["last"]
        assert tree.open("d/one").read() == b"1"
        spool.close()


@given(st.integers(0, len(archive())), st.integers(500, 50_000), st.booleans())
@settings(deadline=None, max_examples=60)
def test_wherever_it_is_cut_it_is_read_as_a_whole(cut: int, piece: int, digesting: bool) -> None:
    """Fed in pieces, a cut archive is the same tree, or as damaged, as for whoever reads it front to back."""
    data = archive()[:cut]
    tar = TarStream(iter([data, b""]).__next__)
    seen: list[str] = []
    names: list[str] | None = seen
    try:
        while (entry := tar.next()) is not None:
            seen.append(entry.name)
    except TarError:
        names = None
    try:
        tree = fed(data, piece, digesting=digesting)
    except InvalidArgument:
        assert names is None
        return
    assert names is not None
    assert {path for path, entry in walk(tree, "") if entry.kind == "file"} == set(names)
    for path in names:
        wanted = FILES.get(path, b"1")
        assert tree.open(path).read() == wanted
