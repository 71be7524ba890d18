"""A tar read as a tree, without unpacking it: an index in memory over a file on disk.

Nothing of a hostile context ever becomes a path of this machine. Names are cleaned as if the tar were unpacked in a
directory of its own that nothing can leave.

Source: POSIX pax; tar(5).
"""

from __future__ import annotations

import os
import posixpath
import tarfile
import threading
from collections import defaultdict
from contextlib import closing
from dataclasses import replace
from typing import BinaryIO

from services.image.build.context.tree import Content, Entry, Kind, hash_content
from shared.errors import InvalidArgument

_KINDS: dict[bytes, Kind] = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.CONTTYPE: "file",
    tarfile.GNUTYPE_SPARSE: "file",
    tarfile.DIRTYPE: "dir",
    tarfile.SYMTYPE: "symlink",
    tarfile.FIFOTYPE: "fifo",
    tarfile.CHRTYPE: "char",
    tarfile.BLKTYPE: "block",
}
_XATTR_PREFIX = "SCHILY.xattr."


class TarTree:
    """The files of an uncompressed tar.

    Args:
        spool: The tar; owned by the tree from now on and closed with it.

    Raises:
        InvalidArgument: It is no tar, or a truncated one.
    """

    def __init__(self, spool: BinaryIO) -> None:
        self._spool = spool
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {"": Entry("dir", 0o755)}
        self._places: dict[str, tarfile.TarInfo] = {}
        self._children: dict[str, set[str]] = defaultdict(set)
        self._digests: dict[str, bytes] = {}
        spool.seek(0)
        try:
            self._tar = tarfile.TarFile(fileobj=spool, mode="r")
            for member in self._tar:
                self._add(member)
        except tarfile.ReadError as error:
            if not spool.seek(0, os.SEEK_END):
                self._tar = tarfile.TarFile(fileobj=spool, mode="w")
                return  # an empty context
            raise InvalidArgument(f"Error processing tar file: {error}") from error
        except (tarfile.TarError, ValueError, EOFError) as error:
            raise InvalidArgument(f"Error processing tar file: {error}") from error
        self._check_end()

    def _check_end(self) -> None:
        """A tar that stops in the middle of a file or header is an upload that was cut; tarfile calls that an end."""
        size = self._spool.seek(0, os.SEEK_END)
        end = os.pread(self._spool.fileno(), tarfile.BLOCKSIZE, self._tar.offset)
        if len(end) not in (0, tarfile.BLOCKSIZE) or any(end):
            raise InvalidArgument("Error processing tar file: unexpected EOF")
        for place in self._places.values():
            if not place.issparse() and place.offset_data + place.size > size:
                raise InvalidArgument("Error processing tar file: unexpected EOF")

    def close(self) -> None:
        self._spool.close()

    def lookup(self, path: str) -> Entry | None:
        return self._entries.get(path)

    def names(self, path: str) -> list[str]:
        return sorted(self._children.get(path, ()))

    def open(self, path: str) -> Content:
        place = self._places[path]
        if place.issparse():
            return self._open_sparse(place)
        return _Window(self._spool.fileno(), place.offset_data, place.size)

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
            self._children.pop(item, None)
        self._children[posixpath.dirname(path)].discard(posixpath.basename(path))

    def paths(self) -> list[str]:
        """Every path but the root's, parents first."""
        return [path for path in sorted(self._entries) if path]

    def below(self, path: str) -> None:
        """Make a directory of the tree its root. Raises InvalidArgument when there is no such directory."""
        entry = self._entries.get(path)
        if entry is None or entry.kind != "dir":
            raise InvalidArgument(f"{path!r} is no directory of the context", field="remote")
        prefix = path + "/"
        kept = {item.removeprefix(prefix) for item in self._entries if item.startswith(prefix)}
        self._entries = {"": entry} | {item: self._entries[prefix + item] for item in kept}
        self._places = {item: self._places[prefix + item] for item in kept if prefix + item in self._places}
        self._children = defaultdict(set)
        for item in kept:
            self._children[posixpath.dirname(item)].add(posixpath.basename(item))

    def _add(self, member: tarfile.TarInfo) -> None:
        path = _clean(member.name)
        if member.islnk():
            self._add_hard_link(path, _clean(member.linkname))
            return
        kind = _KINDS.get(member.type)
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
            self._places[path] = member

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

    def _open_sparse(self, place: tarfile.TarInfo) -> Content:
        import io

        with self._lock:
            stream = self._tar.extractfile(place)
            return io.BytesIO(stream.read() if stream else b"")


def _clean(name: str) -> str:
    return posixpath.normpath("/" + name).strip("/")


def _entry(member: tarfile.TarInfo, kind: Kind) -> Entry:
    return Entry(
        kind,
        member.mode & 0o7777,
        member.uid,
        member.gid,
        member.size if kind == "file" else 0,
        int(float(member.mtime) * 1e9) if not isinstance(member.mtime, int) else member.mtime * 1_000_000_000,
        member.linkname if kind == "symlink" else "",
        {
            name.removeprefix(_XATTR_PREFIX): value.encode("utf-8", "surrogateescape")
            for name, value in member.pax_headers.items()
            if name.startswith(_XATTR_PREFIX)
        },
        (member.devmajor, member.devminor) if kind in ("char", "block") else (0, 0),
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
