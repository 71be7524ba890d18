"""The build context: received or fetched, and read as a tree, with its Dockerfile.

Source: Docker Engine API 1.50, ImageBuild (``remote``, ``dockerfile``); docker build, "Build context".
"""

from __future__ import annotations

import asyncio
import posixpath
import re
import tarfile
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from services.image.build.context.directories import DirectoryTree
from services.image.build.context.remote import clone, download, is_git, is_url, parse_git
from services.image.build.context.spool import ContextSpool
from services.image.build.context.tartree import TarTree
from services.image.build.context.tree import Entry, MemoryTree, Tree, resolve, walk
from services.image.build.ignore import IgnoreRules, read_ignore_file
from services.image.build.workdirs import Scratch
from shared.errors import DavitError, InvalidArgument
from shared.layers.compression import HEAD_BYTES, CompressionError, decompressed, detect

DEFAULT_DOCKERFILE = "Dockerfile"
IGNORE_FILE = ".dockerignore"
MAX_DOCKERFILE_BYTES = 16 << 20
TEXT_HEAD_BYTES = 512
# What goes to the disk goes in pieces of this size.
WRITE_BYTES = 1 << 20
_ACCEPTED_TYPES = re.compile(r"application/(?:(?:x-)?(?:tar|gzip|bzip2?|xz|zstd)|octet-stream)|text/plain")
# Bytes that no text has. Source: WHATWG MIME Sniffing, "binary data byte".
_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")


@dataclass(frozen=True, slots=True)
class Context:
    """Attributes: dockerfile: its text."""

    tree: Tree
    dockerfile: str


async def receive(chunks: AsyncIterator[bytes], dockerfile: str, scratch: Scratch) -> Context:
    """A context that arrives as a tar in any compression; it is looked through as it arrives.

    Raises:
        InvalidArgument: It is no tar, a truncated one, or has no such Dockerfile.
    """
    spool = ContextSpool(lambda: scratch.spool("context"))
    scratch.files.callback(spool.close)
    arriving = _Arriving(spool, TarTree(spool))
    waiting = b""
    async for chunk in chunks:
        if not waiting and spool.fits_memory(len(chunk)):
            arriving.take(chunk)
            continue
        waiting += chunk
        if len(waiting) >= WRITE_BYTES:
            await asyncio.to_thread(arriving.take, waiting)
            waiting = b""
    if waiting:
        await asyncio.to_thread(arriving.take, waiting)
    arriving.finish()
    if arriving.compression:
        with open(spool.fileno(), "rb", closefd=False) as file:
            return await asyncio.to_thread(_from_file, file, dockerfile, scratch)
    if spool.fits_memory(0):
        return _whole(arriving.tree, dockerfile)
    return await asyncio.to_thread(_whole, arriving.tree, dockerfile)


@dataclass(slots=True)
class _Arriving:
    """A context of which a part is here. compression: of the tar; None while too little of it is known."""

    spool: ContextSpool
    tree: TarTree
    head: bytes = b""
    compression: str | None = None

    def take(self, chunk: bytes) -> None:
        """Blocks unless the spool is in memory."""
        digesting = self.spool.fits_memory(len(chunk))
        self.spool.write(chunk)
        if self.compression is None:
            self.head += chunk
            if len(self.head) < HEAD_BYTES:
                return
            self.compression, chunk, self.head = detect(self.head), self.head, b""
        if not self.compression:
            self.tree.feed(chunk, digesting=digesting)

    def finish(self) -> None:
        """All of it is here. Raises InvalidArgument."""
        if self.compression is None:
            self.compression = detect(self.head)
            if not self.compression:
                self.tree.feed(self.head)
        if not self.compression:
            self.tree.finish()


async def fetch(remote: str, dockerfile: str, scratch: Scratch, *, keep_git_dir: bool = False) -> Context:
    """A context from a repository, or from a URL that holds a tar or a single Dockerfile.

    Raises:
        DavitError: It cannot be fetched, or is neither.
    """
    target = scratch.place("remote")
    if is_git(remote):
        directory = await clone(parse_git(remote), target, keep_git_dir=keep_git_dir)
        return await asyncio.to_thread(_from_directory, directory, dockerfile)
    if not is_url(remote):
        raise InvalidArgument(f"remote URL ({remote}) could not be recognized", field="remote")
    try:
        fetched = await download(remote, target)
    except DavitError as error:
        raise type(error)(f"error downloading remote context {remote}: {error}", **error.detail) from error
    spool = scratch.files.enter_context(target.open("r+b"))
    if _is_text(spool.read(TEXT_HEAD_BYTES), fetched.content_type, remote):
        spool.seek(0)
        text = spool.read(MAX_DOCKERFILE_BYTES)
        return Context(MemoryTree({DEFAULT_DOCKERFILE: text}), _decoded(text))
    return await asyncio.to_thread(_from_file, spool, dockerfile, scratch, ignore=True)


async def fetch_tree(remote: str, scratch: Scratch, *, keep_git_dir: bool = False) -> Tree:
    """A directory from a repository, or from a URL that holds a tar; no Dockerfile is looked for.

    Raises:
        DavitError: It cannot be fetched, or is neither.
    """
    target = scratch.place("remote")
    if is_git(remote):
        return DirectoryTree([await clone(parse_git(remote), target, keep_git_dir=keep_git_dir)])
    fetched = await download(remote, target)
    spool = scratch.files.enter_context(target.open("r+b"))
    if not detect(spool.read(HEAD_BYTES)) and not await asyncio.to_thread(tarfile.is_tarfile, target):
        spool.seek(0)
        return MemoryTree({fetched.name or "download": spool.read(MAX_DOCKERFILE_BYTES)})
    return await asyncio.to_thread(lambda: TarTree.of(_plain(spool, scratch)))


