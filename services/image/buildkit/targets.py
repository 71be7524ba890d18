"""One result of one build: a Dockerfile's target for one platform, made when somebody needs it, once."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from services.image.build.context.tree import Tree
from services.image.build.dockerfile.errors import DockerfileError
from services.image.build.dockerfile.stages import Dockerfile, parse_dockerfile
from services.image.build.ports import BuiltImage, ImageStore
from services.image.build.solver import Solver, StageFailed
from services.image.build.steps.platforms import check_platform
from services.image.build.style import BUILDKIT
from services.image.build.workdirs import Scratch
from services.image.build.workshop import Workshop
from services.image.buildkit.definitions import result_of
from services.image.buildkit.failures import BuildFailed, failed
from services.image.buildkit.kitchen import Kitchen
from services.image.buildkit.loading import Files, Source, context_paths
from services.image.buildkit.options import Options
from services.image.buildkit.progress import Progress
from services.image.buildkit.report import StageVertices, Vertices
from services.image.buildkit.sessions import Session
from services.image.buildkit.wire import ops_pb2
from shared.contracts.images import BuildSettings, RegistryAuth
from shared.docker.references import parse
from shared.errors import DavitError, InvalidArgument, NotFound, Unsupported


@dataclass(frozen=True, slots=True)
class Place:
    """What a build has while it goes on: a directory, secrets, a store of images, its client."""

    kitchen: Kitchen
    session: Session
    progress: Progress
    images: ImageStore
    scratch: Scratch
    secrets_dir: Scratch
    stack: AsyncExitStack
    privileged: bool = False
    host_network: bool = False


@dataclass(slots=True)
class Target:
    """Args: inputs: results that named contexts refer to."""

    place: Place
    options: Options
    files: Files
    source: Source
    dockerfile: Dockerfile
    platform: str
    inputs: Mapping[str, ops_pb2.Definition] = field(default_factory=dict)
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    _work: asyncio.Task[BuiltImage] | None = None

    async def image(self) -> BuiltImage:
        """Build it, or wait for that. Raises BuildFailed."""
        if self._work is None:
            self._work = asyncio.create_task(self._build(), name=f"target {self.id}")
        return await asyncio.shield(self._work)

    async def close(self) -> None:
        """End the work, if it goes on still."""
        if self._work is not None and not self._work.done():
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)

    async def _build(self) -> BuiltImage:
        several = len(self.options.platforms) > 1
        report = _Report(self.place.progress, self.id, platform=self.platform if several else "", resolve=_full_name)
        shop = self._workshop()
        try:
            image = await Solver(self.dockerfile, shop, report).build()
            await shop.images.flush()
            return image
        except StageFailed as failure:
            text = failed(failure.cause, self.source, failure.instruction, "")
            vertex = report.fail(failure.stage, str(text))
            raise failed(failure.cause, self.source, failure.instruction, vertex) from failure
        except DavitError as error:
            raise failed(error, self.source, None, "") from error
        finally:
            report.end()
            await shop.remove_containers()

    def _workshop(self) -> Workshop:
        place, kitchen = self.place, self.place.kitchen
        needed = range(len(self.dockerfile.stages))
        paths = context_paths(self.dockerfile, needed)

        async def context(whole: bool) -> Tree:
            return await self.files.main([] if whole else paths)

        return Workshop(
            self.options.settings.model_copy(update={"platform": self.platform}),
            place.images,
            kitchen.executor,
            context,
            place.scratch,
            place.secrets_dir,
            kitchen.directories.caches,
            kitchen.digests,
            secrets=_SessionSecrets(place.session),
            agents=place.session,
            contexts=Named(self),
            auths=credentials_of(place.session),
            style=BUILDKIT,
            uncached=frozenset(name.lower() for name in self.options.no_cache_stages),
            privileged=place.privileged,
            host_network=place.host_network,
            flights=kitchen.flights,
        )


class _Report(Vertices):
    """Remembers each stage's report, for the one that fails."""

    _stages: Mapping[int, StageVertices] = {}

    async def plan(self, dockerfile: Dockerfile, needed: object) -> Mapping[int, StageVertices]:
        self._stages = await super().plan(dockerfile, needed)  # type: ignore[arg-type]
        return self._stages

    def fail(self, stage: int, error: str) -> str:
        report = self._stages.get(stage)
        return report.fail(error) if report is not None else ""

    def end(self) -> None:
        """Whatever goes on still was cancelled."""
        for stage in self._stages.values():
            stage.fail("context canceled")


