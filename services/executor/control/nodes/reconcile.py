"""Both sides agree again: the node is right about what runs, control about what should.

Three things a crash or a silent node leaves behind are found here: exits, also of execs, and starts that never were
reported (by the node's inventory), removals cut short, and endpoints and volumes kept for containers that do not need
them (by a sweep that runs once in a cluster).
"""

from __future__ import annotations

import asyncio
import logging

from services.executor.control.domain import Record
from services.executor.control.life.ending import Ending
from services.executor.control.life.endpoints import Endpoints
from services.executor.control.life.execs import KILLED, Execs
from services.executor.control.life.removing import Removing
from services.executor.control.life.starting import UNTOUCHED_NS
from services.executor.control.nodes.registry import Nodes
from services.executor.control.peers import Peers
from services.executor.control.state import sql
from services.executor.control.state.records import Records
from shared.bus.context import check_node
from shared.contracts.node import ExitRecord, Inventory, InventoryAnswer, InventoryItem
from shared.docker.moments import parse_rfc3339_ns
from shared.errors import Conflict, DavitError, NotFound, NotModified
from shared.events.record import DomainEvent
from shared.state.reserve import spend

log = logging.getLogger(__name__)

SECOND_NS = 1_000_000_000
GONE_EXIT_CODE = 255
# A start or an exit younger than this is left to the request or report that is bringing it.
SETTLING_NS = 5 * SECOND_NS
SWEEP_PERIOD_S = 30.0
# How long the exit code of a removed container is kept for those who wait for it.
TOMBSTONE_NS = 600 * SECOND_NS
# How long an exec that has ended can be inspected; Docker forgets it after five to ten minutes.
ENDED_EXEC_NS = 600 * SECOND_NS
# A create holds its volumes before its record is committed, within the contract's deadline of a minute.
CREATE_WITHIN_NS = 120 * SECOND_NS


