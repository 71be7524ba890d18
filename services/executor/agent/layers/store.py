"""The layers that this node's containers need: here already, or fetched from the image service's registry.

::

    create ─► ensure ─► all here? else fetch     image removed ─► hint ─► which of ours are still known?
    start  ─► ensure ─► all here? else wait for                           those that are not, and that
                        the same fetch                                    no container here needs, go

A node that shares the image service's disk has every layer, fetches none and removes none.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.executor.agent.containers.records import NodeRecords
from services.executor.agent.files.furniture import furniture_of
from services.executor.agent.layers import partial
from shared.bus.client import Bus
from shared.bus.context import RequestContext, current_context, use_context
from shared.contracts.images import LAYER_SOURCES, LAYERS_REMOVED, LayerChains, LayerSource, LayerSources
from shared.contracts.node import ContainerOrder
from shared.errors import DavitError, NotFound, Unavailable
from shared.layers.store import LayerStore

if TYPE_CHECKING:
    from services.executor.agent.layers.fetching import Fetch

log = logging.getLogger(__name__)

# A start that would be late answers what is missing, this long before nobody waits any more.
ANSWER_BEFORE_S = 2.0
WAIT_AT_MOST_S = 600.0
COLLECT_EVERY_S = 300.0
COLLECT_RETRY_S = 5.0
LEFTOVERS_FIRST_S, LEFTOVERS_MOST_S = 0.5, 60.0


class NodeLayers:
    """The node's layers.

    Args:
        at_once: How many layers are fetched at the same time.
    """

    def __init__(
        self,
        bus: Bus,
        node: str,
        root: Path,
        records: NodeRecords,
        spawn: Callable[..., asyncio.Task[Any]],
        *,
        at_once: int,
    ) -> None:
        self.root = root
        self._bus = bus
        self._node = node
        self._store = LayerStore(root)
        self._records = records
        self._spawn = spawn
        self._at_once = asyncio.Semaphore(at_once)
        self._fetching: dict[str, asyncio.Task[None]] = {}
        self._progress: dict[str, Fetch] = {}
        self._removed = asyncio.Event()

    @property
    def shared(self) -> bool:
        """Whether the image service puts its layers here, so that none is ever fetched."""
        return self._store.has_owner

    def lower(self, order: ContainerOrder) -> list[str]:
        """Lower directories of a container, top layer first, as overlayfs wants them."""
        return [str(self._store.files(chain_id)) for chain_id in reversed(order.layers)]

    def beneath(self, order: ContainerOrder) -> list[str]:
        """The same, and above them what is not the image's: all that the container's own layer lies on."""
        lower = self.lower(order)
        return [furniture_of(lower), *lower] if lower else []

    async def start(self) -> None:
        """Remove what an earlier agent left half fetched, or a power cut may have damaged; then follow removals."""
        if not self.shared:
            await asyncio.to_thread(self._tidy)
            self._spawn(self._remove_leftovers(), name="leftovers of layers")
        await self._bus.listen(LAYERS_REMOVED, self._hint)
        self._spawn(self._collect_for_ever(), name="layers")

    def _tidy(self) -> None:
        self._store.prepare()
        partial.remove_old(self._store.root.parent)
        copies = set(self._store.fetched())
        self._remove([chain_id for chain_id in self._store.doubtful() if chain_id in copies])

    async def _remove_leftovers(self) -> None:
        """Remove what children of a killed agent held when this one began; ends when nobody writes."""
        pause_s = LEFTOVERS_FIRST_S
        while await asyncio.to_thread(self._store.remove_abandoned):
            await asyncio.sleep(pause_s)
            pause_s = min(LEFTOVERS_MOST_S, pause_s * 2)

    # Fetch

    async def ensure(self, order: ContainerOrder) -> None:
        """Return once every layer is here. What is on its way goes on arriving when nobody waits any more.

        Raises:
            NotFound: The image service does not know one any more.
            Unavailable: They cannot be fetched; with `pending` in its detail, not within the time of this request.
        """
        missing = self._missing(order)
        if not missing:
            return
        remaining_s = current_context().remaining_s()
        patience_s = WAIT_AT_MOST_S if remaining_s is None else max(0.0, remaining_s - ANSWER_BEFORE_S)
        try:
            async with asyncio.timeout(patience_s):
                for task in await self._begin(missing):
                    await asyncio.shield(task)
        except TimeoutError as error:
            have, total = self._have(missing)
            raise Unavailable(
                f"the image's layers are still on their way to this node: {have} of {total} bytes have arrived",
                pending=True,
            ) from error

    def _missing(self, order: ContainerOrder) -> list[str]:
        wanted = [*order.layers, *(chain for mount in order.mounts for chain in mount.layers)]
        return [chain_id for chain_id in dict.fromkeys(wanted) if not self._store.has(chain_id)]

    def _have(self, chains: Iterable[str]) -> tuple[int, int]:
        fetches = [self._progress[chain_id] for chain_id in chains if chain_id in self._progress]
        return sum(fetch.arrived for fetch in fetches), sum(fetch.source.blob_bytes for fetch in fetches)

    async def _begin(self, chains: list[str]) -> list[asyncio.Task[None]]:
        """The fetches of layers; those that are under way are joined."""
        sources = await self._sources([chain_id for chain_id in chains if chain_id not in self._fetching])
        tasks = []
        for chain_id in chains:
            source = next((one for one in sources.layers if one.chain_id == chain_id), None)
            if chain_id not in self._fetching and not self._store.has(chain_id):
                if source is None:
                    raise NotFound(f"layer {chain_id} is not on this node, and the image service does not know it")
                self._fetching[chain_id] = self._fetch(source, sources)
            if chain_id in self._fetching:
                tasks.append(self._fetching[chain_id])
        return tasks

    async def _sources(self, chains: list[str]) -> LayerSources:
        if not chains:
            return LayerSources(layers=[])
        sources = await self._bus.request(LAYER_SOURCES, LayerChains(chains=chains), node=self._node)
        if not sources.url:
            raise Unavailable(
                f"layer {chains[0]} is not on this node, and the image service serves no registry to fetch it from: "
                "set registry-listen there"
            )
        return sources

    def _fetch(self, source: LayerSource, sources: LayerSources) -> asyncio.Task[None]:
        # Imported here: nodes that share the image service's disk do without an HTTP client in memory.
        from services.executor.agent.layers.fetching import Fetch

        fetch = self._progress[source.chain_id] = Fetch(self._store, source, sources)
        # Whoever asked first may go away; the others still want it.
        with use_context(RequestContext(actor="system:agent")):
            task = asyncio.get_running_loop().create_task(self._run(fetch), name=f"fetch {source.chain_id[:19]}")

        def ended(task: asyncio.Task[None]) -> None:
            self._fetching.pop(source.chain_id, None)
            self._progress.pop(source.chain_id, None)
            if not task.cancelled() and (error := task.exception()) is not None:
                log.warning("layer %s was not fetched: %s", source.chain_id, error)
            if not self._fetching and not task.cancelled():  # the last one has the files of all written to the disk
                self._spawn(self._settle(), name="settle layers")

        task.add_done_callback(ended)
        return task

    async def _run(self, fetch: Fetch) -> None:
        try:
            async with self._at_once:
                await asyncio.to_thread(fetch.run)
        except asyncio.CancelledError:
            fetch.cancel()
            raise

    async def _settle(self) -> None:
        try:
            await asyncio.to_thread(self._store.settle)
        except OSError as error:  # the marks stay, and the layers are doubted after a power cut
            log.warning("layers may not be on the disk yet: %s", error)

    async def close(self) -> None:
        """Stop fetching, and wait until nothing half fetched is left."""
        tasks = list(self._fetching.values())
        for fetch in self._progress.values():
            fetch.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Removal

    async def _hint(self, _: bytes) -> None:
        self._removed.set()

    async def _collect_for_ever(self) -> None:
        pause_s = COLLECT_EVERY_S
        while True:
            with suppress(TimeoutError):  # a hint may have been missed
                await asyncio.wait_for(self._removed.wait(), pause_s)
            self._removed.clear()
            try:
                await self.collect()
                pause_s = COLLECT_EVERY_S
            except (DavitError, OSError) as error:
                log.warning("layers were not collected: %s", error)
                pause_s = COLLECT_RETRY_S

    async def collect(self) -> None:
        """Remove copies of layers that the image service has no more and that no container here needs."""
        copies = [] if self.shared else await asyncio.to_thread(self._store.fetched)
        if not copies:
            return
        known = await self._bus.request(LAYER_SOURCES, LayerChains(chains=copies), node=self._node)
        gone = set(copies) - {one.chain_id for one in known.layers}
        # Without a pause between the look and the removal: a start that comes later finds the layer missing.
        for record in self._records.all():
            gone -= {*record.order.layers, *(chain for mount in record.order.mounts for chain in mount.layers)}
        paths = [path for chain_id in gone if (path := self._store.take_away(chain_id))]
        for path in paths:
            await asyncio.to_thread(shutil.rmtree, path, True)
        if paths:
            log.info("%d layers of images that are gone were removed", len(paths))

    def _remove(self, chains: Iterable[str]) -> None:
        for chain_id in chains:
            path = self._store.take_away(chain_id)
            if path is not None:
                shutil.rmtree(path, ignore_errors=True)
