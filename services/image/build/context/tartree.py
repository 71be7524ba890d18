"""A tar read as a tree, without unpacking it: an index in memory over a file on disk.

Nothing of a hostile context ever becomes a path of this machine. Names are cleaned as if the tar were unpacked in a
directory of its own that nothing can leave.

Source: POSIX pax; tar(5). Sparse files: GNU tar manual, "Storing Sparse Files".
"""

from __future__ import annotations

import os
import posixpath
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import BinaryIO, Protocol

from services.image.build.context.tarindex import Runs, TarIndex
from services.image.build.context.tree import Content, Entry, Kind, hash_content
from shared.errors import InvalidArgument
from shared.layers import tarheader
from shared.layers.tarheader import TarError

READ_BYTES = 1 << 20
# So many are looked through in a few milliseconds.
QUICK_FILES = 1000
_KINDS: dict[bytes, Kind] = {
    tarheader.REGULAR: "file",
    tarheader.DIRECTORY: "dir",
    tarheader.SYMLINK: "symlink",
    tarheader.FIFO: "fifo",
    tarheader.CHAR_DEVICE: "char",
    tarheader.BLOCK_DEVICE: "block",
}


class Spool(Protocol):
    """Where the bytes of a tar are, to be read by position."""

    def fileno(self) -> int: ...

    def close(self) -> None: ...


class TarTree:
    """The files of an uncompressed tar; an empty file is a tar without any.

    Args:
        spool: Has the tar, or will have what `feed` is told of; owned by the tree from now on and closed with it.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._entries: dict[str, Entry] = {"": Entry("dir", 0o755)}
        # Where a file's data begins, how long it is there, and the runs of a sparse file.
        self._places: dict[str, tuple[int, int, Runs | None]] = {}
        self._children: dict[str, set[str]] = defaultdict(set)
        self._digests: dict[str, bytes] = {}
        self._tar = TarIndex(self._add)

    @classmethod
    def of(cls, file: BinaryIO) -> TarTree:
        """The tree of a whole tar. Blocks; raises InvalidArgument for what is no tar, or a truncated one."""
        tree = cls(file)
        file.seek(0)
        while chunk := file.read(READ_BYTES):
            tree.feed(chunk)
        tree.finish()
        return tree

    def feed(self, chunk: bytes, *, digesting: bool = False) -> None:
        """Take in the next part of the tar; with the digests of small files, if they are likely to be asked for.

        Raises:
            InvalidArgument: It is no tar.
        """
        self._tar.digesting = digesting
        with _translated():
            self._tar.feed(chunk)

    def finish(self) -> None:
        """The tar is here. Raises InvalidArgument when it is a truncated one."""
        with _translated():
            self._tar.finish()

    def close(self) -> None:
        self._spool.close()

    @property
    def in_memory(self) -> bool:
        return len(self._entries) <= QUICK_FILES and len(self._digests) == len(self._places)

    def lookup(self, path: str) -> Entry | None:
        return self._entries.get(path)

    def names(self, path: str) -> list[str]:
        return sorted(self._children.get(path, ()))

    def open(self, path: str) -> Content:
        start, size, runs = self._places[path]
        window = _Window(self._spool.fileno(), start, size)
        return window if runs is None else _Sparse(window, runs, self._entries[path].size)

    def digest(self, path: str) -> bytes:
        known = self._digests.get(path)
        if known is None:
            with closing(self.open(path)) as stream:
                known = self._digests[path] = hash_content(stream)
        return known

    def remove(self, path: str) -> None:
        """Forget an entry and everything below it."""
        for item in [item for item in self._entries if item == path or item.startswith(path + "/")]:
            del self._entries[item]
            self._places.pop(item, None)
            self._digests.pop(item, None)
            self._children.pop(item, None)
        self._children[posixpath.dirname(path)].discard(posixpath.basename(path))

    def paths(self) -> list[str]:
        """Every path but the root's, parents first."""
        return [path for path in sorted(self._entries) if path]

    def _add(self, member: tarheader.Entry, begins: int, stored: int, runs: Runs | None, digest: bytes | None) -> None:
        path = _clean(member.name)
        if member.kind == tarheader.HARD_LINK:
            self._add_hard_link(path, _clean(member.link))
            return
        kind = _KINDS.get(member.kind)
        if kind is None:
            return  # a header for programs that know it
        entry = _entry(member, kind)
        if not path:
            if kind == "dir":
                self._entries[""] = entry
            return
        old = self._entries.get(path)
        if old is not None and not (old.kind == kind == "dir"):
            self.remove(path)
        self._link_up(path)
        self._entries[path] = entry
        if kind == "file":
            self._places[path] = (begins, stored, runs)
            if digest is not None:
                self._digests[path] = digest

    def _add_hard_link(self, path: str, target: str) -> None:
        entry = self._entries.get(target)
        if entry is None or entry.kind == "dir" or not path:
            raise InvalidArgument(f"Error processing tar file: hard link {path} to {target}, which is not there")
        if path == target:
            return
        if path in self._entries:
            self.remove(path)
        entry = replace(entry, identity=entry.identity or target)
        self._link_up(path)
        self._entries[target] = self._entries[path] = entry
        if target in self._places:
            self._places[path] = self._places[target]
        if target in self._digests:
            self._digests[path] = self._digests[target]

    def _link_up(self, path: str) -> None:
        """Name a path in its parents, which come into being where the tar left them out."""
        while path:
            parent, _, name = path.rpartition("/")
            self._children[parent].add(name)
            if parent in self._entries:
                if self._entries[parent].kind != "dir":
                    raise InvalidArgument(f"Error processing tar file: {parent}: not a directory")
                return
            self._entries[parent] = Entry("dir", 0o755)
            path = parent


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except TarError as error:
        raise InvalidArgument(f"Error processing tar file: {error}") from error


def _clean(name: str) -> str:
    return posixpath.normpath("/" + name).strip("/")


def _entry(member: tarheader.Entry, kind: Kind) -> Entry:
    return Entry(
        kind,
        member.mode,
        member.uid,
        member.gid,
        member.size if kind == "file" else 0,
        member.mtime_ns,
        member.link if kind == "symlink" else "",
        member.xattrs or {},
        (member.major, member.minor),
    )


class _Window:
    """A part of a file as a stream, read by position so that threads do not disturb each other."""

    def __init__(self, descriptor: int, start: int, size: int) -> None:
        self._descriptor = descriptor
        self._at = start
        self._end = start + size

    def read(self, size: int = -1, /) -> bytes:
        left = self._end - self._at
        data = os.pread(self._descriptor, left if size < 0 else min(size, left), self._at)
        if not data and left:
            raise OSError("the context is shorter than its index says")
        self._at += len(data)
        return data

    def close(self) -> None:
        """The file belongs to the tree."""


class _Sparse:
    """A sparse file as a stream: the stored runs where they belong, zeros between them."""

    def __init__(self, stored: _Window, runs: Runs, size: int) -> None:
        self._stored = stored
        self._runs = [*runs, (size, 0)]
        self._at = 0
        self._end = size

    def read(self, size: int = -1, /) -> bytes:
        size = self._end - self._at if size < 0 else min(size, self._end - self._at)
        parts = []
        while size:
            offset, length = self._runs[0]
            if self._at < offset:
                part = bytes(min(size, offset - self._at))
            elif self._at >= offset + length:
                self._runs.pop(0)
                continue
            else:
                part = self._stored.read(min(size, offset + length - self._at))
            parts.append(part)
            self._at += len(part)
            size -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        self._stored.close()
