"""Plans a layer over an existing file system and writes it, as a tar and as files at once.

A directory of a layer replaces the attributes of the same directory below it, so every parent that exists already is
written with the attributes it has.

Source: OCI image-spec, layer.md; POSIX pax.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from services.image.build.context.tree import CHUNK_BYTES, Content, Entry, Tree

_TYPES = {
    "file": tarfile.REGTYPE,
    "dir": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "fifo": tarfile.FIFOTYPE,
    "char": tarfile.CHRTYPE,
    "block": tarfile.BLKTYPE,
}


class LayerTarget(Protocol):
    """Where a layer goes."""

    @property
    def files(self) -> Path | None:
        """An empty directory for the layer's files, which may be replaced by another; None when none are wanted."""

    def write(self, data: bytes, /) -> None:
        """Take the next bytes of the layer's tar."""

    def discard(self) -> None:
        """Remove what was written, unless the layer has been stored. Idempotent; blocks."""


@dataclass(frozen=True, slots=True)
class WrittenLayer:
    """A layer, complete.

    Attributes:
        diff_id: ``sha256:<hex>`` of the uncompressed tar.
        tar_bytes: Length of the tar.
        content_bytes: Sum of file sizes.
        has_files: Whether the target's directory holds the files too; else they are to be unpacked from the tar.
    """

    target: LayerTarget
    diff_id: str
    tar_bytes: int
    content_bytes: int
    has_files: bool = True


@dataclass(frozen=True, slots=True)
class _Item:
    entry: Entry
    open: Callable[[], Content] | None = None
    tree: object = None
    inherited: bool = False


class LayerPlan:
    """What a layer will hold, seen together with the file system it goes on (itself a `Tree` for lookups)."""

    in_memory = False

    def __init__(self, base: Tree, *, now_ns: int | None = None) -> None:
        self._base = base
        self._items: dict[str, _Item] = {}
        # Names below something that the layer replaced: the base's must not show through.
        self._replaced: set[str] = set()
        self._now_ns = time.time_ns() if now_ns is None else now_ns

    def __bool__(self) -> bool:
        return any(not item.inherited for item in self._items.values())

    def lookup(self, path: str) -> Entry | None:
        item = self._items.get(path)
        if item is not None:
            return item.entry
        parts = path.split("/")
        for end in range(1, len(parts)):
            prefix = "/".join(parts[:end])
            above = self._items.get(prefix)
            if prefix in self._replaced or (above is not None and above.entry.kind != "dir"):
                return None
        return self._base.lookup(path)

    def names(self, path: str) -> list[str]:
        prefix = path + "/" if path else ""
        below = {item[len(prefix) :].partition("/")[0] for item in self._items if item.startswith(prefix)}
        entry = self._base.lookup(path)
        if entry is not None and entry.kind == "dir" and path not in self._replaced:
            below |= set(self._base.names(path))
        return sorted(name for name in below if name)

    def open(self, path: str) -> Content:
        item = self._items.get(path)
        if item is not None and item.open is not None:
            return item.open()
        return self._base.open(path)

    def digest(self, path: str) -> bytes:
        return self._base.digest(path)

    def make_directories(self, path: str, *, uid: int = 0, gid: int = 0, mode: int = 0o755) -> None:
        """Make a directory and its missing parents. Raises NotADirectoryError when a file is in the way."""
        parts = path.split("/") if path else []
        for end in range(1, len(parts) + 1):
            here = "/".join(parts[:end])
            entry = self.lookup(here)
            if entry is None:
                self._items[here] = _Item(Entry("dir", mode, uid, gid, mtime_ns=self._now_ns))
            elif entry.kind != "dir":
                raise NotADirectoryError(f"mkdir /{here}: not a directory")
            else:
                self._inherit(here, entry)

    def put(
        self, path: str, entry: Entry, content: Callable[[], Content] | None = None, *, tree: object = None
    ) -> None:
        """Put an entry in place of whatever is there; a directory on a directory changes its attributes only.

        Args:
            tree: Where the entry is from; entries of one tree with equal identities become hard links.
        """
        parent = path.rpartition("/")[0]
        if parent:
            self.make_directories(parent)
        old = self.lookup(path)
        if old is not None and not (old.kind == entry.kind == "dir"):
            for below in [item for item in self._items if item.startswith(path + "/")]:
                del self._items[below]
            self._replaced.add(path)
        self._items.pop(path, None)
        self._items[path] = _Item(entry, content, tree)

    def _inherit(self, path: str, entry: Entry) -> None:
        if path not in self._items:
            self._items[path] = _Item(entry, inherited=True)

    def write(self, target: LayerTarget) -> WrittenLayer:
        """Write the layer. Blocks; raises OSError."""
        writer = LayerWriter(target, files=target.files)
        for name in sorted(self._items, key=lambda item: item.split("/")):
            item = self._items[name]
            writer.add(name, item.entry, item.open, tree=item.tree)
        return writer.finish()


