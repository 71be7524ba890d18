"""Directories of a client, received over its session: first what is there, then of that only what is asked for.

::

    engine                                    client
      │ DiffCopy, patterns as metadata ─────────►│ walks
      │◄─────────── STAT path, mode, size, time …│ in order, parents first
      │◄─────────────────────────── STAT (empty) │ that was all
      │ REQ n (the n-th STAT, from 0) … ────────►│ reads
      │◄────────────── DATA n … DATA n (empty)   │ of several files mixed
      │ FIN ────────────────────────────────────►│
      │◄──────────────────────────────────── FIN │

Source: tonistiigi/fsutil, send.go and receive.go; moby/buildkit, session/filesync.
"""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote

from google.protobuf.message import DecodeError

from services.image.build.context.tree import Kind
from services.image.buildkit.sessions import DIFF_COPY, Session, end, send_raw
from services.image.buildkit.transport import BulkStream, encoded
from services.image.buildkit.wire import fsutil_pb2
from shared.errors import InvalidArgument, Unavailable, Unsupported

Packet = fsutil_pb2.Packet
STAT, REQ, DATA, FIN, ERR = (
    Packet.PACKET_STAT,
    Packet.PACKET_REQ,
    Packet.PACKET_DATA,
    Packet.PACKET_FIN,
    Packet.PACKET_ERR,
)
MAX_SMALL_BYTES = 16 << 20
REQUESTS_AT_ONCE = 512

# Source: Go, io/fs, FileMode.
_GO_DIR, _GO_SYMLINK, _GO_DEVICE, _GO_PIPE, _GO_SOCKET, _GO_SETUID, _GO_SETGID, _GO_CHAR, _GO_STICKY = (
    1 << bit for bit in (31, 27, 26, 25, 24, 23, 22, 21, 20)
)

Transferred = Callable[[int], Awaitable[None]]