@dataclass(frozen=True, slots=True)
class _SessionSecrets:
    session: Session

    async def find(self, identifier: str) -> bytes | None:
        return await self.session.secret(identifier)


def credentials_of(session: Session) -> Callable[[str], Awaitable[Mapping[str, RegistryAuth]]]:
    """Asks the client for credentials when an image is fetched."""

    async def find(name: str) -> Mapping[str, RegistryAuth]:
        domain = parse(name).domain
        host = "registry-1.docker.io" if domain == "docker.io" else domain
        found = await session.credentials(host)
        return {} if found is None else {domain: found}

    return find


def _full_name(name: str) -> str:
    try:
        return str(parse(name).with_default_tag()) if name and name != "scratch" else name
    except DavitError:
        return name


class Named:
    """The contexts that a client gave names; see `NamedContexts`."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._found: dict[tuple[str, str], BuiltImage | Tree] = {}

    def has(self, name: str) -> bool:
        return self._value(name, self._target.platform) is not None

    def _value(self, name: str, platform: str) -> str | None:
        contexts = self._target.options.contexts
        if not contexts:
            return None
        wanted = "/".join(part for part in check_platform(platform) if part)
        for key in (f"{name}::{wanted}", name, f"{_short(name)}::{wanted}", _short(name)):
            if key in contexts:
                return contexts[key]
        return None

    async def find(self, name: str, platform: str) -> BuiltImage | Tree | None:
        value = self._value(name, platform)
        if value is None:
            return None
        key = (value, platform)
        if key not in self._found:
            self._found[key] = await self._load(name, value, platform)
        return self._found[key]

    async def _load(self, name: str, value: str, platform: str) -> BuiltImage | Tree:
        target = self._target
        scheme, _, rest = value.partition(":")
        if scheme == "docker-image":
            return await self._image(name, rest.removeprefix("//"), platform)
        if scheme == "local":
            return await target.files.local(name, rest)
        if scheme == "input":
            definition = target.inputs.get(rest)
            if definition is None:
                raise InvalidArgument(
                    f"the input {rest} of the named context {name} is missing", field="FrontendInputs"
                )
            other = target.place.kitchen.results.get(result_of(definition))
            if other is target:
                raise InvalidArgument(f"the named context {name} is what is being built", field="context")
            return await target.place.images.get((await other.image()).id)
        if scheme == "oci-layout":
            raise Unsupported(f"named context {name}: oci-layout is not supported by this engine", field="context")
        return await target.files.remote(name, value)

    async def _image(self, name: str, reference: str, platform: str) -> BuiltImage:
        place, settings = self._target.place, self._target.options.settings
        async with place.progress.doing(f"[context {name}] load metadata for {reference}", platform) as line:
            if not settings.pull:
                try:
                    return await place.images.get(reference, platform=platform)
                except NotFound:
                    pass

            async def tell(record: Mapping[str, object]) -> None:
                if record.get("id"):
                    line.status(str(record["id"]))

            auths = await credentials_of(place.session)(reference)
            return await place.images.pull(reference, platform=platform, auths=auths, progress=tell)


def _short(name: str) -> str:
    """A name of an image as clients write it in a named context."""
    try:
        return parse(name).with_default_tag().familiar.removesuffix(":latest")
    except DavitError:
        return name


def read_dockerfile(source: Source, settings: BuildSettings) -> Dockerfile:
    """The Dockerfile down to the target. Raises BuildFailed with the line."""
    try:
        whole = parse_dockerfile(source.text, name=source.name)
        return whole.until(settings.target).with_labels(settings.labels)
    except DockerfileError as error:
        if settings.target and "failed to reach build target" in str(error):
            error = DockerfileError(f'target stage "{settings.target}" could not be found')
        raise _parse_error(error, source) from error


def _parse_error(error: DockerfileError, source: Source) -> BuildFailed:
    line = error.detail.get("line")
    where = f"dockerfile parse error on line {line}: " if line else ""
    found = failed(error, source, None, "")
    text = re_line(str(found))
    return BuildFailed(where + text, error, found.details)


def re_line(text: str) -> str:
    """Docker's classic texts name the line in front, BuildKit's in words of its own."""
    prefix, _, rest = text.partition("dockerfile parse error line ")
    if prefix or not rest:
        return text
    return rest.partition(": ")[2] or text