class Reconciler:
    """Handler of the inventory, and the sweep."""

    def __init__(
        self,
        records: Records,
        peers: Peers,
        nodes: Nodes,
        ending: Ending,
        removing: Removing,
        endpoints: Endpoints,
        execs: Execs,
    ) -> None:
        self._records = records
        self._peers = peers
        self._nodes = nodes
        self._ending = ending
        self._removing = removing
        self._endpoints = endpoints
        self._execs = execs
        self._strangers_since: dict[str, int] = {}
        self._nobodys_since: dict[str, int] = {}

    # Inventory

    async def inventory(self, inventory: Inventory) -> InventoryAnswer:
        """Settle what differs; answer which containers the node should forget."""
        check_node(inventory.node)
        check_node(inventory.facts.node)
        await self._nodes.heard(inventory.facts)
        async with self._records.database.read() as reader:
            known = await sql.states(reader, inventory.node)
        items = {item.id: item for item in inventory.items}
        taken_ns = _nanoseconds(inventory.facts.seen_at) or self._records.clock.time_ns()
        for container_id, state in known.items():
            if state.changed_ns > taken_ns - SETTLING_NS:
                continue
            item = items.get(container_id)
            if not _agree(state.status, state.generation, item):
                await self._settle(container_id, item)
            elif state.holding and state.generation > 0 and state.status in ("created", "exited", "dead"):
                # Its end is known to both, and whoever committed it was killed before it had released this.
                self._endpoints.let_go_of(container_id, state.generation)
        if inventory.execs is not None:
            await self._settle_execs(inventory.node, set(inventory.execs), taken_ns - SETTLING_NS)
        return InventoryAnswer(remove=await self._unwanted(inventory.node, items, set(known)))

    async def _settle_execs(self, node: str, there: set[str], before_ns: int) -> None:
        """Execs that the node has nothing of any more: whoever watched them was killed with them."""
        async with self._records.database.read() as reader:
            running = await sql.running_execs(reader, node, before_ns)
        for exec_id in running - there:
            await self._execs.ended(exec_id, KILLED)

    async def _unwanted(self, node: str, items: dict[str, InventoryItem], known: set[str]) -> list[str]:
        """Containers that the node has and control does not, and that are known to be leftovers.

        Others are left alone: a database that was lost or restored must not cost anybody's container its life.
        """
        strangers = {one: item for one, item in items.items() if one not in known}
        if not strangers:
            return []
        async with self._records.database.read() as reader:
            buried = await sql.buried(reader, set(strangers))
            on_record = await sql.nodes_of(reader, list(strangers))
            still = strangers.keys() - on_record.keys()
        now = self._records.clock.time_ns()
        self._strangers_since = {one: self._strangers_since.get(one, now) for one in still}
        # Started again on another node, when this one was taken for lost.
        unwanted = [one for one, where in on_record.items() if where != node]
        for one in still:
            abandoned = strangers[one].status == "created" and now - self._strangers_since[one] > SETTLING_NS
            if one in buried or abandoned:
                unwanted.append(one)
            elif strangers[one].status != "created":
                log.warning("node has container %s (%s), which is in no record", one, strangers[one].status)
        return unwanted

    async def _settle(self, container_id: str, item: InventoryItem | None) -> None:
        record = await self._records.get(container_id)
        if record is None:
            return
        try:
            await self._agree_with_node(record, item)
        except (NotModified, NotFound, Conflict) as error:
            log.debug("container %s has settled by itself: %s", container_id[:12], error)
        except DavitError as error:
            log.warning("container %s not reconciled yet: %s", container_id[:12], error)

    async def _agree_with_node(self, record: Record, item: InventoryItem | None) -> None:
        if record.status == "removing":
            self._removing.finish_soon(record)
        elif item is None:
            if record.alive:
                await self._ending.exited(self._lost(record))
        elif item.status in ("running", "paused"):
            await self._found_running(record, item)
        elif item.status == "exited" and item.exit is not None:
            await self._ending.exited(item.exit, restart_count=item.restart_count, node=record.node)
        elif item.status == "restarting" and item.exit is not None:
            await self._ending.exited(item.exit, restarting=True, restart_count=item.restart_count, node=record.node)

    def _lost(self, record: Record) -> ExitRecord:
        """The end of a container that its node does not know any more."""
        return ExitRecord(
            id=record.id,
            generation=record.generation,
            exit_code=GONE_EXIT_CODE,
            started_at_ns=record.started_ns,
            finished_at_ns=self._records.clock.time_ns(),
            error="the node does not know this container any more",
        )

    async def _found_running(self, record: Record, item: InventoryItem) -> None:
        """A start, or a pause, whose commit was cut off: it happened."""
        joined = None
        if item.generation > record.generation and record.requested_networks:
            joined = await self._peers.join(record, item.generation)

        def apply(current: Record) -> list[DomainEvent]:
            events = []
            if not current.alive or item.generation > current.generation or item.started_at_ns > current.started_ns:
                if item.started_at_ns <= current.last_exit_ns or item.generation < current.generation:
                    raise NotModified("it has ended since")
                current.container.generation, current.start_key = item.generation, item.start_key
                current.container.restart_count = item.restart_count
                if joined is not None:
                    current.take(joined)
                started = current.started(item.pid, item.started_at_ns)
                started.cause = f"it was found running on node {current.container.node}"
                events.append(started)
            if item.status != current.status and current.status in ("running", "paused"):
                current.become("paused" if item.status == "paused" else "running")
                events.append(current.event("pause" if item.status == "paused" else "unpause"))
            return events

        await self._records.change(record, apply)

    # Sweep

    async def sweep_for_ever(self) -> None:
        while True:
            try:
                with spend():
                    await self.sweep()
            except DavitError as error:
                log.warning("the sweep stopped half-way: %s", error)
            await asyncio.sleep(SWEEP_PERIOD_S)

    async def sweep(self) -> None:
        """Finish what was cut short long enough ago that nobody can still be at it."""
        now = self._records.clock.time_ns()
        async with self._records.database.read() as reader:
            unfinished = await sql.unfinished_removals(reader, now - CREATE_WITHIN_NS)
            holders = await sql.forgotten_holders(reader, now - 2 * UNTOUCHED_NS)
        for record in unfinished:
            self._removing.finish_soon(record)
        for container_id, generation in holders.items():
            await self._peers.leave(container_id)
            async with self._records.database.transaction() as tx:
                await sql.released(tx, {container_id: generation})
        async with self._records.database.transaction() as tx:
            await sql.forget_tombstones(tx, now - TOMBSTONE_NS)
            await sql.forget_execs(tx, now - ENDED_EXEC_NS)
        await self._release_volumes_of_nobody(now)

    async def _release_volumes_of_nobody(self, now_ns: int) -> None:
        """Volumes held by containers that were never committed. Anonymous ones are left for a prune to take."""
        held = {one for volume in await self._peers.volumes() for one in volume.in_use_by}
        async with self._records.database.read() as reader:
            nobody = held - await sql.all_ids(reader)
        self._nobodys_since = {one: self._nobodys_since.get(one, now_ns) for one in nobody}
        for one in nobody:
            if now_ns - self._nobodys_since[one] > CREATE_WITHIN_NS:
                await self._peers.release_volumes(one, remove_anonymous=False)


def _agree(status: str, generation: int, item: InventoryItem | None) -> bool:
    """Whether record and node say the same, as far as that can be seen without reading the record."""
    if status == "removing":
        return False
    if item is None:
        return status not in ("running", "paused", "restarting")
    if item.generation > generation:
        return item.status == "created"
    if item.generation < generation:
        return status not in ("running", "paused", "restarting")
    return item.status == status or (item.status == "exited" and status == "created")


def _nanoseconds(moment: str) -> int:
    """Nanoseconds since the epoch of an RFC 3339 time; 0 for none."""
    return parse_rfc3339_ns(moment) if moment else 0
