"""Containers with ``davit.reschedule=on-node-failure`` are started again elsewhere when their node is lost.

::

    node down ─► a node is chosen ─► its container's end, and the new node, in one commit ─► start
    node back ─► inventory ─► control: what is on record elsewhere is to be ended and removed there

A container with volumes stays: they lie on the node that is away, and what is in them is not to be left behind.
Each step finds what an earlier attempt has done, so that whoever takes over goes on.
"""

from __future__ import annotations

import logging

from services.executor.control.cluster.constraints import ON_NODE_FAILURE, RESCHEDULE
from services.executor.control.cluster.liveness import Liveness
from services.executor.control.cluster.placing import Placing
from services.executor.control.domain import Record
from services.executor.control.life.endpoints import Endpoints
from services.executor.control.life.starting import Starting
from services.executor.control.state import sql
from services.executor.control.state.records import Records
from shared.contracts.containers import CreateContainer
from shared.contracts.node import ExitRecord
from shared.errors import DavitError, NotModified
from shared.events.record import DomainEvent

log = logging.getLogger(__name__)

GONE_EXIT_CODE = 255


class Rescheduling:
    """Moves what a lost node ran, as far as that asks for it."""

    def __init__(
        self, records: Records, endpoints: Endpoints, starting: Starting, placing: Placing, liveness: Liveness
    ) -> None:
        self._records = records
        self._endpoints = endpoints
        self._starting = starting
        self._placing = placing
        self._liveness = liveness

    async def move_from(self, node: str) -> None:
        """Start the containers of a lost node elsewhere, as long as it is lost."""
        async with self._records.database.read() as reader:
            living = await sql.in_status(reader, ("running", "paused", "restarting"))
        for record in living:
            if record.node != node or record.container.config.labels.get(RESCHEDULE) != ON_NODE_FAILURE:
                continue
            if self._liveness.state(node) == "ready":
                return
            try:
                await self._move(record)
            except NotModified:
                continue
            except DavitError as error:
                log.error("container %s is not started elsewhere: %s", record.name, error)

    async def _move(self, record: Record) -> None:
        if any(mount.type == "volume" for mount in record.mounts):
            log.error("container %s stays on %s, which is lost: its volumes are there", record.name, record.node)
            return
        container = record.container
        asked = CreateContainer(config=container.config, host_config=container.host_config)
        target = await self._placing.choose(asked, without=record.node)
        exit_, before = _lost(record, self._records.clock.time_ns()), record.node

        def apply(moved: Record) -> list[DomainEvent]:
            died = moved.ended(exit_, restarting=False) if moved.node == before else None
            if died is None:
                raise NotModified("its end was reported, or somebody else has moved it")
            moved.container.node = target.node
            return [died, moved.event("reschedule", **{"node.old": before, "node.new": target.node})]

        moved = await self._records.change(record, apply)
        await self._endpoints.release(moved)
        await self._starting.launch(moved, "")
        log.info("container %s was started on %s, since %s is lost", record.name, target.node, before)


def _lost(record: Record, now_ns: int) -> ExitRecord:
    """The end of a container whose node is lost, as far as anybody can tell."""
    return ExitRecord(
        id=record.id,
        generation=record.generation,
        exit_code=GONE_EXIT_CODE,
        error=f"node {record.node} is lost",
        started_at_ns=record.started_ns,
        finished_at_ns=now_ns,
    )
