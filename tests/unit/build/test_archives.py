"""What ADD takes for an archive, and what of it is damaged. The reference engine's answers."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.image.build.context.tree import MemoryTree, walk
from services.image.build.steps.copying import Selected
from services.image.build.steps.sources import with_archive
from services.image.build.workdirs import Scratch
from shared.errors import InvalidArgument


def archive(form: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, size in (("one", 700), ("two", 300_000), ("three", 100)):
            info = tarfile.TarInfo(name)
            info.size = size
            tar.addfile(info, io.BytesIO(bytes([65 + len(name)]) * size))
    return out.getvalue()


TAR = archive()
END = len(TAR.rstrip(b"\0"))
GZ, XZ, BZ2 = gzip.compress(TAR, mtime=0), lzma.compress(TAR), bz2.compress(TAR)
V7 = TAR[:257] + bytes(8) + TAR[265:]  # no magic
WITH_V7_SUM = V7[:148] + b"%06o\0 " % (sum(V7[:148] + V7[156:512]) + 256) + V7[156:]

UNPACKED = {
    "whole": TAR, "no padding": TAR[:END], "some padding": TAR[: END + 100], "gzip": GZ, "xz": XZ, "bzip2": BZ2,
    "gzip without padding": gzip.compress(TAR[:END]), "v7": WITH_V7_SUM,
}  # fmt: skip
COPIED = {
    "empty": b"", "zeros": bytes(1024), "text": b"junk" * 300, "cut in the first header": TAR[:300],
    "compressed text": gzip.compress(b"hello" * 200), "head of a gzip": GZ[:12], "cut bzip2": BZ2[:-30],
    "zeros, then a header": bytes(512) + TAR,
}  # fmt: skip
DAMAGED = {
    "data cut": TAR[: END - 50], "cut in the middle": TAR[:100_000], "wrong checksum": TAR[:1540] + b"X" + TAR[1541:],
    "cut gzip": GZ[:-20], "gzip cut in its data": GZ[:200], "gzip of another sum": GZ[:-8] + bytes(4) + GZ[-4:],
    "gzip and more": GZ + b"junk", "cut xz": XZ[:-30],
}  # fmt: skip


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Scratch]:
    found = Scratch(tmp_path)
    yield found
    found.files.close()


def added(data: bytes, scratch: Scratch) -> Selected:
    tree = MemoryTree({"file": data})
    entry = tree.lookup("file")
    assert entry is not None
    return with_archive(Selected(tree, "file", entry, "file"), scratch)


@pytest.mark.parametrize("data", UNPACKED.values(), ids=UNPACKED)
def test_archives_are_unpacked(data: bytes, scratch: Scratch) -> None:
    found = added(data, scratch).archive
    assert found is not None
    assert {path: entry.size for path, entry in walk(found, "")} == {"one": 700, "two": 300_000, "three": 100}


@pytest.mark.parametrize("data", COPIED.values(), ids=COPIED)
def test_other_files_are_copied(data: bytes, scratch: Scratch) -> None:
    assert added(data, scratch).archive is None


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_archive_fails_the_build(data: bytes, scratch: Scratch) -> None:
    with pytest.raises(InvalidArgument, match=r"^failed to copy files: Error processing tar file\("):
        added(data, scratch)
