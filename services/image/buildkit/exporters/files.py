"""The files of what was built, sent to the client: as a directory, or as a tar of it."""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from services.image.build.context.tree import Entry, Tree, walk
from services.image.build.steps.layer import LayerWriter
from services.image.buildkit.progress import TransferStatus
from services.image.buildkit.sending import Item, send_archive, send_files

if TYPE_CHECKING:
    from services.image.buildkit.exporting import Order

READ_BYTES = 256 * 1024


async def export_directory(order: Order) -> dict[str, str]:
    """Send the files as a directory; with several platforms, one for each. Raises DavitError."""
    split = order.attributes.flag("platform-split", len(order.targets) > 1)
    order.attributes.finish()
    build = order.build
    async with build.progress.doing("exporting to client directory", build.ref, str(order.number)) as line:
        items = await _items(order, split=split)
        status = TransferStatus(line, "copying files")
        await send_files((await build.place()).session, order.number, items, status.add)
        status.done()
    return {}


async def export_tar(order: Order) -> dict[str, str]:
    """Send the files as a tar. Raises DavitError."""
    split = order.attributes.flag("platform-split", len(order.targets) > 1)
    order.attributes.finish()
    build = order.build
    place = await build.place()
    async with build.progress.doing("exporting to client tarball", build.ref, str(order.number)) as line:
        items = await _items(order, split=split)
        path = place.scratch.place("tar")
        await asyncio.to_thread(_write_tar, path, items)
        status = TransferStatus(line, "sending tarball")
        await send_archive(place.session, order.number, _chunks(path), status.add)
        status.done()
        path.unlink()
    return {}


async def _items(order: Order, *, split: bool) -> list[Item]:
    found: list[Item] = []
    kitchen = order.build.kitchen
    for platform, target in order.targets.items():
        tree = kitchen.tree_of(await target.image())
        prefix = (platform or "linux").replace("/", "_") if split else ""
        if prefix:
            found.append(Item(prefix, Entry("dir", 0o755), tree, ""))
        found += await asyncio.to_thread(_below, tree, prefix)
    return found


def _below(tree: Tree, prefix: str) -> list[Item]:
    first: dict[object, str] = {}
    found = []
    for relative, entry in walk(tree, ""):
        path = posixpath.join(prefix, relative)
        link = ""
        if entry.kind == "file" and entry.identity is not None:
            link = first.setdefault(entry.identity, path)
        found.append(Item(path, entry, tree, relative, link if link != path else ""))
    return found


class _FileTarget:
    """A tar in a file."""

    files = None

    def __init__(self, path: Path) -> None:
        self._out = path.open("wb")

    def write(self, data: bytes, /) -> None:
        self._out.write(data)

    def discard(self) -> None:
        self._out.close()


def _write_tar(path: Path, items: list[Item]) -> None:
    target = _FileTarget(path)
    try:
        writer = LayerWriter(target)
        for item in items:
            content = partial(item.tree.open, item.source) if item.entry.kind == "file" else None
            writer.add(item.path, item.entry, content, tree=item.tree)
        writer.finish()
    finally:
        target.discard()


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while data := await asyncio.to_thread(file.read, READ_BYTES):
            yield data
