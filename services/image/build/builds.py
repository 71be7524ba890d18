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
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import BinaryIO

from services.image.build import intake
from services.image.build.arguments import KEEP_GIT_DIR, is_true
from services.image.build.dockerfile.stages import Dockerfile, parse_dockerfile
from services.image.build.output import BuildOutput, StageOutput
from services.image.build.platforms import check_platform
from services.image.build.ports import BuiltImage, Executor, ImageStores
from services.image.build.solver import Solver, StageFailed, success_lines
from services.image.build.steps import CommandFailed, Workshop
from services.image.build.workdirs import Scratch, WorkDirectories
from shared.cancellation import to_the_end
from shared.contracts.images import BuildImage
from shared.errors import DavitError, InvalidArgument, Unsupported
from shared.streams import ByteStream, StreamBroken, StreamCancelled

log = logging.getLogger(__name__)

ISOLATIONS = ("", "default")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a build's context comes from: what the request names, else the file, else the stream."""

    request: BuildImage
    stream: ByteStream
    file: BinaryIO | None = None


@dataclass(frozen=True, slots=True)
class Builder:
    """Everything that builds need of this service."""

    images: ImageStores
    executor: Executor
    directories: WorkDirectories

    async def serve(self, request: BuildImage, stream: ByteStream, context: BinaryIO | None = None) -> None:
        """Carry out a request whose context comes in a file, else on the stream, and whose lines leave on it.

        A client that goes away ends the build: containers are removed, scratch space too. Steps that were finished
        stay as cache.
        """
        try:
            await self._converse(request, stream, context)
        finally:
            if context is not None:
                # Letting go of a large file takes a while, and nobody waits for it any more.
                await asyncio.shield(asyncio.to_thread(context.close))

    async def _converse(self, request: BuildImage, stream: ByteStream, context: BinaryIO | None) -> None:
        async with stream:
            work = asyncio.create_task(self._build(request, stream, context), name="build")
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

    async def _build(self, request: BuildImage, stream: ByteStream, context: BinaryIO | None) -> None:
        check_request(request)
        names = [self.images.familiar_name(name) for name in request.tags]
        secrets = decode_secrets(request.secrets)
        out = BuildOutput(stream.write, quiet=request.quiet)
        try:
            source = Source(request, stream, context)
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
            context, dockerfile = await prepare(source, scratch)
            async with self.images.session() as images:
                shop = Workshop(
                    source.request,
                    images,
                    self.executor,
                    context.tree,
                    scratch,
                    secrets_dir,
                    self.directories.caches,
                    secrets,
                )
                return await self._solve(Solver(dockerfile, shop, out), shop, out, names)

    async def _solve(self, solver: Solver, shop: Workshop, out: BuildOutput, names: list[str]) -> BuiltImage | None:
        """The named result; None when the client has been told why there is none."""
        image: BuiltImage | None = None
        failed: tuple[DavitError, StageOutput | None] | None = None
        try:
            image = await solver.build()
            await shop.images.flush()
            for name in names:
                await shop.images.tag(image.id, name)
        except StageFailed as failure:
            failed = failure.cause, solver.output(failure.stage)
        except DavitError as error:
            if not out.started:
                raise
            failed = error, None
        finally:
            await self._remove_containers(shop)  # before the client hears of the end, and looks
        if failed is not None:
            await fail(out, *failed)
            return None
        return image

    async def _remove_containers(self, shop: Workshop) -> None:
        """Wait for removals under way, and remove the containers of a build that ends early; go on past failures."""
        for container_id in shop.containers - shop.removals.keys():
            shop.removals[container_id] = asyncio.create_task(self.executor.remove(container_id))
        outcomes = asyncio.gather(*shop.removals.values(), return_exceptions=True)
        try:
            await to_the_end(outcomes)  # no container may outlive its build
        finally:
            for container_id, outcome in zip(shop.removals, outcomes.result(), strict=True):
                if isinstance(outcome, BaseException):
                    log.warning("container %s of a build could not be removed: %s", container_id, outcome)


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
    elif source.file is not None:
        context = await intake.read(source.file, request.dockerfile, scratch)
    else:
        context = await intake.receive(_chunks(source.stream), request.dockerfile, scratch)
    dockerfile = parse_dockerfile(context.dockerfile, name=request.dockerfile)
    return context, dockerfile.until(request.target).with_labels(request.labels)


async def _chunks(stream: ByteStream) -> AsyncIterator[bytes]:
    while chunk := await stream.read():
        yield chunk


async def fail(out: BuildOutput, error: DavitError, stage: StageOutput | None) -> None:
    code = error.exit_code if isinstance(error, CommandFailed) else None
    await out.fail(str(error), code, stage)


async def finish(out: BuildOutput, request: BuildImage, image: BuiltImage, names: list[str]) -> None:
    if request.quiet:
        await out.loud({"stream": f"{image.id}\n"})
        return
    for line in success_lines(image, names):
        await out.text(line)
