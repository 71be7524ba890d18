"""The one place where the image service's parts are made and joined."""

from __future__ import annotations

import asyncio
import itertools
import os
from typing import Any

from services.image.archives.importing import Importer
from services.image.archives.loading import Loader
from services.image.archives.saving import Saver
from services.image.build import handlers as build_handlers
from services.image.catalog.depot import Depot
from services.image.catalog.handlers import ImageQueries
from services.image.catalog.removal import Remover
from services.image.jobs import Jobs
from services.image.registry.door import RegistryDoor
from services.image.server.cluster import ClusterStore
from services.image.server.nodes import NodeDoor, NodeTokens
from services.image.sql.catalog import SqlCatalog
from services.image.store.content import ContentStore
from shared.auditing.policy import Policy
from shared.auditing.recorder import recorder_of
from shared.bus.client import ANY_NODE
from shared.bus.leases import Lease
from shared.config import EngineConfig
from shared.contracts import images as contracts
from shared.contracts.cluster import CHANGED
from shared.errors import DavitError
from shared.layers.store import LayerStore
from shared.service import ServiceContext

COLLECT_EVERY_MINUTES = 60
COLLECT_FIRST_AFTER_S = 30.0
PARTS_KEPT_S = 7 * 24 * 3600.0
LEFTOVERS_FIRST_S, LEFTOVERS_MOST_S = 0.5, 60.0


async def start(ctx: ServiceContext) -> None:
    """Serve every contract of the image service."""
    content = ContentStore(ctx.config.data_root / "images")
    layers = LayerStore(ctx.config.data_root / "layers")
    jobs = Jobs()
    depot = Depot(SqlCatalog(ctx.required_database), content, layers, jobs)
    await asyncio.to_thread(content.prepare)
    await asyncio.to_thread(lambda: layers.prepare(owner=True))
    await asyncio.to_thread(depot.presence.begin)
    await depot.give_up_leases()
    for chain_id in await depot.repair():
        ctx.log.error("a layer is lost: neither its files nor its blob are there", chain_id=chain_id)
    queries, remover = ImageQueries(depot, ctx.bus), Remover(depot, ctx.bus)
    importer, loader, saver = Importer(depot, ctx.bus, ctx.clock), Loader(depot, ctx.bus), Saver(depot, ctx.bus)
    registries = RegistryDoor(depot, ctx.bus, ctx.config)
    ctx.on_reload(registries.reload)
    served: list[tuple[Any, Any]] = [
        (contracts.RESOLVE, queries.resolve),
        (contracts.INSPECT, queries.inspect),
        (contracts.NAMED, queries.named),
        (contracts.LIST, queries.list),
        (contracts.HISTORY, queries.history),
        (contracts.TAG, queries.tag),
        (contracts.DISK_USAGE, queries.disk_usage),
        (contracts.REMOVE, remover.remove),
        (contracts.PRUNE, remover.prune),
        (contracts.IMPORT, importer.import_image),
        (contracts.COMMIT, importer.commit),
        (contracts.LOAD, loader.load),
        (contracts.SAVE, saver.save),
        (contracts.PULL, registries.pull),
        (contracts.PUSH, registries.push),
        (contracts.LOGIN, registries.login),
        (contracts.DISTRIBUTION, registries.distribution),
        (contracts.SEARCH, registries.search),
    ]
    await asyncio.gather(*(ctx.bus.serve(contract, handler) for contract, handler in served))
    await build_handlers.join(ctx, depot, importer, jobs).serve()
    tokens = await start_registry(ctx, depot)
    door = NodeDoor(depot, ctx.config, tokens)
    await ctx.bus.serve(contracts.LAYER_SOURCES, door.sources, node=ANY_NODE)
    if tokens is None:
        store = ClusterStore(ctx, depot, door)
        await ctx.bus.listen(CHANGED, store.follow)
        await store.follow()
    ctx.on_close(jobs.close)
    ctx.spawn(depot.settle_for_ever(), name="settle")
    ctx.spawn(remove_leftovers(content, layers), name="leftovers")
    lease = Lease(ctx.bus, "image-collect", f"{ctx.node}-{os.getpid()}")
    ctx.spawn(lease.hold(lambda: collect_for_ever(ctx, depot, remover)), name="collect")


async def remove_leftovers(content: ContentStore, layers: LayerStore) -> None:
    """Remove what was half written when a copy was killed, and is still held by its children, which go on for a while.

    Comes to its end when nobody writes.
    """
    pause_s = LEFTOVERS_FIRST_S
    while await asyncio.to_thread(content.remove_abandoned) + await asyncio.to_thread(layers.remove_abandoned):
        await asyncio.sleep(pause_s)
        pause_s = min(LEFTOVERS_MOST_S, pause_s * 2)


async def collect_for_ever(ctx: ServiceContext, depot: Depot, remover: Remover) -> None:
    """Remove garbage now and then, in one copy of the service at a time."""
    await asyncio.sleep(COLLECT_FIRST_AFTER_S)
    for minute in itertools.count():
        try:
            await remover.collect_hidden()
            if minute % COLLECT_EVERY_MINUTES == 0:
                await collect(ctx, depot)
        except DavitError as error:  # tried again next time
            ctx.log.warning("garbage was not collected", error=str(error))
        await asyncio.sleep(60)


async def collect(ctx: ServiceContext, depot: Depot) -> None:
    """Remove what is in the stores and nobody needs."""
    freed = await depot.collect()
    await asyncio.to_thread(depot.content.remove_old_parts, PARTS_KEPT_S)
    if freed:
        ctx.log.info("garbage collected", freed_bytes=freed)
        await ctx.bus.publish(contracts.LAYERS_REMOVED, b"{}")


async def start_registry(ctx: ServiceContext, depot: Depot) -> NodeTokens | None:
    """Serve the store to registry clients, if there is an address to do it on; with what nodes authorize themselves.

    Raises:
        InvalidArgument, Unavailable: Address, certificate or file of users cannot be used.
    """
    if not ctx.config.registry_listen:
        return None
    # Imported here: a process that serves no registry does without a web server in its memory.
    from services.image.server.access import gate_of
    from services.image.server.app import Registry
    from services.image.server.auditing import AuditedRegistry
    from services.image.server.repositories import Repositories
    from services.image.server.serving import check_files, listen, serve
    from services.image.server.tidying import tidy_for_ever
    from services.image.server.uploads import Uploads

    check_files(ctx.config.registry_tls_cert, ctx.config.registry_tls_key)
    gate = await asyncio.to_thread(gate_of, ctx.config, depot.content.root)
    uploads = Uploads(depot.content)
    await asyncio.to_thread(uploads.prepare)
    tokens = await asyncio.to_thread(NodeTokens.of, depot.content.root)
    repositories = Repositories(ctx.required_database)
    registry = Registry(depot, repositories, uploads, gate, tokens)
    app = AuditedRegistry(registry, recorder_of(ctx), Policy.read(ctx.config.audit_policy))

    async def close() -> None:
        app.recorder.close()

    async def reload(config: EngineConfig) -> None:
        app.policy, app.recorder.mode = Policy.read(config.audit_policy), config.audit_mode

    ctx.on_close(close)
    ctx.on_reload(reload)
    ctx.spawn(tidy_for_ever(depot, repositories, uploads), name="tidy registry")
    listener = listen(ctx.config.registry_listen)
    ctx.spawn(serve(app, listener, ctx.config.registry_tls_cert, ctx.config.registry_tls_key), name="registry")
    return tokens
