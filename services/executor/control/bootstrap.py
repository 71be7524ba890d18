"""Joins control's parts and subscribes its handlers."""

from __future__ import annotations

import asyncio
from typing import Any

from services.executor.control.changing import Changing
from services.executor.control.execs import Execs
from services.executor.control.forward import Forward
from services.executor.control.lifecycle import Lifecycle
from services.executor.control.peers import Peers
from services.executor.control.queries import Queries
from services.executor.control.reports import Reports
from services.executor.control.waiting import Changes
from services.executor.control.waits import Waits
from shared.bus import EMPTY, Empty
from shared.contracts import containers as contract
from shared.contracts import node
from shared.contracts.containers import (
    ContainerRef,
    CreateContainer,
    CreatedContainer,
    KillContainer,
    RemoveContainer,
    StartContainer,
    StopContainer,
)
from shared.errors import Internal
from shared.service import ServiceContext


class Verbs:
    """Life-cycle verbs as bus handlers."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    async def create(self, request: CreateContainer) -> CreatedContainer:
        return await self._lifecycle.create(request)

    async def start(self, request: StartContainer) -> Empty:
        await self._lifecycle.start(request.ref)
        return EMPTY

    async def stop(self, request: StopContainer) -> Empty:
        await self._lifecycle.stop(request)
        return EMPTY

    async def restart(self, request: StopContainer) -> Empty:
        await self._lifecycle.restart(request)
        return EMPTY

    async def kill(self, request: KillContainer) -> Empty:
        await self._lifecycle.kill(request.ref, request.signal)
        return EMPTY

    async def pause(self, request: ContainerRef) -> Empty:
        await self._lifecycle.pause(request.ref)
        return EMPTY

    async def unpause(self, request: ContainerRef) -> Empty:
        await self._lifecycle.unpause(request.ref)
        return EMPTY

    async def remove(self, request: RemoveContainer) -> Empty:
        await self._lifecycle.remove(request)
        return EMPTY


async def start(ctx: ServiceContext) -> None:
    """Serve every contract of control."""
    if ctx.database is None:
        raise Internal("control needs a database")
    changes = Changes(ctx.bus)
    await changes.start()
    lifecycle = Lifecycle(ctx.database, Peers(ctx.bus), changes, ctx.config, ctx.node, ctx.clock, ctx.spawn)
    verbs, queries, execs = Verbs(lifecycle), Queries(lifecycle), Execs(lifecycle)
    forward, changing = Forward(lifecycle), Changing(lifecycle)
    waits, reports = Waits(lifecycle), Reports(lifecycle)
    served: list[tuple[Any, Any]] = [
        (contract.CREATE, verbs.create),
        (contract.START, verbs.start),
        (contract.STOP, verbs.stop),
        (contract.RESTART, verbs.restart),
        (contract.KILL, verbs.kill),
        (contract.PAUSE, verbs.pause),
        (contract.UNPAUSE, verbs.unpause),
        (contract.REMOVE, verbs.remove),
        (contract.RENAME, changing.rename),
        (contract.UPDATE, changing.update),
        (contract.CONNECT, changing.connect),
        (contract.DISCONNECT, changing.disconnect),
        (contract.COMMIT, changing.commit),
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
        (contract.STAT_PATH, forward.stat_path),
        (contract.GET_ARCHIVE, forward.get_archive),
        (contract.PUT_ARCHIVE, forward.put_archive),
        (contract.EXPORT, forward.export),
        (contract.CHANGES, forward.changes),
        (contract.EXEC_CREATE, execs.create),
        (contract.EXEC_START, execs.start),
        (contract.EXEC_INSPECT, execs.inspect),
        (contract.EXEC_RESIZE, execs.resize),
        (node.REPORT, reports.container),
        (node.REPORT_EXEC, reports.exec),
        (node.INVENTORY, reports.inventory),
    ]
    await asyncio.gather(*(ctx.bus.serve(one, handler) for one, handler in served))
