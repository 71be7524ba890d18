"""Reads: from the database alone, never from a node (but for sizes, when a client asks for them)."""

from __future__ import annotations

import asyncio
import time

from services.executor.control import listing, sql
from services.executor.control.domain import rfc3339, status_text
from services.executor.control.lifecycle import Lifecycle
from shared.bus import Empty
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
from shared.contracts.docker import Filters
from shared.contracts.images import ImageRef
from shared.contracts.node import Sizes, SizesOrder
from shared.errors import NotFound

PAGE = 500
# Inventories come every 10 s; a node that missed three is taken for away.
STALE_AFTER_NS = 30 * 1_000_000_000


class Queries:
    """Handlers that change nothing."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    async def _stale(self, reader: sql.Reader) -> dict[str, tuple[bool, int]]:
        now = time.time_ns()
        return {facts.node: (now - seen > STALE_AFTER_NS, seen) for facts, seen in await sql.all_nodes(reader)}

    async def inspect(self, request: InspectContainer) -> Container:
        async with self._lifecycle.database.read() as reader:
            record = await sql.find(reader, request.ref)
            running = await sql.exec_ids(reader, record.id) if record.alive else []
            nodes = await self._stale(reader)
        container = record.container
        container.exec_ids = running
        stale, seen = nodes.get(container.node, (True, 0))
        container.stale, container.as_of = stale, rfc3339(seen)
        if request.size:
            sizes = await self._sizes([container.id], container.node)
            container.size_rw_bytes = sizes.rw.get(container.id, 0)
            container.size_root_fs_bytes = sizes.root_fs.get(container.id, 0)
        return container

    async def _sizes(self, ids: list[str], node_name: str) -> Sizes:
        return await self._lifecycle.peers.bus.request(node.SIZES, SizesOrder(ids=ids), node=node_name)

    async def _ancestors(self, filters: Filters) -> set[str]:
        """Ids of the named images and of all that were made from them."""
        wanted = filters.get("ancestor") or []
        if not wanted:
            return set()
        bus = self._lifecycle.peers.bus

        async def one(ref: str) -> images.Image | None:
            try:
                return await bus.request(images.INSPECT, ImageRef(ref=ref))
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
        listing.check_filters(request.filters)
        ancestors = await self._ancestors(request.filters)
        everything = request.all or request.limit > 0 or listing.wants_all(request.filters)
        found: list[ContainerSummary] = []
        after, more = request.after, True
        async with self._lifecycle.database.read() as reader:
            before = await self._bound(reader, request.filters, "before")
            since = await self._bound(reader, request.filters, "since")
            nodes = await self._stale(reader)
            stale = any(away for away, _ in nodes.values())
            now = time.time_ns()
            while more and len(found) < PAGE:
                page = await sql.summaries(reader, after=after, limit=PAGE)
                more = len(page) == PAGE
                for summary, created in page:
                    after = summary.id
                    if not everything and summary.status not in ("running", "paused", "restarting"):
                        continue
                    if (before is not None and created >= before) or (since is not None and created <= since):
                        continue
                    if not listing.shown(summary, request.filters, ancestors):
                        continue
                    summary.status_text = status_text(summary.status, summary.status_text, now)
                    summary.stale = stale
                    found.append(summary)
                    if request.limit and len(found) == request.limit:
                        more = False
                        break
        if request.size and found:
            sizes = await self._sizes([summary.id for summary in found], self._node())
            for summary in found:
                summary.size_rw_bytes = sizes.rw.get(summary.id, 0)
                summary.size_root_fs_bytes = sizes.root_fs.get(summary.id, 0)
        return ContainerPage(containers=found, next=after if more else "")

    def _node(self) -> str:
        return self._lifecycle.node_name

    async def using_image(self, request: UsingImage) -> ImageUsers:
        async with self._lifecycle.database.read() as reader:
            rows = await sql.using_image(reader, request.image_ids)
        return ImageUsers(
            users=[
                ImageUser(image_id=image_id, container_id=container_id, running=status in ("running", "paused"))
                for image_id, container_id, status in rows
            ]
        )

    async def info(self, _: Empty) -> SystemInfo:
        async with self._lifecycle.database.read() as reader:
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