def _is_text(head: bytes, content_type: str, remote: str) -> bool:
    """Whether a download is a Dockerfile, and not a tar. Raises InvalidArgument for a type that is neither."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind in ("", "application/octet-stream"):  # what servers call files of which they know nothing
        return not detect(head) and not _BINARY.search(head)
    if not _ACCEPTED_TYPES.fullmatch(kind):
        raise InvalidArgument(
            f'error detecting content type for remote {remote}: unsupported Content-Type "{content_type}"',
            field="remote",
        )
    return kind == "text/plain"


def _from_file(file: BinaryIO, dockerfile: str, scratch: Scratch, *, ignore: bool = False) -> Context:
    return _whole(TarTree.of(_plain(file, scratch)), dockerfile, ignore=ignore)


def _plain(file: BinaryIO, scratch: Scratch) -> BinaryIO:
    """A tar without its compression. Raises InvalidArgument."""
    file.seek(0)
    compression = detect(file.read(HEAD_BYTES))
    if not compression:
        return file
    file.seek(0)
    plain = scratch.spool("context")
    try:
        for piece in decompressed(partial(file.read, 1 << 20), compression):
            plain.write(piece)
    except CompressionError as error:
        raise InvalidArgument(f"Error processing tar file({compression}): {error}") from error
    plain.flush()
    return plain


def _whole(tree: TarTree, dockerfile: str, *, ignore: bool = False) -> Context:
    """Args: ignore: apply ``.dockerignore``, which clients do themselves."""
    text = _read_dockerfile(tree, dockerfile)
    if ignore:
        _apply_ignore_file(tree, dockerfile)
    else:
        _remove_ignored_helpers(tree, dockerfile)
    return Context(tree, text)


def _from_directory(directory: Path, dockerfile: str) -> Context:
    tree = DirectoryTree([directory])
    text = _read_dockerfile(tree, dockerfile)
    rules = _ignore_rules(tree, f"{dockerfile}{IGNORE_FILE}", IGNORE_FILE)
    if rules is None:
        return Context(tree, text)
    return Context(FilteredTree(tree, rules), text)


def _read_dockerfile(tree: Tree, name: str) -> str:
    path = posixpath.normpath(name or DEFAULT_DOCKERFILE)
    if path == ".." or path.startswith("../"):
        raise InvalidArgument(f"forbidden path outside the build context: {name} ()", field="dockerfile")
    try:
        real, entry = resolve(tree, path)
        if entry is None and path == DEFAULT_DOCKERFILE:
            real, entry = resolve(tree, path.lower())
    except OSError as error:
        raise InvalidArgument(f"Cannot locate specified Dockerfile: {name}: {error}", field="dockerfile") from error
    if entry is None or entry.kind != "file":
        raise InvalidArgument(f"Cannot locate specified Dockerfile: {name}", field="dockerfile")
    if entry.size == 0:
        raise InvalidArgument(f"the Dockerfile ({name}) cannot be empty", field="dockerfile")
    with closing(tree.open(real)) as content:
        return _decoded(content.read(MAX_DOCKERFILE_BYTES))


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _ignore_rules(tree: Tree, *names: str) -> IgnoreRules | None:
    """The rules of the first of these files that there is."""
    for name in map(posixpath.normpath, names):
        entry = tree.lookup(name)
        if entry is None or entry.kind != "file":
            continue
        with closing(tree.open(name)) as content:
            patterns = read_ignore_file(_decoded(content.read(MAX_DOCKERFILE_BYTES)))
        return IgnoreRules(patterns) if patterns else None
    return None


def _remove_ignored_helpers(tree: TarTree, dockerfile: str) -> None:
    """A client has left out what is ignored, but always sends these two; they go if the rules name them."""
    rules = _ignore_rules(tree, IGNORE_FILE)
    if rules is None:
        return
    for name in (dockerfile, IGNORE_FILE):
        if rules.excludes(posixpath.normpath(name)) and tree.lookup(name) is not None:
            tree.remove(name)


def _apply_ignore_file(tree: TarTree, dockerfile: str) -> None:
    rules = _ignore_rules(tree, f"{dockerfile}{IGNORE_FILE}", IGNORE_FILE)
    if rules is None:
        return
    paths = tree.paths()
    kept = {path for path in paths if not rules.excludes(path)}
    needed = {parent for path in kept for parent in _parents(path)}
    for path in reversed(paths):
        if path not in kept and path not in needed:
            tree.remove(path)


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]


class FilteredTree:
    """A tree without what the rules leave out. A directory stays when something below it does."""

    in_memory = False

    def __init__(self, tree: Tree, rules: IgnoreRules) -> None:
        self._tree = tree
        kept = {path for path, _ in walk(tree, "") if not rules.excludes(path)}
        self._kept = kept | {parent for path in kept for parent in _parents(path)} | {""}
        self.open = tree.open
        self.digest = tree.digest

    def lookup(self, path: str) -> Entry | None:
        return self._tree.lookup(path) if path in self._kept else None

    def names(self, path: str) -> list[str]:
        return [name for name in self._tree.names(path) if posixpath.join(path, name) in self._kept]
