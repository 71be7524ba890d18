"""Joins control's parts and subscribes its handlers."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from services.executor.control.cluster.bootstrap import cluster_parts
from services.executor.control.cluster.placing import Placing
from services.executor.control.cluster.rescheduling import Rescheduling
from services.executor.control.creation.create import Creating
from services.executor.control.creation.images import RecentImages
from services.executor.control.life.committing import Committing
from services.executor.control.life.connecting import Connecting
from services.executor.control.life.ending import Ending
from services.executor.control.life.endpoints import Endpoints
from services.executor.control.life.execs import Execs
from services.executor.control.life.forward import Forward
from services.executor.control.life.removing import Removing
from services.executor.control.life.starting import Starting
from services.executor.control.life.updating import Changing
from services.executor.control.life.waiting import Changes
from services.executor.control.life.waits import Waits
from services.executor.control.nodes.reconcile import Reconciler
from services.executor.control.nodes.registry import Nodes
from services.executor.control.nodes.reports import Reports
from services.executor.control.peers import Peers
from services.executor.control.reads.queries import Queries
from services.executor.control.state.records import Records
from shared.bus.client import ANY_NODE, EMPTY, Empty
from shared.bus.leases import Lease
from shared.contracts import containers as contract
from shared.contracts import node
from shared.contracts.containers import (
    ContainerRef,
    KillContainer,
    RemoveContainer,
    StartContainer,
    StopContainer,
)
from shared.service import ServiceContext
from shared.state.mark import mark_of


class Verbs:
    """Life-cycle verbs as bus handlers: those whose answer is only that it is done."""

    def __init__(self, starting: Starting, ending: Ending) -> None:
        self._starting = starting
        self._ending = ending

    async def start(self, request: StartContainer) -> Empty:
        await self._starting.start(request.ref, request.key)
        return EMPTY

    async def stop(self, request: StopContainer) -> Empty:
        await self._ending.stop(request)
        return EMPTY

    async def restart(self, request: StopContainer) -> Empty:
        await self._ending.restart(request)
        return EMPTY

    async def kill(self, request: KillContainer) -> Empty:
        await self._ending.kill(request)
        return EMPTY

    async def pause(self, request: ContainerRef) -> Empty:
        await self._ending.pause(request.ref)
        return EMPTY

    async def unpause(self, request: ContainerRef) -> Empty:
        await self._ending.unpause(request.ref)
        return EMPTY

    async def remove(self, request: RemoveContainer) -> Empty:
        await self._ending.remove(request)
        return EMPTY


async def start(ctx: ServiceContext) -> None:
    """Serve every contract of control."""
    peers, changes = Peers(ctx.bus), Changes(ctx.bus)
    await changes.start()
    database = ctx.required_database
    clustered = await cluster_parts(ctx)
    records, nodes = Records(database, changes, ctx.clock), Nodes(database, ctx.node, ctx.clock, clustered.liveness)
    clustered.liveness.on_change.append(nodes.changed)
    placing = Placing(records, peers, nodes, clustered.liveness)
    endpoints = Endpoints(database, peers, ctx.spawn)
    removing = Removing(records, peers, endpoints, ctx.spawn)
    starting = Starting(records, peers, endpoints, removing)
    ending = Ending(records, peers, endpoints, removing, starting)
    images = RecentImages(peers.image, mark_of(ctx.config.database, "image"), ctx.clock)
    verbs, creating = Verbs(starting, ending), Creating(records, peers, placing, images, ctx.config)
    queries, waits = Queries(records, peers, nodes), Waits(records)
    execs, forward = Execs(records, peers), Forward(records, peers)
    changing, connecting = Changing(records, peers, nodes, removing), Connecting(records, peers)
    committing = Committing(records, peers)
    reports = Reports(records, ending, execs)
    clustered.watch.on_lost.append(Rescheduling(records, endpoints, starting, placing, clustered.liveness).move_from)
    reconciler = Reconciler(records, peers, nodes, ending, removing, endpoints, execs)
    served: list[tuple[Any, Any]] = [
        (contract.CREATE, creating.create),
        (contract.START, verbs.start),
        (contract.STOP, verbs.stop),
        (contract.RESTART, verbs.restart),
        (contract.KILL, verbs.kill),
        (contract.PAUSE, verbs.pause),
        (contract.UNPAUSE, verbs.unpause),
        (contract.REMOVE, verbs.remove),
        (contract.RENAME, changing.rename),
        (contract.UPDATE, changing.update),
        (contract.CONNECT, connecting.connect),
        (contract.DISCONNECT, connecting.disconnect),
        (contract.COMMIT, committing.commit),
        (contract.PRUNE, changing.prune),
        (contract.WAIT, waits.wait),
        (contract.INSPECT, queries.inspect),
        (contract.LIST, queries.list),
        (contract.USING_IMAGE, queries.using_image),
        (contract.INFO, queries.info),
        (contract.RESIZE, forward.resize),
        (contract.TOP, forward.top),
        (contract.STATS, forward.stats),
        (contract.LOGS, forward.logs),
        (contract.ATTACH, forward.attach),
        (contract.DETACHED, forward.detached),
        (contract.STAT_PATH, forward.stat_path),
        (contract.GET_ARCHIVE, forward.get_archive),
        (contract.PUT_ARCHIVE, forward.put_archive),
        (contract.EXPORT, forward.export),
        (contract.CHANGES, forward.changes),
        (contract.EXEC_CREATE, execs.create),
        (contract.EXEC_START, execs.start),
        (contract.EXEC_INSPECT, execs.inspect),
        (contract.EXEC_RESIZE, execs.resize),
    ]
    reported: list[tuple[Any, Any]] = [
        (node.REPORT, reports.container),
        (node.REPORT_EXEC, reports.exec),
        (node.INVENTORY, reconciler.inventory),
    ]
    served += clustered.served
    reported += clustered.reported
    await asyncio.gather(
        *(ctx.bus.serve(one, handler) for one, handler in served),
        *(ctx.bus.serve(one, handler, node=ANY_NODE) for one, handler in reported),
    )
    lease = Lease(ctx.bus, "control-reconcile", f"{ctx.node}-{os.getpid()}")
    ctx.spawn(lease.hold(reconciler.sweep_for_ever), name="reconcile")
    ctx.spawn(endpoints.write_down_for_ever(), name="released endpoints")
    ctx.on_close(endpoints.close)