class LayerWriter:
    """A layer's tar, hashed on the way, and its files.

    Args:
        files: Where to write the files too; None for the tar alone. Entries come parents first, and no parent is a
            link, so nothing outside of it can be touched.
    """

    def __init__(self, target: LayerTarget, *, files: Path | None = None) -> None:
        self._target = target
        self._files = files
        self._digest = hashlib.sha256()
        self._content_bytes = 0
        self._tar_bytes = 0
        self._links: dict[tuple[int, object], str] = {}
        self._directories: list[tuple[Path, Entry]] = []

    def add(
        self, name: str, entry: Entry, content: Callable[[], Content] | None = None, *, tree: object = None
    ) -> None:
        """Args: tree: where the entry is from; equal identities of one tree become hard links."""
        header = _header(name, entry)
        place = self._files / name if self._files is not None else None
        if entry.identity is not None:
            first = self._links.setdefault((id(tree), entry.identity), name)
            if first != name:
                header.type, header.linkname, header.size = tarfile.LNKTYPE, first, 0
                self._write(header.tobuf(tarfile.PAX_FORMAT))
                if self._files is not None and place is not None:
                    os.link(self._files / first, place)
                return
        self._write(header.tobuf(tarfile.PAX_FORMAT))
        if entry.kind == "file":
            self._copy(name, entry.size, content, place)
        if place is not None:
            self._place(place, entry)

    def _copy(self, name: str, size: int, content: Callable[[], Content] | None, place: Path | None) -> None:
        with ExitStack() as stack:
            out = stack.enter_context(place.open("xb", buffering=0)) if place is not None else None
            stream = stack.enter_context(closing(content())) if content is not None else None
            left = size
            while left and stream is not None:
                chunk = stream.read(min(left, CHUNK_BYTES))
                if not chunk:
                    raise OSError(f"/{name} became shorter while it was copied")
                self._write(chunk)
                if out is not None:
                    out.write(chunk)
                left -= len(chunk)
        self._content_bytes += size
        self._write(b"\0" * (-size % tarfile.BLOCKSIZE))

    def _place(self, place: Path, entry: Entry) -> None:
        if entry.kind == "dir":
            place.mkdir()
            self._directories.append((place, entry))
        elif entry.kind == "symlink":
            place.symlink_to(entry.link)
        elif entry.kind == "fifo":
            os.mkfifo(place)
        elif entry.kind in ("char", "block"):
            kind = stat.S_IFCHR if entry.kind == "char" else stat.S_IFBLK
            os.mknod(place, kind | 0o600, os.makedev(*entry.device))
        set_attributes(place, entry)

    def _write(self, data: bytes) -> None:
        self._digest.update(data)
        self._tar_bytes += len(data)
        self._target.write(data)

    def finish(self) -> WrittenLayer:
        self._write(b"\0" * (2 * tarfile.BLOCKSIZE))
        for place, entry in reversed(self._directories):  # what was put in them has changed their times
            os.utime(place, ns=(entry.mtime_ns, entry.mtime_ns))
        return WrittenLayer(
            self._target,
            f"sha256:{self._digest.hexdigest()}",
            self._tar_bytes,
            self._content_bytes,
            has_files=self._files is not None,
        )


def set_attributes(place: Path, entry: Entry) -> None:
    """Give a new file its owner, mode, attributes and time. Raises OSError."""
    os.chown(place, entry.uid, entry.gid, follow_symlinks=False)
    if entry.kind != "symlink":
        os.chmod(place, entry.mode)  # after the owner, whose change takes set-id bits away
    for name, value in entry.xattrs.items():
        os.setxattr(place, name, value, follow_symlinks=False)
    os.utime(place, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)


def _header(name: str, entry: Entry) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name + "/" if entry.kind == "dir" else name)
    header.type = _TYPES[entry.kind]
    header.mode, header.uid, header.gid, header.size = entry.mode, entry.uid, entry.gid, entry.size
    header.linkname = entry.link
    header.devmajor, header.devminor = entry.device
    header.mtime = entry.mtime_ns // 1_000_000_000
    headers = {f"SCHILY.xattr.{key}": value.decode("utf-8", "surrogateescape") for key, value in entry.xattrs.items()}
    if entry.mtime_ns % 1_000_000_000:
        headers["mtime"] = f"{entry.mtime_ns // 1_000_000_000}.{entry.mtime_ns % 1_000_000_000:09d}"
    header.pax_headers = headers
    return header


def owned(entry: Entry, owner: tuple[int, int] | None) -> Entry:
    """The entry with another owner; unchanged for None."""
    return entry if owner is None else replace(entry, uid=owner[0], gid=owner[1])
