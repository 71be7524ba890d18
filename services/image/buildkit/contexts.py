"""Copies of clients' directories, kept between builds so that only changes have to be sent.

::

    <data>/build/contexts/<key>/<slot>/files/    what the client had
                                       index     what it said of each file, and digests that were needed
                                       lock      held by the build that uses it

A copy is used by one build at a time; a second one at the same time gets a copy of its own. The index goes away before
the first change and is written after the last one: without it, what is on the disk is compared. A file gets its time
only once it is whole, so one that was cut short by a crash does not pass for it.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import orjson

from services.image.build.context.tree import Content, Entry, Kind, hash_content
from services.image.buildkit.filesync import Sent, Transfer, Transferred, Wanted, transfer
from services.image.buildkit.sessions import Session

FILES, INDEX, LOCK = "files", "index", "lock"
SAMPLE = 128
MAX_SLOTS = 8
# Indexes of 10,000 files are some 5 MB each.
REMEMBERED = 4
FORMAT = 1
OPEN_AT_ONCE = 64
# A record of the index: kind, mode, uid, gid, size, mtime_ns, link, device, xattrs (hex); the digest (hex) follows.
Facts = tuple[Kind, int, int, int, int, int, str, tuple[int, int], tuple[tuple[str, str], ...]]


def facts_of(item: Sent) -> Facts:
    xattrs = tuple(sorted((name, value.hex()) for name, value in item.xattrs.items())) if item.xattrs else ()
    # A directory's size means nothing, and its time only what happened in it.
    mtime_ns = 0 if item.kind == "dir" else item.mtime_ns
    return item.kind, item.mode, item.uid, item.gid, item.size, mtime_ns, item.link, item.device, xattrs


@dataclass(slots=True)
class Copy:
    """One copy, held by a build."""

    root: Path
    facts: dict[str, Facts] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    known: bool = False
    changed: bool = False
    written_ns: int = 0

    @property
    def files(self) -> Path:
        return self.root / FILES

    def load(self, remembered: OrderedDict[Path, Copy]) -> None:
        """Read the index, or, where there is none, look at the files. Blocks.

        Args:
            remembered: Copies that this process has used: their indexes need not be read if they are as they were.
        """
        try:
            written_ns = (self.root / INDEX).stat().st_mtime_ns
            before = remembered.get(self.root)
            if before is not None and before.written_ns == written_ns:
                self.facts, self.digests = before.facts, before.digests
                self.written_ns, self.known = written_ns, True
                return
            value = orjson.loads((self.root / INDEX).read_bytes())
            if value["format"] != FORMAT:
                raise ValueError("another format")
            self.facts = {path: _facts(record) for path, record in value["files"].items()}
            self.digests = value["digests"]
            self.written_ns, self.known = written_ns, True
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            self.files.mkdir(parents=True, exist_ok=True)
            self.facts = dict(_on_disk(self.files, ""))
            self.digests, self.known = {}, False

    def save(self) -> None:
        """Write the index, if anything is to be written. Blocks."""
        if self.known and not self.changed:
            return
        data = orjson.dumps({"format": FORMAT, "files": self.facts, "digests": self.digests})
        part = self.root / f"{INDEX}.part"
        part.write_bytes(data)
        os.replace(part, self.root / INDEX)
        self.written_ns = (self.root / INDEX).stat().st_mtime_ns
        self.known, self.changed = True, False

    def doubt(self) -> None:
        """The files are about to change. Blocks."""
        if self.known:
            (self.root / INDEX).unlink(missing_ok=True)
            self.known = False

    def likeness(self, listing: Sequence[Sent]) -> float:
        """How many of the files are as the client has them, of some that are looked at; from 0 to 1."""
        files = [item for item in listing if item.kind == "file" and not item.link]
        some = files[:: max(1, len(files) // SAMPLE)]
        if not some:
            return 1.0 if not self.facts else 0.0
        return sum(self.facts.get(item.path) == facts_of(item) for item in some) / len(some)


def _facts(record: list[object]) -> Facts:
    kind, mode, uid, gid, size, mtime_ns, link, device, xattrs = record
    pairs = tuple((name, value) for name, value in xattrs) if xattrs else ()  # type: ignore[attr-defined]
    return kind, mode, uid, gid, size, mtime_ns, link, tuple(device), pairs  # type: ignore[return-value,arg-type]


def _on_disk(root: Path, below: str) -> Iterator[tuple[str, Facts]]:
    """What lies below a directory, as a client would have said it. Hard links count as files of their own."""
    with os.scandir(root / below if below else root) as listing:
        for item in sorted(listing, key=lambda one: one.name):
            path = f"{below}/{item.name}" if below else item.name
            status = item.stat(follow_symlinks=False)
            mode = stat.S_IMODE(status.st_mode)
            if stat.S_ISDIR(status.st_mode):
                yield path, ("dir", mode, status.st_uid, status.st_gid, 0, 0, "", (0, 0), ())
                yield from _on_disk(root, path)
            elif stat.S_ISREG(status.st_mode):
                size, mtime_ns = status.st_size, status.st_mtime_ns
                yield path, ("file", mode, status.st_uid, status.st_gid, size, mtime_ns, "", (0, 0), ())
            else:  # made again: that takes no transfer
                yield path, ("fifo", -1, 0, 0, 0, 0, "", (0, 0), ())


class SyncedTree:
    """A copy as a `Tree`. What the client said of the files holds, not what the disk says of them."""

    def __init__(self, copy: Copy) -> None:
        self._copy = copy
        self._names: dict[str, list[str]] | None = None
        self._entries: dict[str, Entry] = {}
        facts = copy.facts.values()
        self._linked = {item[6] for item in facts if item[0] == "file" and item[6]}
        self._count = sum(item[0] == "file" for item in facts)

    @property
    def in_memory(self) -> bool:
        return len(self._copy.digests) >= self._count - len(self._linked)

    def lookup(self, path: str) -> Entry | None:
        if not path:
            return Entry("dir", 0o755)
        found = self._entries.get(path)
        if found is None:
            facts = self._copy.facts.get(path)
            if facts is None:
                return None
            found = self._entries[path] = self._entry(path, facts)
        return found

    def _entry(self, path: str, facts: Facts) -> Entry:
        kind, mode, uid, gid, size, mtime_ns, link, device, xattrs = facts
        attributes = {name: bytes.fromhex(value) for name, value in xattrs}
        identity = None
        if kind == "file" and link:
            identity, size, link = link, self._copy.facts[link][4], ""
        elif path in self._linked:
            identity = path
        return Entry(kind, mode, uid, gid, size, mtime_ns, link, attributes, device, identity)

    def single_place(self, path: str) -> Path | None:
        """Where a file or directory really is, to be mounted; None for what is only in the index."""
        facts = self._copy.facts.get(path)
        if path and (facts is None or facts[0] not in ("file", "dir")):
            return None
        return self._copy.files / path

    def names(self, path: str) -> list[str]:
        if self._names is None:
            self._names = {}
            for item in self._copy.facts:
                parent, _, name = item.rpartition("/")
                self._names.setdefault(parent, []).append(name)
            for names in self._names.values():
                names.sort()
        return self._names.get(path, [])

    def open(self, path: str) -> Content:
        return open(self._copy.files / path, "rb", buffering=0, opener=_no_follow)

    def digest(self, path: str) -> bytes:
        facts = self._copy.facts[path]
        real = facts[6] or path
        known = self._copy.digests.get(real)
        if known is None:
            stream = self.open(real)
            try:
                known = hash_content(stream).hex()
            finally:
                stream.close()
            self._copy.digests[real] = known
            self._copy.changed = True
        return bytes.fromhex(known)


def _no_follow(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NOFOLLOW)


class Contexts:
    """All copies of this machine."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._remembered: OrderedDict[Path, Copy] = OrderedDict()

    async def receive(
        self, session: Session, wanted: Wanted, transferred: Transferred, stack: AsyncExitStack
    ) -> SyncedTree:
        """A directory as the client has it now; it stays so until the stack ends.

        Raises:
            DavitError: The client does not serve it, or is gone.
        """
        key = hashlib.sha256(f"{session.shared_key}\0{wanted.name}".encode()).hexdigest()[:32]
        async with transfer(session, wanted, transferred) as conversation:
            listing = await conversation.listing()
            copy = await asyncio.to_thread(self._choose, key, listing, stack)
            await _Update(copy, listing, conversation).carry_out()
            await conversation.finish()
        return SyncedTree(copy)

    def _choose(self, key: str, listing: Sequence[Sent], stack: AsyncExitStack) -> Copy:
        """The free copy that is most like what the client has, or a new one. Blocks."""
        home = self._root / key
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        best: tuple[float, Copy, int] | None = None
        free = 0
        for path in sorted(home.iterdir(), key=_last_used, reverse=True):
            descriptor = _try_lock(path)
            if descriptor is None:
                continue
            free += 1
            copy = Copy(path)
            copy.load(self._remembered)
            likeness = copy.likeness(listing)
            if best is None or likeness > best[0]:
                if best is not None:
                    os.close(best[2])
                best = likeness, copy, descriptor
            else:
                os.close(descriptor)
            if best[0] == 1.0:
                break
        if best is not None and best[0] < 0.5 and free < MAX_SLOTS:
            os.close(best[2])
            best = None
        if best is None:
            path = Path(tempfile.mkdtemp(dir=home))
            copy, made = Copy(path), _try_lock(path)
            assert made is not None
            copy.load(self._remembered)
            best = 0.0, copy, made
        _, copy, descriptor = best
        os.utime(copy.root)
        stack.callback(os.close, descriptor)
        stack.callback(copy.save)
        self._remembered[copy.root] = copy
        self._remembered.move_to_end(copy.root)
        if len(self._remembered) > REMEMBERED:
            self._remembered.popitem(last=False)
        return copy

    def entries(self) -> list[Path]:
        """All copies. Blocks."""
        if not self._root.is_dir():
            return []
        return [path for home in self._root.iterdir() if home.is_dir() for path in home.iterdir()]

    def remove(self, path: Path) -> bool:
        """Remove a copy that no build uses; whether it was. Blocks."""
        descriptor = _try_lock(path)
        if descriptor is None:
            return False
        try:
            shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(descriptor)
        return True

    def in_use(self, path: Path) -> bool:
        descriptor = _try_lock(path)
        if descriptor is None:
            return True
        os.close(descriptor)
        return False


