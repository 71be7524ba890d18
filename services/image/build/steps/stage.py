"""One stage: its instructions, one after the other, each turning an image into the next.

::

    instruction ─► command for history, configuration after it, how to make the layer
                    └─► cached? ── yes ─► " ---> Using cache"
                           └────── no ──► layer made, image stored
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial

from services.image.build.cache.lookup import CacheProbe, cache_key
from services.image.build.context.directories import DirectoryTree
from services.image.build.context.remote import is_url
from services.image.build.context.tree import MemoryTree, looked_up, resolve
from services.image.build.dockerfile.errors import SyntaxProblem
from services.image.build.dockerfile.instructions import Copy, Instruction, Run, Text
from services.image.build.ignore import IgnoreRules
from services.image.build.ports import BuiltImage, NewImage, RunOrder
from services.image.build.report import StageReport
from services.image.build.state import StageState
from services.image.build.steps import metadata
from services.image.build.steps.copying import Placement, absolute_destination, check_destination, checksum, place
from services.image.build.steps.layer import LayerPlan, WrittenLayer
from services.image.build.steps.owners import Mode, find_owner
from services.image.build.steps.runs import (
    PreparedRun,
    RunPlace,
    container_config,
    error_command,
    mount_points,
    prepare_run,
    run_order,
)
from services.image.build.steps.sources import Gathering, gather
from services.image.build.style import NO_OPERATION
from services.image.build.workshop import Origin, Workshop
from shared.errors import DavitError, InvalidArgument

FindOrigin = Callable[[str], Awaitable[Origin]]
MakeLayer = Callable[[], Awaitable[WrittenLayer | None]]


class CommandFailed(DavitError):
    """A RUN ended with an exit code other than 0."""

    code = "invalid_argument"

    def __init__(self, command: str, exit_code: int) -> None:
        super().__init__(f"The command '{command}' returned a non-zero code: {exit_code}", exit_code=exit_code)
        self.exit_code = exit_code
        self.command = command


@dataclass(frozen=True, slots=True)
class _Step:
    """What a step does, before it is known whether it has to be done: as history shows it, and as a cache key."""

    command: tuple[str, ...]
    created_by: str
    key: str


class StageBuilder:
    """Carries out the instructions of one stage.

    Args:
        find_origin: From what ``--from`` says to the files that it means, once they are built.
    """

    def __init__(
        self, shop: Workshop, state: StageState, probe: CacheProbe, out: StageReport, find_origin: FindOrigin
    ) -> None:
        self._shop = shop
        self._state = state
        self._probe = probe
        self._out = out
        self._find_origin = find_origin
        self._whole_context = False

    async def image(self) -> BuiltImage:
        """What the last step led to."""
        state = self._state
        if state.image is None:
            state.image = await self._shop.images.get(state.image_id)
        return state.image

    async def carry_out(self, instruction: Instruction, *, trigger: bool = False) -> None:
        """Raises DavitError in Docker's words.

        Args:
            trigger: It came with the base image, so nobody knows beforehand what it reads of the context.
        """
        self._whole_context = trigger
        try:
            if isinstance(instruction, Run):
                await self._run(instruction)
            elif isinstance(instruction, Copy):
                await self._copy(instruction)
            elif instruction.keyword == "WORKDIR":
                await self._workdir(instruction)
            else:
                text = metadata.apply(instruction, self._state)
                await self._step(instruction, (*self._shell(), NO_OPERATION, text), None)
        except SyntaxProblem as error:
            raise InvalidArgument(str(error), line=instruction.line) from error
        await self._out.result(self._state.image_id)

    def _shell(self) -> tuple[str, ...]:
        return self._state.shell

    async def _step(self, instruction: Instruction, command: Sequence[str], make_layer: MakeLayer | None) -> None:
        """Find the step in the cache, or do it and store what it leads to."""
        step = self._describe(instruction, command)

        async def do() -> None:
            await self._store(await self._new_image(step), await make_layer() if make_layer else None)

        await self._once(step, do)

    async def _once(self, step: _Step, do: Callable[[], Awaitable[None]]) -> None:
        """Do a step that is not in the cache, unless another build is doing it already."""
        if await self._from_cache(step):
            return
        if not self._probe.enabled:
            await do()
            return
        flights, parent_id = self._shop.flights, self._state.image_id
        while await flights.wait(parent_id, step.key):
            if await self._probe.find_new(parent_id, step.key) is not None:
                await self._from_cache(step)
                return
        async with flights.doing(parent_id, step.key) as flight:
            await do()
            if flight.awaited:  # only now do others see it
                await self._shop.images.flush()

    def _describe(self, instruction: Instruction, command: Sequence[str], extra: Sequence[str] = ()) -> _Step:
        style = self._shop.style
        created_by = style.created_by(instruction, command)
        key = style.key_prefix + cache_key(command, self._state.config, (*extra, *self._state.platform_facts()))
        return _Step(tuple(command), created_by, key)

    async def _new_image(self, step: _Step) -> NewImage:
        config = self._state.config.model_copy(deep=True)
        return NewImage(
            parent=await self.image(),
            config=config,
            container_config=container_config(config, step.command),
            created_by=step.created_by,
            cache_key=step.key,
            author=self._state.author,
            comment=self._shop.style.comment,
        )

    async def _from_cache(self, step: _Step) -> bool:
        found = await self._probe.find(self._state.image_id, step.key, partial(self._new_image, step))
        if found is None:
            return False
        await self._out.cached()
        self._state.advance(found)
        return True

    async def _store(self, new: NewImage, layer: WrittenLayer | None) -> None:
        if layer is not None:
            new = replace(new, layer=layer)
        try:
            image = await self._shop.images.add(new)
            self._state.advance(image.id, image)
        finally:
            if layer is not None:
                await asyncio.shield(asyncio.to_thread(layer.target.discard))

    # -- WORKDIR ------------------------------------------------------------------------------------------------

    async def _workdir(self, instruction: Instruction) -> None:
        assert isinstance(instruction, Text)
        path = metadata.workdir_of(instruction, self._state)
        self._state.config.working_dir = path
        command = (*self._shell(), f"{NO_OPERATION}WORKDIR {path}")
        await self._step(instruction, command, partial(self._make_directory, path))

    async def _make_directory(self, path: str) -> WrittenLayer | None:
        base = DirectoryTree((await self.image()).layers)

        def make() -> WrittenLayer | None:
            try:
                real, entry = resolve(base, path)
                if entry is not None and entry.kind == "dir":
                    return None
                plan = LayerPlan(base)
                plan.make_directories(real)
            except NotADirectoryError as error:
                raise InvalidArgument(f"Cannot mkdir: {path} is not a directory", field="WORKDIR") from error
            return self._shop.write_layer(plan)

        return await asyncio.to_thread(make)

    # -- COPY, ADD ----------------------------------------------------------------------------------------------

    async def _copy(self, copy: Copy) -> None:
        word = self._state.expander()
        needs_files = copy.origin or not all(item in copy.heredocs or is_url(word(item)) for item in copy.sources)
        origin = await self._origin(copy.origin) if needs_files else Origin(MemoryTree({}))
        variables = self._state.variables()
        selected = await gather(
            copy,
            Gathering(origin.tree, origin.from_context, self._shop.scratch, word, variables, self._state.escape),
        )
        written = word(copy.destination)
        destination = absolute_destination(written, self._state.config.working_dir)
        check_destination(selected, destination, keyword=copy.keyword, parents=copy.parents)
        chown, chmod = word(copy.chown), word(copy.chmod)
        exclude = IgnoreRules([word(pattern) for pattern in copy.exclude]) if copy.exclude else None
        keeps_owner = bool(copy.origin) and not chown
        total = await looked_up(
            [item.tree for item in selected], partial(checksum, selected, ownership=keeps_owner, exclude=exclude)
        )
        options = _shown_options(copy, chown, chmod)
        command = (*self._shell(), f"{NO_OPERATION}{copy.keyword} {options}{total} in {written} ")

        async def make() -> WrittenLayer | None:
            base = DirectoryTree((await self.image()).layers)

            def write() -> WrittenLayer | None:
                owner = find_owner(chown, base) if chown else None if keeps_owner else (0, 0)
                placement = Placement(owner, Mode(chmod) if chmod else None, exclude)
                # With --link the layer is made as if on nothing, so that it fits any base.
                plan = LayerPlan(MemoryTree({}) if copy.link else base)
                place(plan, selected, destination, placement)
                return self._shop.write_layer(plan) if plan else None

            return await asyncio.to_thread(write)

        await self._step(copy, command, make)

    async def _origin(self, name: str) -> Origin:
        return await self._find_origin(name) if name else Origin(await self._shop.context(self._whole_context))

    # -- RUN ----------------------------------------------------------------------------------------------------

    async def _run(self, run: Run) -> None:
        shop = self._shop
        where = RunPlace(shop, self._origin)
        prepared = await prepare_run(run, self._state, where)
        step = self._describe(run, prepared.recorded, prepared.extra)
        await self._once(step, partial(self._do_run, run, step, prepared, where))

    async def _do_run(self, run: Run, step: _Step, prepared: PreparedRun, where: RunPlace) -> None:
        shop = self._shop
        new = await self._new_image(step)
        async with AsyncExitStack() as stack:
            order = await run_order(run, prepared, new.parent, self._state, where, stack)
            await shop.images.flush()  # the executor finds the image by its id
            container_id = await self._create(order)
            await self._out.running(container_id)
            await self._command(container_id, prepared)
            layer = await self._changes(container_id, prepared)
        if shop.request.rm or shop.request.force_rm:
            await self._remove(container_id)
        else:
            shop.containers.discard(container_id)
        await self._store(replace(new, container_id=container_id), layer)

    async def _create(self, order: RunOrder) -> str:
        """A container that is known here, and to the next start of the service, however this ends."""
        creating = asyncio.ensure_future(self._shop.executor.create(order))
        try:
            container_id = await asyncio.shield(creating)
        except asyncio.CancelledError:
            with contextlib.suppress(DavitError):
                self._shop.containers.add(await creating)
            raise
        self._shop.containers.add(container_id)
        self._shop.scratch.note_container(container_id)
        return container_id

    async def _changes(self, container_id: str, prepared: PreparedRun) -> WrittenLayer | None:
        base = DirectoryTree((await self.image()).layers)
        omit = await asyncio.to_thread(mount_points, prepared.mounts, base)
        take = self._shop.request.rm or self._shop.request.force_rm
        target = await asyncio.to_thread(self._shop.images.begin_layer)
        layer = None
        try:
            layer = await self._shop.executor.changes(container_id, target, omit=omit, take=take)
            return layer
        finally:
            if layer is None:
                await asyncio.shield(asyncio.to_thread(target.discard))

    async def _command(self, container_id: str, prepared: PreparedRun) -> None:
        """Run the command to its end. Its container stays when it failed, unless the request says otherwise."""
        shop = self._shop
        printer = _Printer(self._out)
        exit_code = None
        try:
            exit_code = await shop.executor.run(container_id, printer.write)
            await printer.finish()
        except DavitError:
            # Never started: as with a failed command, the container is there to be looked at.
            exit_code = -1
            raise
        finally:
            if exit_code and not shop.request.force_rm:
                shop.containers.discard(container_id)
            elif exit_code:
                await self._remove(container_id)
        if exit_code:
            raise CommandFailed(error_command(prepared), exit_code)

    async def _remove(self, container_id: str) -> None:
        """Have a container removed, which takes a while that nothing needs to wait for."""
        shop = self._shop
        shop.removals[container_id] = asyncio.create_task(
            shop.executor.remove(container_id), name=f"remove {container_id[:12]}"
        )
        shop.containers.discard(container_id)
        await self._out.removing(container_id)


class _Printer:
    """A command's output as text; a character cut by a chunk's end waits for its rest."""

    def __init__(self, out: StageReport) -> None:
        self._out = out
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders = {False: decoder("replace"), True: decoder("replace")}

    async def write(self, is_error: bool, data: bytes) -> None:
        await self._tell(is_error, self._decoders[is_error].decode(data))

    async def finish(self) -> None:
        for is_error, decoder in self._decoders.items():
            await self._tell(is_error, decoder.decode(b"", final=True))

    async def _tell(self, is_error: bool, text: str) -> None:
        if text:
            await self._out.wrote(is_error, text)


def _shown_options(copy: Copy, chown: str, chmod: str) -> str:
    """Options that change the outcome, as history and so the cache key have them."""
    options = f"--chown={chown} " if chown else ""
    options += f"--chmod={chmod} " if chmod else ""
    options += "--parents " if copy.parents else ""
    options += "--link " if copy.link else ""
    options += f"--unpack={str(copy.unpack).lower()} " if copy.unpack is not None else ""
    return options + "".join(f"--exclude={pattern} " for pattern in copy.exclude)
