"""Files and archives handed to a client over its session: what an exporter with a destination writes there.

::

    a tar:        BytesMessage … BytesMessage, end
    a directory:  engine ─ STAT … STAT (empty) ─► client        the roles of `filesync`, turned round
                  engine ◄─ REQ n … ───────────── client
                  engine ─ DATA n … ────────────► client
                  engine ◄─ FIN ───────────────── client, answered with FIN

Source: moby/buildkit, session/filesync; tonistiigi/fsutil, send.go.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from grpclib.client import Stream

from services.image.build.context.tree import Entry, Tree
from services.image.buildkit.filesync import DATA, ERR, FIN, REQ, STAT, Packet
from services.image.buildkit.lookups import stat_of
from services.image.buildkit.sessions import SEND_FILE, Session, end, send_raw, translated
from services.image.buildkit.transport import encoded
from services.image.buildkit.wire import filesync_pb2, fsutil_pb2
from shared.errors import Unavailable, Unsupported

EXPORTER_ID = "buildkit-attachable-exporter-id"
CHUNK_BYTES = 32 * 1024
STATS_AT_ONCE = 256

Told = Callable[[int], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Item:
    """A file to send: what it is called there, and where it is."""

    path: str
    entry: Entry
    tree: Tree
    source: str
    link: str = ""


def _check(session: Session) -> None:
    if SEND_FILE not in session.methods:
        raise Unsupported("the client of the build takes no files", field="session")


async def send_archive(session: Session, number: int, chunks: AsyncIterator[bytes], told: Told) -> None:
    """Send an archive. Args: number: which of the client's exporters it is for. Raises DavitError."""
    _check(session)
    kind = filesync_pb2.BytesMessage
    with translated(SEND_FILE):
        async with session.stream(SEND_FILE, kind, kind, [(EXPORTER_ID, str(number))]) as stream:
            await stream.send_request()
            async for chunk in chunks:
                for start in range(0, len(chunk), CHUNK_BYTES):
                    await stream.send_message(kind(data=chunk[start : start + CHUNK_BYTES]))
                await told(len(chunk))
            await end(stream)
            await stream.recv_message()


async def send_files(session: Session, number: int, items: list[Item], told: Told) -> None:
    """Send a directory's content, parents first. Raises DavitError."""
    _check(session)
    with translated(SEND_FILE):
        async with session.stream(SEND_FILE, Packet, Packet, [(EXPORTER_ID, str(number))]) as stream:
            await stream.send_request()
            for start in range(0, len(items), STATS_AT_ONCE):
                part = items[start : start + STATS_AT_ONCE]
                await send_raw(stream, encoded(*(Packet(type=STAT, stat=_stat(item)) for item in part)))
            await send_raw(stream, encoded(Packet(type=STAT)))
            while (packet := await stream.recv_message()) is not None:
                if packet.type == ERR:
                    raise Unavailable(f"error from receiver: {packet.data.decode(errors='replace')}")
                if packet.type == FIN:
                    await send_raw(stream, encoded(Packet(type=FIN)))
                    break
                if packet.type == REQ:
                    await _send_content(stream, packet.ID, items[packet.ID], told)
            await end(stream)
            await stream.recv_message()


def _stat(item: Item) -> fsutil_pb2.Stat:
    found = stat_of(item.path, item.entry)
    if item.link:
        found.linkname, found.size = item.link, 0
    return found


async def _send_content(stream: Stream[Any, Any], number: int, item: Item, told: Told) -> None:
    with closing(item.tree.open(item.source)) as content:
        while data := await asyncio.to_thread(content.read, CHUNK_BYTES):
            await send_raw(stream, encoded(Packet(type=DATA, ID=number, data=data)))
            await told(len(data))
    await send_raw(stream, encoded(Packet(type=DATA, ID=number)))
