"""The builds that go on in this process, from the client's first word about one to its last.

::

    Status(ref) ──────────────────────────────────► follows the progress, from the beginning to the end
    Solve(ref) ─► Build ─► frontend ─► targets ─► export ─► answer; everything of the build is gone
                   ▲  without a frontend, the client leads: LLBBridge Ping, Solve, …, Return

A client that goes away ends its build: the call is cancelled, and with it all that the build was doing.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from services.image.build.dockerfile.instructions import Instruction
from services.image.build.dockerfile.stages import Dockerfile
from services.image.build.steps.platforms import check_platform
from services.image.buildkit.checks import Finding, findings, parse_policy
from services.image.buildkit.failures import failed
from services.image.buildkit.kitchen import Kitchen
from services.image.buildkit.loading import Files, Source
from services.image.buildkit.options import Options, check_syntax
from services.image.buildkit.progress import Progress
from services.image.buildkit.sessions import Session
from services.image.buildkit.targets import Place, Target, read_dockerfile
from services.image.buildkit.wire import control_pb2, gateway_pb2, ops_pb2
from shared.errors import Conflict, InvalidArgument, NotFound

APPEARS_WITHIN_S = 15.0
REMEMBERED = 64
PRIVILEGED, HOST_NETWORK = "security.insecure", "network.host"


@dataclass(slots=True)
class Build:
    """One build. `returned` is what a client that leads it says at the end.

    Attributes:
        kinds: What was asked for, for the history.
    """

    ref: str
    request: control_pb2.SolveRequest
    kitchen: Kitchen
    progress: Progress
    returned: asyncio.Future[gateway_pb2.ReturnRequest]
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    created_ns: int = field(default_factory=time.time_ns)
    targets: list[Target] = field(default_factory=list)
    options: Options | None = None
    _place: Place | None = None
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def place(self) -> Place:
        """What the build needs to do anything; made with the first thing that it does."""
        async with self._opening:
            if self._place is None:
                self._place = await self._open()
            return self._place

    async def _open(self) -> Place:
        kitchen, stack = self.kitchen, self.stack
        session = await self.session()
        scratch = stack.enter_context(kitchen.directories.scratch())
        secrets_dir = stack.enter_context(kitchen.directories.secrets())
        images = await stack.enter_async_context(kitchen.images.session())
        allowed = set(self.request.Entitlements)
        return Place(
            kitchen,
            session,
            self.progress,
            images,
            scratch,
            secrets_dir,
            stack,
            privileged=PRIVILEGED in allowed,
            host_network=HOST_NETWORK in allowed,
        )

    async def session(self) -> Session:
        return await self.kitchen.sessions.get(self.request.Session)

    async def solve(self, options: Options, inputs: Mapping[str, ops_pb2.Definition]) -> dict[str, Target]:
        """The results that options ask for, by platform; nothing is built yet.

        Raises:
            DavitError: The Dockerfile cannot be read, or is wrong.
        """
        self.options = self.options or options
        place = await self.place()
        files = self._files(options, place)
        source = await files.dockerfile()
        dockerfile = read_dockerfile(source, options.settings)
        check_syntax(options.syntax or dockerfile.directives.get("syntax", ""))
        self._tell_findings(options, files, source, dockerfile)
        found: dict[str, Target] = {}
        for platform in options.platforms or ("",):
            target = Target(place, options, files, source, dockerfile, platform, inputs)
            self.targets.append(target)
            self.kitchen.results.add(target)
            found["/".join(part for part in check_platform(platform) if part)] = target
        return found

    def _tell_findings(self, options: Options, files: Files, source: Source, dockerfile: Dockerfile) -> None:
        """What checks find are warnings, or, if the Dockerfile says so, the end of the build."""
        policy = parse_policy(options.check or dockerfile.directives.get("check", ""))
        found = findings(dockerfile, policy)
        for item in found:
            self.progress.warn(warning_of(item, source, files.definition))
        if found and policy.error:
            rules = ", ".join(dict.fromkeys(item.rule for item in found))
            cause = InvalidArgument(f"lint violation found for rules: {rules}", field="check")
            place = Instruction(line=found[0].first, end_line=found[0].last)
            raise failed(cause, source, place, files.definition)

    async def source(self, options: Options) -> Source:
        """The Dockerfile alone, for questions about it."""
        place = await self.place()
        return await self._files(options, place).dockerfile()

    def _files(self, options: Options, place: Place) -> Files:
        kitchen = self.kitchen
        return Files(
            options, place.session, kitchen.sessions, kitchen.contexts, self.progress, place.scratch, place.stack
        )

    async def close(self) -> None:
        """End what goes on still, and remove what the build had."""
        try:
            for target in self.targets:
                await target.close()
        finally:
            await self.stack.aclose()


class Builds:
    """The builds of this process, by the names that clients gave them."""

    def __init__(self, kitchen: Kitchen) -> None:
        self.kitchen = kitchen
        self._builds: dict[str, Build] = {}
        self._progress: OrderedDict[str, Progress] = OrderedDict()
        self._changed = asyncio.Condition()

    @property
    def active(self) -> Sequence[Build]:
        return list(self._builds.values())

    def progress(self, ref: str) -> Progress:
        """What a build shows, also before its client has asked for the build, and for a while after its end."""
        found = self._progress.get(ref)
        if found is None:
            found = self._progress[ref] = Progress()
            ended = [name for name, progress in self._progress.items() if progress.ended]
            for name in ended[: max(0, len(self._progress) - REMEMBERED)]:
                del self._progress[name]
        return found

    def known(self, ref: str) -> bool:
        return ref in self._progress

    @asynccontextmanager
    async def begin(self, request: control_pb2.SolveRequest) -> AsyncIterator[Build]:
        """A build for the time of the block; everything of it is gone afterwards.

        Raises:
            Conflict: There is one of that name.
        """
        ref = request.Ref or secrets.token_hex(12)
        if ref in self._builds:
            raise Conflict(f"job ID exists: {ref}")
        progress = self.progress(ref)
        if progress.ended:
            progress = self._progress[ref] = Progress()
        build = Build(ref, request, self.kitchen, progress, asyncio.get_running_loop().create_future())
        async with self._changed:
            self._builds[ref] = build
            self._changed.notify_all()
        try:
            yield build
        finally:
            closing = asyncio.ensure_future(build.close())
            try:
                await asyncio.shield(closing)
            except asyncio.CancelledError:
                await asyncio.gather(closing, return_exceptions=True)
                raise
            finally:
                del self._builds[ref]
                build.returned.cancel()
                progress.end()

    async def close(self) -> None:
        """End all builds."""
        for build in self.active:
            await build.close()

    async def get(self, ref: str) -> Build:
        """A build that goes on, or is about to begin. Raises NotFound."""
        try:
            async with asyncio.timeout(APPEARS_WITHIN_S), self._changed:
                await self._changed.wait_for(lambda: ref in self._builds)
                return self._builds[ref]
        except TimeoutError:
            raise NotFound(f"no such job {ref}") from None


async def evaluate(targets: Sequence[Target]) -> None:
    """Build all of them, side by side. Raises the first error."""
    if not targets:
        return
    works = [asyncio.create_task(_made(target), name="evaluate") for target in targets]
    try:
        done, _ = await asyncio.wait(works, return_when=asyncio.FIRST_EXCEPTION)
        for work in done:
            work.result()
    finally:
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)


async def _made(target: Target) -> None:
    await target.image()


def warning_of(item: Finding, source: Source, vertex: str) -> control_pb2.VertexWarning:
    """A finding as clients show it."""
    text = source.text.encode("utf-8", "surrogateescape")
    warning = control_pb2.VertexWarning(
        vertex=vertex,
        level=1,
        short=f"{item.rule}: {item.detail} (line {item.first})".encode(),
        detail=[item.description.encode()],
        url=item.url,
        info=ops_pb2.SourceInfo(filename=source.name, data=text, language="Dockerfile"),
    )
    for number in range(item.first, item.last + 1):
        warning.ranges.add(start=ops_pb2.Position(line=number), end=ops_pb2.Position(line=number))
    return warning
