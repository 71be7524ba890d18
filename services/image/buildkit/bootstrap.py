"""The process that serves builds: a copy of the image service that only builds, and ends when nobody is connected."""

from __future__ import annotations

import asyncio
import socket

from grpclib.health.service import Health

from services.image.archives.importing import Importer
from services.image.archives.saving import Saver
from services.image.build.images import DepotImages
from services.image.build.steps.executor import BusExecutor
from services.image.build.workdirs import WorkDirectories
from services.image.buildkit.bridge import Bridge
from services.image.buildkit.builds import Builds
from services.image.buildkit.contexts import Contexts
from services.image.buildkit.control import Control
from services.image.buildkit.door import Door
from services.image.buildkit.history import History
from services.image.buildkit.kitchen import Kitchen
from services.image.buildkit.sessions import Sessions
from services.image.buildkit.transport import EngineServer
from services.image.buildkit.usage import Usage
from services.image.catalog.depot import Depot
from services.image.jobs import Jobs
from services.image.sql.catalog import SqlCatalog
from services.image.store.content import ContentStore
from shared.config import ProcessSettings
from shared.contracts.builds import socket_path
from shared.errors import Unavailable
from shared.layers.store import LayerStore
from shared.service import ServiceContext

# How long the process waits for another client. People build again soon, and a start takes half a second.
LINGER_S = 30.0
GATEWAY = "172.17.0.1"


async def start(ctx: ServiceContext) -> None:
    """Serve clients of BuildKit's protocol."""
    listener = inherited(ctx)
    content = ContentStore(ctx.config.data_root / "images")
    layers = LayerStore(ctx.config.data_root / "layers")
    jobs = Jobs()
    depot = Depot(SqlCatalog(ctx.required_database), content, layers, jobs)
    await asyncio.to_thread(content.prepare)
    await asyncio.to_thread(layers.prepare)
    await asyncio.to_thread(depot.presence.begin)
    directories = WorkDirectories(ctx.config.data_root / "build", ctx.config.run_dir / "build")
    kitchen = Kitchen(
        DepotImages(depot, Importer(depot, ctx.bus, ctx.clock), ctx.bus, ctx.clock),
        BusExecutor(ctx.bus),
        directories,
        Contexts(ctx.config.data_root / "build" / "contexts"),
        Sessions(),
        Saver(depot, ctx.bus),
        ctx.bus,
    )
    for container_id in await asyncio.to_thread(directories.prepare):
        jobs.start(kitchen.executor.remove(container_id), "remove a container of a build that a crash ended")
    builds = Builds(kitchen)
    usage = Usage(ctx.bus, kitchen.contexts)
    history = History(ctx.config.data_root / "build" / "history", builds)
    server = EngineServer(
        [Control(builds, usage, history, ctx.node, GATEWAY), Bridge(builds, ctx.node, GATEWAY), Health()]
    )
    door = Door(server, kitchen.sessions)
    served = await asyncio.get_running_loop().create_unix_server(door.protocol, sock=listener)

    async def close() -> None:
        served.close()
        await builds.close()

    ctx.on_close(jobs.close)
    ctx.on_close(close)
    ctx.spawn(depot.settle_for_ever(), name="settle")
    ctx.spawn(end_when_idle(ctx, door), name="idle")


def inherited(ctx: ServiceContext) -> socket.socket:
    """The listening socket, from whoever starts this process on demand.

    Raises:
        Unavailable: There is none: the process is not started by hand.
    """
    host = f"unix://{socket_path(ctx.config.run_dir)}"
    settings = ProcessSettings.load()
    descriptor = settings.listen_fds.get(host, settings.activated_fd)
    if descriptor is None:
        raise Unavailable(f"no socket was handed over for {host}: this process is started on demand")
    return socket.socket(fileno=descriptor)


async def end_when_idle(ctx: ServiceContext, door: Door) -> None:
    """Stop the process once nobody has been connected for a while.

    A client that connects at that moment waits in the socket's queue, and for the next process.
    """
    await door.idle(LINGER_S)
    ctx.log.info("no builds: stopping")
    ctx.stop()