def _last_used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _try_lock(path: Path) -> int | None:
    """The descriptor that holds a copy; None when somebody else does, or it is gone."""
    try:
        descriptor = os.open(path / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


class _Update:
    """Makes a copy what the client has."""

    def __init__(self, copy: Copy, listing: list[Sent], conversation: Transfer) -> None:
        self._copy = copy
        self._listing = listing
        self._conversation = conversation
        self._new = {item.path: facts_of(item) for item in listing}
        self._files: dict[int, BinaryIO] = {}
        self._left: set[int] = set()

    async def carry_out(self) -> None:
        copy = self._copy
        if self._new == copy.facts:
            return
        try:
            numbers = await asyncio.to_thread(self._prepare)
            for start in range(0, len(numbers), OPEN_AT_ONCE):
                await self._fetch(numbers[start : start + OPEN_AT_ONCE])
            await asyncio.to_thread(self._complete)
        finally:
            for out in self._files.values():
                out.close()
        copy.facts, copy.changed = self._new, True
        await asyncio.to_thread(copy.save)

    def _prepare(self) -> list[int]:
        """Remove what is not the same, make what needs no content; the numbers of files to ask for."""
        copy, root, old = self._copy, self._copy.files, self._copy.facts
        copy.doubt()
        same = {path for path, facts in self._new.items() if old.get(path) == facts}
        for path in sorted(old.keys() - same, reverse=True):  # what lies below goes first
            new = self._new.get(path)
            if new is not None and new[0] == old[path][0] == "dir":
                continue
            _remove(root / path)
            copy.digests.pop(path, None)
        numbers = []
        for number, item in enumerate(self._listing):
            if item.path in same or (item.kind == "dir" and (root / item.path).is_dir()):
                continue
            if item.kind == "file" and not item.link:
                numbers.append(number)
            elif item.kind != "file":
                _make(root / item.path, item)
        return numbers

    async def _fetch(self, numbers: list[int]) -> None:
        self._left = set(numbers)
        await self._conversation.ask(numbers)
        while self._left:
            pieces = await self._conversation.data()
            await asyncio.to_thread(self._write, pieces)

    def _write(self, pieces: list[tuple[int, bytes]]) -> None:
        for number, data in pieces:
            if number not in self._left:
                continue
            out = self._files.get(number)
            if out is None:
                place = self._copy.files / self._listing[number].path
                out = self._files[number] = place.open("xb", buffering=0)
            if data:
                out.write(data)
                continue
            del self._files[number]
            self._left.discard(number)
            _attributes(out.fileno(), self._listing[number])
            out.close()

    def _complete(self) -> None:
        """Hard links, and directories' modes, which may forbid what had to be done in them."""
        root = self._copy.files
        for item in self._listing:
            if item.kind == "file" and item.link and not (root / item.path).exists():
                os.link(root / item.link, root / item.path, follow_symlinks=False)
        for item in reversed(self._listing):
            if item.kind == "dir" and self._copy.facts.get(item.path) != self._new[item.path]:
                os.chown(root / item.path, item.uid, item.gid)
                os.chmod(root / item.path, item.mode)


def _remove(path: Path) -> None:
    try:
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path)
        else:
            path.unlink()
    except FileNotFoundError:
        pass


def _make(path: Path, item: Sent) -> None:
    if item.kind == "dir":
        path.mkdir(mode=0o700)
    elif item.kind == "symlink":
        path.symlink_to(item.link)
    elif item.kind == "fifo":
        os.mkfifo(path)
    else:
        path.touch()  # a device would be one on this machine: what the client said of it is in the index


def _attributes(descriptor: int, item: Sent) -> None:
    os.fchown(descriptor, item.uid, item.gid)
    os.fchmod(descriptor, item.mode)
    for name, value in item.xattrs.items():
        os.setxattr(descriptor, name, value)
    os.utime(descriptor, ns=(time.time_ns(), item.mtime_ns))
