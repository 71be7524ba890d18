"""Trees of files to read from, whatever they are made of.

Paths in a tree are relative, with slashes, ``""`` for the root; ``lookup`` and ``names`` take them literally, and
`resolve` follows symbolic links without ever leaving the tree.
"""

from __future__ import annotations

import asyncio
import hashlib
import posixpath
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, TypeVar

Found = TypeVar("Found")

Kind = Literal["file", "dir", "symlink", "fifo", "char", "block"]

MAX_LINKS = 255
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """A file as a tree shows it.

    Attributes:
        mode: Permission bits with set-id and sticky bits.
        mtime_ns: Nanoseconds since the epoch.
        device: Major and minor, of devices.
        identity: Equal for hard links to one file of one tree; None when there is only this name.
    """

    kind: Kind
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    link: str = ""
    xattrs: dict[str, bytes] = field(default_factory=dict)
    device: tuple[int, int] = (0, 0)
    identity: object = None


class Content(Protocol):
    """A file being read."""

    def read(self, size: int = -1, /) -> bytes: ...

    def close(self) -> None: ...


class Tree(Protocol):
    """Files to read. All methods block unless `in_memory`, and may be called from several threads."""

    @property
    def in_memory(self) -> bool:
        """Whether looking, and digesting every file, takes neither the disk nor long."""

    def lookup(self, path: str) -> Entry | None:
        """The entry at a path whose parents are directories; None when there is none."""

    def names(self, path: str) -> list[str]:
        """The names in a directory, sorted."""

    def open(self, path: str) -> Content:
        """The content of a file."""

    def digest(self, path: str) -> bytes:
        """SHA-256 of a file's content."""


def hash_content(stream: Content) -> bytes:
    digest = hashlib.sha256()
    while chunk := stream.read(CHUNK_BYTES):
        digest.update(chunk)
    return digest.digest()


class TooManyLinks(OSError):
    """Symbolic links in a circle."""


async def looked_up(trees: Iterable[Tree], look: Callable[[], Found]) -> Found:
    """What `look`, which only looks at these trees, finds; without a thread where that takes no time."""
    if all(tree.in_memory for tree in trees):
        return look()
    return await asyncio.to_thread(look)


def resolve(tree: Tree, path: str, *, follow_last: bool = True) -> tuple[str, Entry | None]:
    """Where a path leads, symbolic links followed as if the tree's root were ``/``.

    Returns:
        The literal path and its entry. When something on the way does not exist, the entry is None and the rest of
        the path stands as written.

    Raises:
        TooManyLinks: More than 255 links.
        NotADirectoryError: A file where a directory is needed.
    """
    waiting = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    done: list[str] = []
    entry = tree.lookup("")
    links = 0
    while waiting:
        part = waiting.pop()
        if part == "..":
            done = done[:-1]
            entry = tree.lookup("/".join(done))
            continue
        if entry is not None and entry.kind != "dir":
            raise NotADirectoryError(f"{'/'.join(done)}: not a directory")
        done.append(part)
        entry = tree.lookup("/".join(done)) if entry is not None else None
        if entry is not None and entry.kind == "symlink" and (waiting or follow_last):
            links += 1
            if links > MAX_LINKS:
                raise TooManyLinks(f"{path}: too many levels of symbolic links")
            done = [] if entry.link.startswith("/") else done[:-1]
            waiting.extend(part for part in reversed(entry.link.split("/")) if part not in ("", "."))
            entry = tree.lookup("/".join(done))
    return "/".join(done), entry


def walk(tree: Tree, path: str) -> Iterator[tuple[str, Entry]]:
    """Everything below a directory, parents first, in the order of names; paths are relative to the directory."""
    waiting = [("", name) for name in reversed(tree.names(path))]
    while waiting:
        parent, name = waiting.pop()
        relative = posixpath.join(parent, name)
        full = posixpath.join(path, relative) if path else relative
        entry = tree.lookup(full)
        if entry is None:
            continue
        yield relative, entry
        if entry.kind == "dir":
            waiting.extend((relative, child) for child in reversed(tree.names(full)))


class MemoryTree:
    """Texts as files: here-documents, and what tests need."""

    in_memory = True

    def __init__(self, files: dict[str, bytes | Entry]) -> None:
        self._entries: dict[str, Entry] = {"": Entry("dir", 0o755)}
        self._data: dict[str, bytes] = {}
        for path, what in files.items():
            parent = posixpath.dirname(path)
            while parent and parent not in self._entries:
                self._entries[parent] = Entry("dir", 0o755)
                parent = posixpath.dirname(parent)
            if isinstance(what, bytes):
                self._data[path] = what
                self._entries[path] = Entry("file", 0o644, size=len(what))
            else:
                self._entries[path] = what

    def with_mode(self, path: str, mode: int) -> MemoryTree:
        self._entries[path] = replace(self._entries[path], mode=mode)
        return self

    def lookup(self, path: str) -> Entry | None:
        return self._entries.get(path)

    def names(self, path: str) -> list[str]:
        return sorted(posixpath.basename(item) for item in self._entries if item and posixpath.dirname(item) == path)

    def open(self, path: str) -> Content:
        import io

        return io.BytesIO(self._data.get(path, b""))

    def digest(self, path: str) -> bytes:
        return hashlib.sha256(self._data.get(path, b"")).digest()
