"""Reads: from the database alone, never from a node (but for sizes, when a client asks for them)."""

from __future__ import annotations

import asyncio
import builtins
import time

from services.executor.control.life import links
from services.executor.control.nodes.registry import STALE_AFTER_NS, Nodes
from services.executor.control.peers import Peers
from services.executor.control.reads import listing
from services.executor.control.state import sql
from services.executor.control.state.records import Records
from shared.bus.client import Empty
from shared.contracts import images, node
from shared.contracts.containers import (
    Container,
    ContainerPage,
    ContainerSummary,
    ImageUser,
    ImageUsers,
    InspectContainer,
    ListContainers,
    SystemInfo,
    UsingImage,
)
from shared.contracts.node import Sizes, SizesOrder
from shared.docker.filters import Filters
from shared.docker.moments import rfc3339
from shared.docker.status import FOR_EVER_NS, status_text
from shared.errors import DeadlineExceeded, NotFound, Unavailable

PAGE = 500


class Queries:
    """Handlers that change nothing."""

    def __init__(self, records: Records, peers: Peers, nodes: Nodes) -> None:
        self._records = records
        self._bus = peers.bus
        self._nodes = nodes

    async def inspect(self, request: InspectContainer) -> Container:
        async with self._records.database.read() as reader:
            record = await sql.find(reader, request.ref)
            running = await sql.exec_ids(reader, record.id) if record.alive else []
            nodes = await self._nodes.away(reader)
            targets = {one: await sql.by_id(reader, one) for one in set(record.links.values())}
        container = record.container
        if record.links:
            there = {one: target for one, target in targets.items() if target is not None}
            container.host_config.links = links.shown(record, there)
        container.exec_ids = running
        stale, seen = nodes.get(container.node, (True, 0))
        container.stale, container.as_of = stale, rfc3339(seen)
        container.known_until_ns = FOR_EVER_NS if stale else seen + STALE_AFTER_NS
        if request.size:
            sizes = await self._sizes([container.id], container.node, {container.id: container.layers})
            container.size_rw_bytes = sizes.rw.get(container.id, 0)
            container.size_root_fs_bytes = sizes.root_fs.get(container.id, 0)
        return container

    async def _sizes(self, ids: builtins.list[str], node_name: str, layers: dict[str, builtins.list[str]]) -> Sizes:
        """layers: Of containers that the node may not know, since they have never been started."""
        return await self._bus.request(node.SIZES, SizesOrder(ids=ids, layers=layers), node=node_name)

    async def _ancestors(self, filters: Filters) -> set[str]:
        """Ids of the named images and of all that were made from them."""
        wanted = filters.get("ancestor") or []
        if not wanted:
            return set()
        bus = self._bus

        async def one(ref: str) -> images.Image | None:
            try:
                return await bus.request(images.INSPECT, images.InspectImage(ref=ref))
            except NotFound:
                return None

        roots = [image for image in await asyncio.gather(*map(one, wanted)) if image is not None]
        everything = await bus.request(images.LIST, images.ListImages(all=True))
        found = {image.id for image in roots}
        for image in everything.images:
            if any(image.chain_ids[: len(root.chain_ids)] == root.chain_ids for root in roots):
                found.add(image.id)
        return found

    async def _bound(self, reader: sql.Reader, filters: Filters, key: str) -> int | None:
        values = filters.get(key)
        return (await sql.find(reader, values[0])).created_ns if values else None

    async def list(self, request: ListContainers) -> ContainerPage:
        """One page: as many as PAGE, or as the request's limit."""
        listing.check_filters(request.filters)
        ancestors = await self._ancestors(request.filters)
        async with self._records.database.read() as reader:
            selection = listing.Selection(
                filters=request.filters,
                ancestors=ancestors,
                before_ns=await self._bound(reader, request.filters, "before"),
                since_ns=await self._bound(reader, request.filters, "since"),
            )
            page = await self._page(reader, request, selection)
        page.partial = not await self._name_images(page.containers)
        if request.size:
            await self._add_sizes(page.containers)
        return page

    async def _page(self, reader: sql.Reader, request: ListContainers, selection: listing.Selection) -> ContainerPage:
        everything = request.all or request.limit > 0 or listing.wants_all(request.filters)
        away = await self._nodes.away(reader)
        by_links = await sql.names_by_links(reader)
        now_ns = time.time_ns()
        wanted = min(request.limit or PAGE, PAGE)
        found: list[ContainerSummary] = []
        after = request.after
        while True:
            rows = await sql.summaries(
                reader, after=after, limit=PAGE, statuses=() if everything else ("running", "paused", "restarting")
            )
            for summary, created_ns, node_name in rows:
                after, summary.node = summary.id, node_name
                summary.aliases = by_links.get(summary.id, [])
                if not selection.takes(summary, created_ns):
                    continue
                if not request.coded:
                    summary.status_text = status_text(summary.status, summary.status_text, now_ns)
                summary.stale = away.get(node_name, (True, 0))[0]
                if not self._nodes.in_a_cluster(node_name):
                    summary.node = ""
                found.append(summary)
                if len(found) == wanted:
                    return ContainerPage(containers=found, next="" if request.limit == wanted else after)
            if len(rows) < PAGE:
                return ContainerPage(containers=found)

    async def _name_images(self, summaries: builtins.list[ContainerSummary]) -> bool:
        """An image that has lost the name a container was created with is shown by its id.

        Returns:
            False when the image service could not be asked, and the names are those of the containers' creation.
        """
        names = sorted({summary.image for summary in summaries})
        if not names:
            return True
        try:
            named = await self._bus.request(images.NAMED, images.ImageNames(refs=names))
        except (Unavailable, DeadlineExceeded):  # a list does not wait for other services
            return False
        for summary in summaries:
            if summary.image_id not in named.ids.get(summary.image, []):
                summary.image = summary.image_id
        return True

    async def _add_sizes(self, summaries: builtins.list[ContainerSummary]) -> None:
        """From the nodes; the one question of a list that the database cannot answer."""
        async with self._records.database.read() as reader:
            nodes = await sql.nodes_of(reader, [summary.id for summary in summaries])
            created = [await sql.by_id(reader, one.id) for one in summaries if one.status == "created"]
        layers = {record.id: record.container.layers for record in created if record is not None}
        for name in set(nodes.values()):
            ids = [one for one, node_name in nodes.items() if node_name == name]
            sizes = await self._sizes(ids, name, {one: layers[one] for one in ids if one in layers})
            for summary in summaries:
                if nodes.get(summary.id) == name:
                    summary.size_rw_bytes = sizes.rw.get(summary.id, 0)
                    summary.size_root_fs_bytes = sizes.root_fs.get(summary.id, 0)

    async def using_image(self, request: UsingImage) -> ImageUsers:
        async with self._records.database.read() as reader:
            rows = await sql.using_image(reader, request.image_ids)
        return ImageUsers(
            users=[
                ImageUser(image_id=image_id, container_id=container_id, running=status in ("running", "paused"))
                for image_id, container_id, status in rows
            ]
        )

    async def info(self, _: Empty) -> SystemInfo:
        async with self._records.database.read() as reader:
            counts = await sql.count_by_status(reader)
            nodes = await sql.all_nodes(reader)
        now = time.time_ns()
        facts = [one.model_copy(update={"ready": now - seen < STALE_AFTER_NS}) for one, seen in nodes]
        running = counts.get("running", 0) + counts.get("restarting", 0)
        paused = counts.get("paused", 0)
        total = sum(counts.values())
        return SystemInfo(
            containers=total, running=running, paused=paused, stopped=total - running - paused, nodes=facts
        )