class Sent(NamedTuple):
    """What a client says of one file. link: of a symbolic link, or the earlier path that a hard link is."""

    path: str
    kind: Kind
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    link: str
    device: tuple[int, int]
    xattrs: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which files of which of the client's directories.

    Attributes:
        name: What the client calls the directory.
        follow: Paths to send, with whatever links on them lead to; empty for all.
    """

    name: str
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    follow: Sequence[str] = ()

    def metadata(self) -> list[tuple[str, str]]:
        found = [("dir-name", self.name)]
        for key, values in (
            ("include-patterns", self.include),
            ("exclude-patterns", self.exclude),
            ("followpaths", self.follow),
        ):
            plain = all(value.isascii() and value.isprintable() for value in values)
            found += [(key, value if plain else quote(value)) for value in values]
            if not plain:
                found.append((f"{key}-encoded", "1"))
        return found


class Transfer:
    """One conversation about a directory; made by `transfer`."""

    def __init__(self, stream: Any, bulk: BulkStream, transferred: Transferred) -> None:
        self._stream = stream
        self._bulk = bulk
        self._transferred = transferred
        self._waiting: list[Packet] = []

    async def _packets(self) -> list[Packet]:
        messages = await self._bulk.messages()
        if not messages:
            # The call's own error says more than its end does.
            await end(self._stream)
            await self._stream.recv_initial_metadata()
            await self._stream.recv_trailing_metadata()
            raise Unavailable("the client ended the transfer of a directory")
        try:
            packets = [Packet.FromString(message) for message in messages]
        except DecodeError as error:
            raise InvalidArgument(f"the client sent a packet that is none: {error}") from error
        await self._transferred(sum(map(len, messages)))
        for packet in packets:
            if packet.type == ERR:
                raise Unavailable(f"error from sender: {packet.data.decode(errors='replace')}")
        return packets

    async def listing(self) -> list[Sent]:
        """What is there, parents first.

        Raises:
            InvalidArgument: A path that leads out of the directory, or has no parent.
        """
        found: list[Sent] = []
        directories = {""}
        while True:
            packets = await self._packets()
            for index, packet in enumerate(packets):
                if packet.type != STAT:
                    raise InvalidArgument("the client sent content before it said what there is")
                if not packet.HasField("stat"):
                    self._waiting = packets[index + 1 :]
                    return found
                item = _sent(packet.stat)
                if item.path.rpartition("/")[0] not in directories:
                    raise InvalidArgument(f"the client sent {item.path} without its directory")
                if item.kind == "dir":
                    directories.add(item.path)
                found.append(item)

    async def ask(self, numbers: Sequence[int]) -> None:
        """Ask for the content of files, by their place in the listing."""
        for start in range(0, len(numbers), REQUESTS_AT_ONCE):
            part = numbers[start : start + REQUESTS_AT_ONCE]
            await send_raw(self._stream, encoded(*(Packet(type=REQ, ID=number) for number in part)))

    async def data(self) -> list[tuple[int, bytes]]:
        """The next pieces of what was asked for; an empty one ends its file."""
        packets, self._waiting = self._waiting or await self._packets(), []
        return [(packet.ID, packet.data) for packet in packets if packet.type == DATA]

    async def finish(self) -> None:
        """Tell the client that everything is here, and hear that it knows."""
        await send_raw(self._stream, encoded(Packet(type=FIN)))
        while not any(packet.type == FIN for packet in await self._packets()):
            pass
        await end(self._stream)


@asynccontextmanager
async def transfer(session: Session, wanted: Wanted, transferred: Transferred) -> AsyncIterator[Transfer]:
    """A conversation about a directory of the client's.

    Args:
        transferred: Is told of bytes as they come.

    Raises:
        DavitError: The client does not serve files, or not this directory.
    """
    if DIFF_COPY not in session.methods:
        raise Unsupported("the client of the build serves no files", field="session")
    async with session.bulk(DIFF_COPY, Packet, Packet, wanted.metadata()) as (stream, bulk):
        yield Transfer(stream, bulk, transferred)


async def read_small(session: Session, wanted: Wanted, transferred: Transferred) -> dict[str, bytes]:
    """A few small files, by path. Raises InvalidArgument when they are not small."""
    async with transfer(session, wanted, transferred) as conversation:
        listing = await conversation.listing()
        files = {number: item for number, item in enumerate(listing) if item.kind == "file" and not item.link}
        if sum(item.size for item in files.values()) > MAX_SMALL_BYTES:
            raise InvalidArgument(f"{', '.join(wanted.follow)}: larger than {MAX_SMALL_BYTES} bytes")
        found = {number: bytearray() for number in files}
        await conversation.ask(list(files))
        open_files = set(files)
        while open_files:
            for number, data in await conversation.data():
                if data and number in found:
                    found[number] += data
                else:
                    open_files.discard(number)
                if len(found.get(number, b"")) > MAX_SMALL_BYTES:
                    raise InvalidArgument(f"{files[number].path}: larger than {MAX_SMALL_BYTES} bytes")
        await conversation.finish()
    read = {files[number].path: bytes(data) for number, data in found.items()}
    links = {item.path: item.link for item in listing if item.kind == "symlink"}
    for path, target in links.items():  # the client sends what a link leads to as well
        if target in read:
            read[path] = read[target]
    return read


def _sent(told: fsutil_pb2.Stat) -> Sent:
    path, mode = told.path, told.mode
    if not path or path.startswith("/") or any(part in ("", ".", "..") for part in path.split("/")) or "\0" in path:
        raise InvalidArgument(f"the client sent a path that cannot be: {path!r}")
    permissions = mode & 0o777
    if mode & (_GO_SETUID | _GO_SETGID | _GO_STICKY):
        permissions |= stat.S_ISUID if mode & _GO_SETUID else 0
        permissions |= stat.S_ISGID if mode & _GO_SETGID else 0
        permissions |= stat.S_ISVTX if mode & _GO_STICKY else 0
    kind = _kind(mode)
    device = (told.devmajor, told.devminor) if kind in ("char", "block") else (0, 0)
    xattrs = dict(told.xattrs) if told.xattrs else {}
    size = told.size if kind == "file" else 0
    return Sent(path, kind, permissions, told.uid, told.gid, size, told.modTime, told.linkname, device, xattrs)


def _kind(mode: int) -> Kind:
    if not mode & (_GO_DIR | _GO_SYMLINK | _GO_DEVICE | _GO_PIPE | _GO_SOCKET):
        return "file"
    if mode & _GO_DIR:
        return "dir"
    if mode & _GO_SYMLINK:
        return "symlink"
    if mode & _GO_DEVICE:
        return "char" if mode & _GO_CHAR else "block"
    if mode & _GO_PIPE:
        return "fifo"
    raise InvalidArgument("the client sent a socket")
