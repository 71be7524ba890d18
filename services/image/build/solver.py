"""A whole build: the stages that the target needs, side by side, and the name of what comes out.

Source: Dockerfile reference; docker build; texts of the classic builder.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from services.image.build.cache.lookup import CacheProbe
from services.image.build.dockerfile.errors import SyntaxProblem
from services.image.build.dockerfile.expand import expand_word
from services.image.build.dockerfile.instructions import Instruction
from services.image.build.dockerfile.stages import Dockerfile, Stage, parse_trigger, stage_references
from services.image.build.output import RED, RESET, short_id
from services.image.build.ports import BuiltImage
from services.image.build.report import BuildReport, StageReport
from services.image.build.state import StageState
from services.image.build.steps.arguments import GlobalArguments, StageArguments
from services.image.build.steps.platforms import check_platform, platform_arguments
from services.image.build.steps.stage import StageBuilder
from services.image.build.workshop import Origin, Workshop
from shared.contracts.docker import ContainerConfig
from shared.errors import DavitError, InvalidArgument, NotFound, Unsupported

SCRATCH = "scratch"


class StageFailed(Exception):
    """What ended the build, and which stage and instruction it was."""

    def __init__(self, stage: int, cause: DavitError, instruction: Instruction | None = None) -> None:
        super().__init__(str(cause))
        self.stage = stage
        self.cause = cause
        self.instruction = instruction


@dataclass(frozen=True, slots=True)
class Base:
    """What a FROM starts from: an earlier stage, or an image by name."""

    name: str
    stage: int | None
    platform: str


class Solver:
    """Builds one Dockerfile. Use once.

    Args:
        dockerfile: Down to the target stage, with the request's labels.
    """

    def __init__(self, dockerfile: Dockerfile, shop: Workshop, out: BuildReport) -> None:
        self._file = dockerfile
        self._shop = shop
        self._out = out
        self._arguments = GlobalArguments(shop.request.build_args, platform_arguments(shop.request.platform))
        self._bases: dict[int, Base] = {}
        self._first_step: dict[int, int] = {}
        self._total = 0
        self._outputs: Mapping[int, StageReport] = {}
        self._current: dict[int, Instruction] = {}
        self._results: dict[int, asyncio.Future[BuiltImage]] = {}
        self._cache_sources: list[BuiltImage] = []
        self._pulls: dict[tuple[str, str], asyncio.Task[BuiltImage]] = {}

    async def build(self) -> BuiltImage:
        """Build the last stage and what it needs.

        Raises:
            StageFailed: With the first error, in the order in which stages failed.
            DavitError: Before any stage began.
        """
        if self._file.warnings:
            await self._out.warn(f"{RED}{chr(10).join(self._file.warnings)}\n{RESET}")
        await self._global_arguments()
        needed = self._needed()
        self._number_steps(needed)
        self._outputs = await self._out.plan(self._file, needed)
        await self._find_cache_sources()
        image = await self._build_stages(needed)
        unused = self._arguments.unused()
        if unused:
            await self._out.warn(f"[Warning] One or more build-args [{' '.join(unused)}] were not consumed\n")
        if not image.id:
            raise InvalidArgument("No image was generated. Is your Dockerfile empty?")
        return image

    async def _global_arguments(self) -> None:
        shown: list[Instruction] = []
        for instruction in self._file.arguments:
            for name, default in instruction.arguments:
                self._arguments.declare(name, None if default is None else self._expand(default))
            shown.append(instruction)
        self._total = len(shown)
        # Steps can only be counted once it is known which stages are needed, and that depends on these arguments.
        needed = self._needed()
        self._total += sum(1 + len(self._file.stages[index].instructions) for index in needed)
        for number, argument in enumerate(shown, 1):
            await self._out.global_argument(number, self._total, argument)

    def _expand(self, text: str) -> str:
        try:
            return expand_word(text, self._arguments.visible(), escape=self._file.escape)
        except SyntaxProblem as error:
            raise InvalidArgument(str(error)) from error

    def _base(self, stage: Stage) -> Base:
        found = self._bases.get(stage.index)
        if found is None:
            name = self._expand(stage.start.base)
            platform = self._expand(stage.start.platform) or self._shop.request.platform
            earlier = next((item.index for item in self._file.stages[: stage.index] if item.name == name.lower()), None)
            found = self._bases[stage.index] = Base(name, earlier if name else None, platform)
        return found

    def _needed(self) -> list[int]:
        """The stages that lead to the last one, in the order of the file."""
        needed: set[int] = set()
        waiting = [len(self._file.stages) - 1]
        while waiting:
            index = waiting.pop()
            if index in needed:
                continue
            needed.add(index)
            stage = self._file.stages[index]
            waiting.extend(stage_references(stage, self._file, given=self._shop.contexts.has))
            try:
                found = self._base(stage)
                base = None if self._shop.contexts.has(found.name) else found.stage
            except InvalidArgument:
                continue  # said again, at its place, when the stage begins
            if base is not None:
                waiting.append(base)
        return sorted(needed)

    def _number_steps(self, needed: list[int]) -> None:
        number = len(self._file.arguments) + 1
        for index in needed:
            self._first_step[index] = number
            number += 1 + len(self._file.stages[index].instructions)

    async def _find_cache_sources(self) -> None:
        for name in self._shop.request.cache_from:
            try:
                self._cache_sources.append(await self._image(name, self._shop.request.platform))
            except DavitError as error:  # a cache that is not there makes a build slower, not wrong
                await self._out.warn(f"[Warning] cache source {name} cannot be used: {error}\n")

    async def _build_stages(self, needed: list[int]) -> BuiltImage:
        loop = asyncio.get_running_loop()
        self._results = {index: loop.create_future() for index in needed}
        try:
            async with asyncio.TaskGroup() as group:
                for index in needed:
                    group.create_task(self._stage_task(index), name=f"build stage {index}")
        except BaseExceptionGroup as failures:
            raise _first_failure(failures) from failures
        finally:
            for task in self._pulls.values():
                task.cancel()
            await asyncio.gather(*self._pulls.values(), return_exceptions=True)
        return self._results[needed[-1]].result()

    async def _stage_task(self, index: int) -> None:
        try:
            self._results[index].set_result(await self._stage(self._file.stages[index]))
        except DavitError as error:
            raise StageFailed(index, error, self._current.get(index)) from error
        await self._outputs[index].finish()

    async def _stage(self, stage: Stage) -> BuiltImage:
        out = self._outputs[stage.index]
        number = self._first_step[stage.index]
        self._current[stage.index] = stage.start
        await out.step(number, self._total, stage.start, self._arguments.visible)
        base = await self._start_image(stage, out)
        arguments = StageArguments(self._arguments)
        state = StageState.from_base(base, arguments, self._file.escape)
        enabled = not self._shop.request.no_cache and stage.name not in self._shop.uncached
        only = bool(self._shop.request.cache_from)
        probe = CacheProbe(self._shop.images, self._cache_sources, enabled=enabled, only_sources=only)
        builder = StageBuilder(self._shop, state, probe, out, lambda name: self._origin(name, stage))
        triggers = base.config.on_build or []
        await self._triggers(triggers, builder, out)
        if not triggers:
            await out.result(base.id)
        for offset, instruction in enumerate(stage.instructions, 1):
            self._current[stage.index] = instruction
            await out.step(number + offset, self._total, instruction, state.variables)
            await builder.carry_out(instruction)
        image = await builder.image()
        if image.id:
            await self._shop.images.flush()  # a client that has heard of it may hang up and come again
            await out.image(image.id)
        return image

    async def _triggers(self, triggers: list[str], builder: StageBuilder, out: StageReport) -> None:
        if not triggers:
            return
        await out.triggers(len(triggers))
        instructions: list[Instruction] = [parse_trigger(text, escape="\\") for text in triggers]
        for instruction in instructions:
            await builder.carry_out(instruction, trigger=True)

    async def _start_image(self, stage: Stage, out: StageReport) -> BuiltImage:
        base = self._base(stage)
        if not base.name:
            raise InvalidArgument(f"base name ({stage.start.base}) should not be blank", line=stage.start.line)
        try:
            check_platform(base.platform)  # also where it changes nothing: a wrong one is an error
        except InvalidArgument as error:
            raise InvalidArgument(f"failed to parse platform {base.platform}: {error}", **error.detail) from error
        if base.name == SCRATCH:
            return _scratch(base.platform)
        named = await self._shop.contexts.find(base.name, base.platform)
        if isinstance(named, BuiltImage):
            return named
        if named is not None:
            raise Unsupported(f"FROM {base.name}: a directory cannot be the base of a stage", field="context")
        if base.stage is not None:
            return await self._result_of(base.stage)
        return await self._image(base.name, base.platform, progress=out)

    async def _result_of(self, index: int) -> BuiltImage:
        # Shielded: a stage that gives up must not take away the result that others wait for.
        return await asyncio.shield(self._results[index])

    async def _origin(self, name: str, stage: Stage) -> Origin:
        """What ``--from`` means in a stage: a named context, an earlier stage by name or number, or an image."""
        named = await self._shop.contexts.find(name, self._shop.request.platform)
        if named is not None:
            return self._shop.origin(named) if isinstance(named, BuiltImage) else Origin(named, "", from_context=False)
        return self._shop.origin(await self._image_origin(name, stage))

    async def _image_origin(self, name: str, stage: Stage) -> BuiltImage:
        index = self._file.stage_index(name, before=stage.index)
        if index is not None:
            if index not in self._results:
                raise InvalidArgument(f"invalid from flag value {name}: only an ONBUILD trigger refers to that stage")
            return await self._result_of(index)
        if name.isdecimal():
            raise InvalidArgument(f"invalid from flag value {name}: index out of bounds")
        if name.lower() == stage.name:
            raise InvalidArgument(f"invalid from flag value {name}: refers to current build stage")
        if name == SCRATCH:
            return _scratch("")
        try:
            return await self._image(name, self._shop.request.platform)
        except DavitError as error:
            raise type(error)(f"invalid from flag value {name}: {error}", **error.detail) from error

    async def _image(self, name: str, platform: str, *, progress: StageReport | None = None) -> BuiltImage:
        """An image, pulled when it is not there or when the request wants the newest; each at most once a build."""
        here: NotFound | None = None
        if not self._shop.request.pull:
            try:
                return await self._shop.images.get(name, platform=platform)
            except NotFound as error:
                here = error
        key = (name, platform)
        task = self._pulls.get(key)
        if task is None:
            task = self._pulls[key] = asyncio.create_task(self._pull(name, platform, progress))
        try:
            return await asyncio.shield(task)
        except DavitError as error:
            if here is None or "platform" not in here.detail:
                raise
            raise type(error)(f"{here}: {error}", **error.detail) from error

    async def _pull(self, name: str, platform: str, progress: StageReport | None) -> BuiltImage:
        async def tell(line: Mapping[str, object]) -> None:
            if progress is not None:
                await progress.pulling(line)

        auths = await self._shop.credentials(name)
        return await self._shop.images.pull(name, platform=platform, auths=auths, progress=tell)


def _scratch(platform: str) -> BuiltImage:
    os_name, architecture, variant = check_platform(platform)
    return BuiltImage("", ContainerConfig(), os=os_name, architecture=architecture, variant=variant)


def _first_failure(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure of the earliest stage; a defect or a cancellation goes before all of them."""
    found: list[BaseException] = []
    waiting: list[BaseException] = [group]
    while waiting:
        error = waiting.pop()
        if isinstance(error, BaseExceptionGroup):
            waiting.extend(error.exceptions)
        else:
            found.append(error)
    failures = [error for error in found if isinstance(error, StageFailed)]
    others = [error for error in found if not isinstance(error, StageFailed)]
    return others[0] if others else min(failures, key=lambda error: error.stage)


def success_lines(image: BuiltImage, names: list[str]) -> list[str]:
    return [f"Successfully built {short_id(image.id)}\n", *(f"Successfully tagged {name}\n" for name in names)]
