"""One build from its request to its last line, and what must be true afterwards whatever happened.

::

    accept stream ─► context ─► Dockerfile ─► (an error until here is the request's answer)
        ─► stages ─► tags ─► "Successfully built"          client gone: everything is undone
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

from services.image.build import intake
from services.image.build.context.directories import KnownDigests
from services.image.build.dockerfile.stages import Dockerfile, parse_dockerfile
from services.image.build.output import BuildOutput, StageOutput
from services.image.build.ports import BuiltImage, Executor, ImageStores
from services.image.build.solver import Solver, StageFailed, success_lines
from services.image.build.steps.arguments import KEEP_GIT_DIR, is_true
from services.image.build.steps.platforms import check_platform
from services.image.build.steps.stage import CommandFailed
from services.image.build.workdirs import Scratch, WorkDirectories
from services.image.build.workshop import GivenSecrets, Workshop, given_context
from shared.bus.handover import Receiver
from shared.bus.streams import ByteStream, StreamBroken, StreamCancelled
from shared.contracts.images import BuildImage
from shared.errors import DavitError, InvalidArgument, Unsupported

log = logging.getLogger(__name__)

ISOLATIONS = ("", "default")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a build's context comes from: what the request names, else the pipe, else the stream."""

    request: BuildImage
    stream: ByteStream
    pipe: Receiver | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        """The context as it arrives. Raises DavitError when it ends before it is whole."""
        if self.pipe is not None:
            async for chunk in self.pipe:
                yield chunk
                await asyncio.sleep(0)  # a pipe may be full for long, and others are served meanwhile
        # The end of the stream says that nothing is missing in the pipe either.
        while chunk := await self.stream.read():
            yield chunk

    async def skip(self) -> None:
        """Take in what nobody needs: clients that are told while they still send complain about the sending."""
        if not self.request.remote:
            async for _ in self.chunks():
                pass

    def close(self) -> None:
        if self.pipe is not None:
            self.pipe.close()


@dataclass(frozen=True, slots=True)
class Builder:
    """Everything that builds need of this service."""

    images: ImageStores
    executor: Executor
    directories: WorkDirectories
    digests: KnownDigests = field(default_factory=KnownDigests)

    async def serve(self, source: Source) -> None:
        """Carry out a request; its lines leave on the stream.

        A client that goes away ends the build: containers are removed, scratch space too. Steps that were finished
        stay as cache.
        """
        with closing(source):
            await self._converse(source)

    async def _converse(self, source: Source) -> None:
        async with source.stream as stream:
            work = asyncio.create_task(self._build(source), name="build")
            gone = asyncio.create_task(stream.gone(), name="build client")
            try:
                await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not work.done():
                    log.info("build cancelled: its client is gone")
            finally:
                gone.cancel()
                work.cancel()
                outcome = (await asyncio.gather(work, gone, return_exceptions=True))[0]
            if isinstance(outcome, DavitError) and not isinstance(outcome, StreamBroken | StreamCancelled):
                raise outcome
            if isinstance(outcome, Exception) and not isinstance(outcome, DavitError):
                raise outcome

    async def _build(self, source: Source) -> None:
        request = source.request
        out = BuildOutput(source.stream.write, quiet=request.quiet)
        try:
            try:
                check_request(request)
                names = [self.images.familiar_name(name) for name in request.tags]
                secrets = decode_secrets(request.secrets)
            except DavitError:
                await source.skip()
                raise
            image = await self._make(source, out, names, secrets)
            if image is not None:
                await finish(out, request, image, names)
            await out.flush()
        finally:
            await out.close()

    async def _make(
        self, source: Source, out: BuildOutput, names: list[str], secrets: dict[str, bytes]
    ) -> BuiltImage | None:
        with ExitStack() as stack:
            scratch = stack.enter_context(self.directories.scratch())
            secrets_dir = stack.enter_context(self.directories.secrets())
            try:
                context, dockerfile = await prepare(source, scratch)
            except DavitError:
                await source.skip()
                raise
            async with self.images.session() as images:
                shop = Workshop(
                    source.request,
                    images,
                    self.executor,
                    given_context(context.tree),
                    scratch,
                    secrets_dir,
                    self.directories.caches,
                    self.digests,
                    GivenSecrets(secrets),
                )
                return await self._solve(Solver(dockerfile, shop, out), shop, out, names)

    async def _solve(self, solver: Solver, shop: Workshop, out: BuildOutput, names: list[str]) -> BuiltImage | None:
        """The named result; None when the client has been told why there is none."""
        image: BuiltImage | None = None
        failed: tuple[DavitError, StageOutput | None] | None = None
        try:
            image = await solver.build()
            await _unhurried(_publish(shop, image.id, names))
        except StageFailed as failure:
            failed = failure.cause, out.of_stage(failure.stage)
        except DavitError as error:
            if not out.started:
                raise
            failed = error, None
        finally:
            await shop.remove_containers()  # before the client hears of the end, and looks
        if failed is not None:
            await fail(out, *failed)
            return None
        return image


async def _publish(shop: Workshop, image_id: str, names: list[str]) -> None:
    await shop.images.flush()
    await shop.images.announce(image_id, names)


async def _unhurried(work: Coroutine[Any, Any, None]) -> None:
    """Finish what has been begun, also for a client that goes away meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


def check_request(request: BuildImage) -> None:
    """Raises InvalidArgument or Unsupported, naming the field."""
    if request.squash:
        raise Unsupported("squash is only supported with experimental mode", field="squash")
    if request.isolation not in ISOLATIONS:
        raise InvalidArgument(f'Unsupported isolation: "{request.isolation}"', field="isolation")
    check_platform(request.platform)


def decode_secrets(encoded: Mapping[str, str]) -> dict[str, bytes]:
    """Raises InvalidArgument for a value that is not base64; the text never has the value."""
    try:
        return {name: base64.b64decode(value, validate=True) for name, value in encoded.items()}
    except (binascii.Error, ValueError):
        raise InvalidArgument("a build secret is not base64", field="secrets") from None


async def prepare(source: Source, scratch: Scratch) -> tuple[intake.Context, Dockerfile]:
    """The context and the Dockerfile down to the target. Raises DavitError."""
    request = source.request
    if request.remote:
        keep_git_dir = is_true(request.build_args.get(KEEP_GIT_DIR))
        context = await intake.fetch(request.remote, request.dockerfile, scratch, keep_git_dir=keep_git_dir)
    else:
        context = await intake.receive(source.chunks(), request.dockerfile, scratch)
    dockerfile = parse_dockerfile(context.dockerfile, name=request.dockerfile)
    return context, dockerfile.until(request.target).with_labels(request.labels)


async def fail(out: BuildOutput, error: DavitError, stage: StageOutput | None) -> None:
    code = error.exit_code if isinstance(error, CommandFailed) else None
    await out.fail(str(error), code, stage)


async def finish(out: BuildOutput, request: BuildImage, image: BuiltImage, names: list[str]) -> None:
    if request.quiet:
        await out.loud({"stream": f"{image.id}\n"})
        return
    for line in success_lines(image, names):
        await out.text(line)
