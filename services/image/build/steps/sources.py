"""The sources of one COPY or ADD, gathered: from the context, a stage, an image, a text, a download, a repository."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from services.image.build.context.directories import DirectoryTree
from services.image.build.context.remote import clone, download, is_git, is_url, parse_git
from services.image.build.context.tartree import TarTree
from services.image.build.context.tree import Content, Entry, MemoryTree, Tree, looked_up
from services.image.build.dockerfile.expand import expand_text
from services.image.build.dockerfile.instructions import Copy
from services.image.build.dockerfile.lines import Heredoc
from services.image.build.steps.copying import Selected, select
from services.image.build.workdirs import Scratch
from shared.errors import DavitError, InvalidArgument
from shared.layers import tarheader
from shared.layers.compression import HEAD_BYTES, Compression, CompressionError, decompressed, detect

TAR_FAULT = "Error processing tar file"


@dataclass(frozen=True, slots=True)
class Gathering:
    """What gathering needs besides the instruction.

    Attributes:
        tree: What plain sources are read from.
        from_context: Whether that is the build context (an error says so).
        scratch: For downloads, repositories and plain copies of compressed archives.
        expand: Replaces variables.
        variables: What here-documents see.
    """

    tree: Tree
    from_context: bool
    scratch: Scratch
    expand: Callable[[str], str]
    variables: dict[str, str]
    escape: str = "\\"


async def gather(copy: Copy, place: Gathering) -> list[Selected]:
    """Raises DavitError as Docker words it."""
    found: list[Selected] = []
    for source in copy.sources:
        if source in copy.heredocs:
            found.append(_heredoc(copy.heredocs[source], place))
            continue
        text = place.expand(source)
        if is_url(text) or (copy.keyword == "ADD" and is_git(text)):
            found.append(await _remote(copy, text, place))
            continue
        if copy.checksum:
            raise InvalidArgument("checksum can't be specified for non-HTTP(S) sources", field="--checksum")
        look = partial(
            select, place.tree, text, keyword=copy.keyword, parents=copy.parents, from_context=place.from_context
        )
        selected = await looked_up([place.tree], look)
        if copy.keyword == "ADD" and copy.unpack is not False:
            selected = [await asyncio.to_thread(with_archive, item, place.scratch) for item in selected]
        found.extend(selected)
    if not found:
        raise InvalidArgument(f"{copy.keyword} failed: no source files were specified")
    return found


def _heredoc(doc: Heredoc, place: Gathering) -> Selected:
    text = doc.text()
    if doc.expand:
        text = expand_text(text, place.variables, escape=place.escape)
    tree = MemoryTree({doc.name: text.encode()})
    entry = tree.lookup(doc.name)
    assert entry is not None
    return Selected(tree, doc.name, entry, doc.name)


async def _remote(copy: Copy, source: str, place: Gathering) -> Selected:
    if copy.keyword == "COPY":
        raise InvalidArgument("COPY failed: source can't be a URL for COPY")
    target = place.scratch.place("remote")
    try:
        if is_git(source):
            if copy.checksum:
                raise InvalidArgument("checksum can't be specified for git sources", field="--checksum")
            directory = await clone(parse_git(source), target, keep_git_dir=copy.keep_git_dir)
            return Selected(DirectoryTree([directory]), "", Entry("dir", 0o755), "")
        return await _downloaded(copy, source, target, place)
    except DavitError as error:
        raise type(error)(f"ADD failed: {error}", **error.detail) from error


async def _downloaded(copy: Copy, url: str, target: Path, place: Gathering) -> Selected:
    fetched = await download(url, target, checksum=place.expand(copy.checksum))
    name = fetched.name
    if not name and copy.destination.endswith("/"):
        raise InvalidArgument(f"cannot determine filename for source {url}")
    entry = Entry("file", 0o600, size=fetched.size, mtime_ns=fetched.mtime_ns)
    item = Selected(_SingleFile(target, entry), "file", entry, name)
    return await asyncio.to_thread(with_archive, item, place.scratch) if copy.unpack else item


class _SingleFile(DirectoryTree):
    """One file of this machine as a tree with the single path ``file``."""

    def __init__(self, path: Path, entry: Entry) -> None:
        super().__init__([path.parent])
        self._name = path.name
        self._file = entry

    def lookup(self, path: str) -> Entry | None:
        return self._file if path == "file" else super().lookup("") if not path else None

    def names(self, path: str) -> list[str]:
        return [] if path else ["file"]

    def open(self, path: str) -> Content:
        return super().open(self._name)


def with_archive(item: Selected, scratch: Scratch) -> Selected:
    """The selection with the archive's content, if it is an archive: if its first header can be read.

    Raises:
        InvalidArgument: It is one, and damaged.
    """
    if item.entry.kind != "file":
        return item
    with closing(item.tree.open(item.path)) as content:
        compression = detect(content.read(HEAD_BYTES))
    if not _is_header(_plain_head(item, compression)):
        return item  # also what is compressed, but no archive: Docker copies such a file as it is
    spool = scratch.spool("archive")
    tree = TarTree(spool)
    try:
        with closing(item.tree.open(item.path)) as content:
            for piece in decompressed(lambda: content.read(1 << 20), compression):
                spool.write(piece)
                tree.feed(piece)
        spool.flush()
        tree.finish()
    except (CompressionError, InvalidArgument) as error:
        reason = str(error).removeprefix(f"{TAR_FAULT}: ")
        raise InvalidArgument(f"failed to copy files: {TAR_FAULT}({compression or 'tar'}): {reason}") from error
    return replace(item, archive=tree)


def _plain_head(item: Selected, compression: Compression) -> bytes:
    """The first block of what is in a file, as far as it can be read."""
    head = b""
    with closing(item.tree.open(item.path)) as content, suppress(CompressionError):
        for piece in decompressed(lambda: content.read(1 << 16), compression, piece_bytes=tarheader.BLOCK):
            head += piece
            if len(head) >= tarheader.BLOCK:
                break
    return head[: tarheader.BLOCK]


def _is_header(block: bytes) -> bool:
    """Whether a tar begins with this. One of zeros has no entry, and so nothing to unpack."""
    if len(block) < tarheader.BLOCK or block == tarheader.ZERO_BLOCK:
        return False
    try:
        tarheader.parse(block)
    except tarheader.TarError:
        return False
    return True
