"""The Dockerfile and the contexts of one build, wherever the client has them: on its disk, its standard input, the web.

Each is fetched once, when it is needed: a build whose steps are all of the Dockerfile's own never asks for a context.

Source: moby/buildkit, frontend/dockerui (which files are asked for); docker build, "Build context".
"""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from services.image.build import intake
from services.image.build.context.remote import is_git, is_url
from services.image.build.context.tree import Tree
from services.image.build.dockerfile.instructions import Copy, Run
from services.image.build.dockerfile.stages import Dockerfile
from services.image.build.ignore import IgnoreRules, read_ignore_file
from services.image.build.steps.arguments import KEEP_GIT_DIR, is_true
from services.image.build.workdirs import Scratch
from services.image.buildkit.contexts import Contexts
from services.image.buildkit.filesync import Wanted, read_small
from services.image.buildkit.options import SESSION_UPLOAD, Options
from services.image.buildkit.progress import Progress, TransferStatus, digest_of
from services.image.buildkit.sessions import Session, Sessions
from shared.errors import InvalidArgument

IGNORE_FILE = ".dockerignore"


@dataclass(frozen=True, slots=True)
class Source:
    """A Dockerfile as text, and what it is called."""

    name: str
    text: str


class Files:
    """What one build reads of its client's.

    Args:
        stack: Holds copies of directories until the build ends.

    Attributes:
        definition: The vertex with which the Dockerfile was read.
    """

    def __init__(
        self,
        options: Options,
        session: Session,
        sessions: Sessions,
        contexts: Contexts,
        progress: Progress,
        scratch: Scratch,
        stack: AsyncExitStack,
    ) -> None:
        self._options = options
        self._session = session
        self._sessions = sessions
        self._contexts = contexts
        self._progress = progress
        self._scratch = scratch
        self._stack = stack
        self._remote: intake.Context | None = None
        self._ignore: list[str] | None = None
        self._trees: dict[str, Tree] = {}
        self.definition = ""
        self._mains: dict[bool, Tree] = {}
        self._fetching = asyncio.Lock()

    async def _serving(self, key: str) -> Session:
        """Who serves a directory."""
        other = self._options.sessions.get(key)
        return await self._sessions.get(other) if other else self._session

    # -- Dockerfile -----------------------------------------------------------------------------------------------

    async def dockerfile(self) -> Source:
        """Raises InvalidArgument in BuildKit's words when there is none."""
        options = self._options
        if options.context and not options.local_dockerfile:
            remote = await self._fetched()
            return Source(options.file, remote.dockerfile)
        name = options.file
        self.definition = digest_of(f"[internal] load build definition from {posixpath.basename(name)}")
        follow = [name, f"{name}{IGNORE_FILE}"]
        if posixpath.basename(name) == "Dockerfile":
            follow.append(posixpath.join(posixpath.dirname(name), "dockerfile"))
        async with self._progress.doing(f"[internal] load build definition from {posixpath.basename(name)}") as line:
            status = TransferStatus(line, "transferring dockerfile:")
            wanted = Wanted(options.dockerfile_key, follow=follow)
            found = await read_small(await self._serving(options.dockerfile_key), wanted, status.add)
            status.done()
            specific = found.get(f"{name}{IGNORE_FILE}")
            if specific is not None:
                self._ignore = read_ignore_file(specific.decode("utf-8", "surrogateescape"))
            data = next((found[path] for path in (name, *follow[2:]) if path in found), None)
            if data is None:
                raise InvalidArgument(f"failed to read dockerfile: open {name}: no such file or directory")
        text = data.decode("utf-8", "surrogateescape")
        if not text.strip():
            raise InvalidArgument("the Dockerfile cannot be empty")
        return Source(name, text)

    # -- contexts -------------------------------------------------------------------------------------------------

    async def main(self, paths: Sequence[str]) -> Tree:
        """The build context: these paths of it, or all of it."""
        async with self._fetching:
            whole = not paths
            tree = self._mains.get(True) or self._mains.get(whole)
            if tree is None:
                tree = self._mains[whole] = await self._main(paths)
            return tree

    async def _main(self, paths: Sequence[str]) -> Tree:
        if self._options.context:
            return (await self._fetched()).tree
        exclude = await self.ignored()
        wanted = Wanted(self._options.context_key, exclude=exclude, follow=paths)
        async with self._progress.doing("[internal] load build context", *paths) as line:
            status = TransferStatus(line, "transferring context:")
            tree = await self._contexts.receive(await self._serving(wanted.name), wanted, status.add, self._stack)
            status.done()
        return tree

    async def ignored(self) -> list[str]:
        """What the context leaves out."""
        if self._options.context:
            return []
        if self._ignore is None:
            async with self._progress.doing(f"[internal] load {IGNORE_FILE}") as line:
                self._ignore = await self._ignore_of(
                    self._options.context_key, TransferStatus(line, "transferring context:")
                )
        return self._ignore

    async def _ignore_of(self, key: str, status: TransferStatus) -> list[str]:
        found = await read_small(await self._serving(key), Wanted(key, follow=[IGNORE_FILE]), status.add)
        status.done()
        text = found.get(IGNORE_FILE, b"").decode("utf-8", "surrogateescape")
        patterns = read_ignore_file(text)
        IgnoreRules(patterns)  # a wrong one is an error of the build, not of the client's walk
        return patterns

    async def local(self, name: str, key: str) -> Tree:
        """A named context that is a directory of the client's."""
        async with self._fetching:
            tree = self._trees.get(key)
            if tree is None:
                async with self._progress.doing(f"[context {name}] load {IGNORE_FILE}", key) as line:
                    exclude = await self._ignore_of(key, TransferStatus(line, f"transferring {name}:"))
                async with self._progress.doing(f"[context {name}] load from client", key) as line:
                    status = TransferStatus(line, f"transferring {name}:")
                    wanted = Wanted(key, exclude=exclude)
                    session = await self._serving(key)
                    tree = await self._contexts.receive(session, wanted, status.add, self._stack)
                    status.done()
                self._trees[key] = tree
            return tree

    async def remote(self, name: str, url: str) -> Tree:
        """A named context that is a repository or an archive on the web."""
        async with self._fetching:
            tree = self._trees.get(url)
            if tree is None:
                async with self._progress.doing(f"[context {name}] load from {url}", url):
                    tree = await self._fetch_tree(url)
                self._trees[url] = tree
            return tree

    async def _fetch_tree(self, url: str) -> Tree:
        # A context that is no build's main one has no Dockerfile of its own that matters.
        keep = is_true(self._options.settings.build_args.get(KEEP_GIT_DIR))
        return await intake.fetch_tree(url, self._scratch, keep_git_dir=keep)

    async def _fetched(self) -> intake.Context:
        if self._remote is None:
            url = self._options.context
            if url.startswith(SESSION_UPLOAD):
                self._remote = await self._uploaded(url.removeprefix(SESSION_UPLOAD.rstrip("/")))
                return self._remote
            if not is_git(url) and not is_url(url):
                raise InvalidArgument(f"the build context {url} cannot be understood", field="context")
            async with self._progress.doing("[internal] load remote build context", url):
                keep = is_true(self._options.settings.build_args.get(KEEP_GIT_DIR))
                self._remote = await intake.fetch(url, self._options.file, self._scratch, keep_git_dir=keep)
        return self._remote

    async def _uploaded(self, path: str) -> intake.Context:
        async with self._progress.doing("[internal] load remote build context", path) as line:
            status = TransferStatus(line, "transferring context:")

            async def chunks() -> AsyncIterator[bytes]:
                async for chunk in self._session.upload(path):
                    await status.add(len(chunk))
                    yield chunk

            found = await intake.receive(chunks(), self._options.file, self._scratch)
            status.done()
            return found


def context_paths(dockerfile: Dockerfile, needed: Sequence[int]) -> list[str]:
    """Paths of the context that the stages read; empty when that is all of it, or cannot be told beforehand."""
    found: set[str] = set()
    for index in needed:
        for instruction in dockerfile.stages[index].instructions:
            if instruction.keyword == "ONBUILD":
                continue
            for path in _sources(instruction):
                clean = posixpath.normpath("/" + path).lstrip("/")
                if not clean or "$" in path:
                    return []
                found.add(clean)
    return sorted(found)


def _sources(instruction: object) -> list[str]:
    if isinstance(instruction, Copy) and not instruction.origin:
        return [item for item in instruction.sources if item not in instruction.heredocs and not is_url(item)]
    if isinstance(instruction, Run):
        found = []
        for mount in instruction.mounts:
            options = dict(part.partition("=")[::2] for part in mount.split(","))
            if options.get("type", "bind") == "bind" and not options.get("from"):
                found.append(options.get("source") or options.get("src") or ".")
        return found
    return []
