"""One directory, or an image's layers on top of each other, read as a tree.

Layers are merged here by the rules of overlayfs, so that reading an image's files needs neither a mount nor a
container: a character device 0/0 hides a name, a directory marked opaque hides what lies below it.

Source: Linux Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories".
"""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from threading import Lock

from services.image.build.context.tree import Content, Entry, Kind, hash_content

OPAQUE_XATTR = "trusted.overlay.opaque"
# Some 150 bytes each.
KNOWN_DIGESTS = 16384
# What belongs to the file system that holds the layer, not to the file.
_HIDDEN_XATTRS = ("trusted.overlay.", "user.overlay.")

_KINDS: tuple[tuple[int, Kind], ...] = (
    (stat.S_IFREG, "file"),
    (stat.S_IFDIR, "dir"),
    (stat.S_IFLNK, "symlink"),
    (stat.S_IFIFO, "fifo"),
    (stat.S_IFCHR, "char"),
    (stat.S_IFBLK, "block"),
)


class KnownDigests:
    """Digests of files of layers, which nobody changes, by what tells one file from another."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[int, ...], bytes] = OrderedDict()
        self._using = Lock()

    def get(self, status: os.stat_result, compute: Callable[[], bytes]) -> bytes:
        """The digest of the file that has this status."""
        key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        with self._using:
            found = self._known.get(key)
            if found is not None:
                self._known.move_to_end(key)
                return found
        found = compute()
        with self._using:
            self._known[key] = found
            if len(self._known) > KNOWN_DIGESTS:
                self._known.popitem(last=False)
        return found


class DirectoryTree:
    """A merged view of directories that nobody changes while it is in use.

    Args:
        layers: Lowest first. None at all is an empty tree.
        digests: For layers of images: what is remembered of them.
    """

    in_memory = False

    def __init__(self, layers: Sequence[Path], digests: KnownDigests | None = None) -> None:
        self._digests = digests
        self._top_first = tuple(str(layer) for layer in reversed(layers))
        self._directories = lru_cache(maxsize=4096)(self._find_directories)

    def lookup(self, path: str) -> Entry | None:
        if not path:
            found = next(iter(self._top_first), None)
            return Entry("dir", 0o755) if found is None else _entry(found, os.lstat(found))
        where = self._locate(path)
        return None if where is None else _entry(*where)

    def names(self, path: str) -> list[str]:
        names: set[str] = set()
        hidden: set[str] = set()
        for directory in self._directories(path):
            with os.scandir(directory) as listing:
                here = list(listing)
            for item in here:
                if item.name not in names and item.name not in hidden:
                    (hidden if is_whiteout(item.stat(follow_symlinks=False)) else names).add(item.name)
        return sorted(names)

    def open(self, path: str) -> Content:
        where = self._locate(path)
        if where is None:
            raise FileNotFoundError(path)
        # The path is literal in each layer and was just seen to be a regular file; layers do not change.
        return open(where[0], "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW))

    def digest(self, path: str) -> bytes:
        where = self._locate(path) if self._digests is not None else None
        if self._digests is None or where is None:
            return self._digest(path)
        return self._digests.get(where[1], lambda: self._digest(path))

    def _digest(self, path: str) -> bytes:
        with closing(self.open(path)) as stream:
            return hash_content(stream)

    def single_place(self, path: str) -> Path | None:
        """Where a file, or a directory that only one layer has, really is; None for a directory of several layers."""
        if not path:
            return Path(self._top_first[0]) if len(self._top_first) == 1 else None
        where = self._locate(path)
        if where is None:
            return None
        if stat.S_ISDIR(where[1].st_mode) and not self._is_single(path):
            return None
        return Path(where[0])

    def _is_single(self, path: str) -> bool:
        """Whether one layer alone has a directory and all below it; what it would hide has no layer to be in."""
        return len(self._directories(path)) == 1

    def _locate(self, path: str) -> tuple[str, os.stat_result] | None:
        parent, _, name = path.rpartition("/")
        for directory in self._directories(parent):
            full = f"{directory}/{name}"
            try:
                status = os.lstat(full)
            except FileNotFoundError:
                continue
            return None if is_whiteout(status) else (full, status)
        return None

    def _find_directories(self, path: str) -> tuple[str, ...]:
        """The directories that make up one directory of the view, topmost first; empty when it is none."""
        if not path:
            return self._top_first
        parent, _, name = path.rpartition("/")
        found: list[str] = []
        for directory in self._directories(parent):
            full = f"{directory}/{name}"
            try:
                status = os.lstat(full)
            except FileNotFoundError:
                continue
            if not stat.S_ISDIR(status.st_mode):
                break  # a file or whiteout: what lies below does not show through
            found.append(full)
            if is_opaque(full):
                break
        return tuple(found)


def is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(directory: str) -> bool:
    try:
        return os.getxattr(directory, OPAQUE_XATTR, follow_symlinks=False) == b"y"
    except OSError:  # not set, or a file system without such attributes
        return False


def _entry(path: str, status: os.stat_result) -> Entry:
    kind = next(kind for bits, kind in _KINDS if stat.S_IFMT(status.st_mode) == bits)
    return Entry(
        kind,
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_size if kind == "file" else 0,
        status.st_mtime_ns,
        os.readlink(path) if kind == "symlink" else "",
        _xattrs(path),
        (os.major(status.st_rdev), os.minor(status.st_rdev)) if kind in ("char", "block") else (0, 0),
        (status.st_dev, status.st_ino) if kind == "file" and status.st_nlink > 1 else None,
    )


def _xattrs(path: str) -> dict[str, bytes]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:  # a file system without extended attributes has none to copy
        return {}
    return {
        name: os.getxattr(path, name, follow_symlinks=False) for name in names if not name.startswith(_HIDDEN_XATTRS)
    }
