"""The builder's messages."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from services.image.archives.importing import Importer
from services.image.build.builds import Builder, Source
from services.image.build.cache.pruning import BuildCache
from services.image.build.images import DepotImages
from services.image.build.steps import changes
from services.image.build.steps.executor import BusExecutor
from services.image.build.workdirs import WorkDirectories
from services.image.catalog.depot import Depot
from services.image.jobs import Jobs
from shared.bus.client import EMPTY, Bus, Empty
from shared.bus.handover import take
from shared.bus.streams import accept
from shared.contracts import images as contracts
from shared.contracts.images import BuildCacheEntries, BuildCachePrune, BuildImage, PrunedCache
from shared.errors import DavitError
from shared.service import ServiceContext

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BuildHandlers:
    """Handlers of ``davit.image.build.*``."""

    builder: Builder
    cache: BuildCache
    jobs: Jobs
    bus: Bus
    orphans: Sequence[str] = ()

    async def serve(self) -> None:
        if self.orphans:
            self.jobs.start(self._remove_orphans(), "remove containers of builds that a crash ended")
        await self.bus.serve(contracts.BUILD, self.build)
        await self.bus.serve(contracts.BUILD_PRUNE, self.prune)
        await self.bus.serve(contracts.BUILD_CACHE, self.list)
        await self.bus.serve(contracts.CHANGE_CONFIG, changes.change)

    async def _remove_orphans(self) -> None:
        for container_id in self.orphans:
            try:
                await self.builder.executor.remove(container_id)
            except DavitError as error:
                log.warning("container %s of a build could not be removed: %s", container_id, error)

    async def build(self, request: BuildImage) -> Empty:
        """Answered once stream and context are accepted; the build goes on and tells the rest on the stream."""
        pipe = take(request.context) if request.context is not None else None
        try:
            stream = await accept(self.bus, request.stream)
        except BaseException:
            if pipe is not None:
                pipe.close()
            raise
        self.jobs.start(self.builder.serve(Source(request, stream, pipe)), "build")
        return EMPTY

    async def prune(self, request: BuildCachePrune) -> PrunedCache:
        return await self.cache.prune(request)

    async def list(self, _: Empty) -> BuildCacheEntries:
        return await self.cache.entries()


def join(ctx: ServiceContext, depot: Depot, importer: Importer, jobs: Jobs) -> BuildHandlers:
    """The builder's parts, joined; leftovers of builds that a crash ended are removed."""
    directories = WorkDirectories(ctx.config.data_root / "build", ctx.config.run_dir / "build")
    orphans = directories.prepare()
    images = DepotImages(depot, importer, ctx.bus, ctx.clock)
    builder = Builder(images, BusExecutor(ctx.bus), directories)
    return BuildHandlers(
        builder, BuildCache(ctx.required_database, directories.caches, ctx.bus), jobs, ctx.bus, orphans
    )
