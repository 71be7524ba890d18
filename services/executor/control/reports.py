"""What nodes report, applied to the records; and the inventory by which both sides agree again."""

from __future__ import annotations

import logging
import time

from services.executor.control import sql
from services.executor.control.domain import Record
from services.executor.control.lifecycle import Lifecycle
from shared.bus import EMPTY, Empty
from shared.contracts.node import ContainerReport, ExecReport, ExitRecord, Inventory, InventoryAnswer, InventoryItem
from shared.errors import Conflict, DavitError, NotFound, NotModified

log = logging.getLogger(__name__)

GONE = 255
UNKNOWN_PATIENCE_S = 5.0


class Reports:
    """Handlers of the node's reports: each may come twice, and changes something once."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._unknown_since: dict[str, float] = {}

    async def container(self, report: ContainerReport) -> Empty:
        try:
            match report.kind:
                case "exited" | "restarting":
                    await self._exited(report)
                case "started":
                    await self._started(report)
                case "oom":
                    await self._oom(report)
                case "health":
                    await self._health(report)
        except (NotModified, NotFound):
            return EMPTY
        return EMPTY

    async def _record(self, report: ContainerReport) -> Record:
        return await self._lifecycle.find(report.id)

    async def _exited(self, report: ContainerReport) -> None:
        if report.exit is None:
            return
        await self._lifecycle.exited(
            report.id, report.exit, restarting=report.kind == "restarting", restart_count=report.restart_count
        )

    async def _started(self, report: ContainerReport) -> None:
        """Started again by policy."""

        def apply(current: Record) -> None:
            if report.generation != current.container.generation or report.started_at_ns <= current.started_ns:
                raise NotModified("this start is known")
            if current.removing:
                raise NotModified("it is being removed")
            current.started(report.pid, report.started_at_ns)
            current.container.restart_count = report.restart_count

        await self._lifecycle.change(await self._record(report), apply, "start")

    async def _oom(self, report: ContainerReport) -> None:
        def apply(current: Record) -> None:
            if report.generation != current.container.generation or current.container.state.oom_killed:
                raise NotModified("this is known")
            current.container.state.oom_killed = True

        await self._lifecycle.change(await self._record(report), apply, "oom")

    async def _health(self, report: ContainerReport) -> None:
        record = await self._record(report)
        before = record.container.state.health.status if record.container.state.health else ""
        actions = [f"health_status: {report.health_status}"] if before != report.health_status else []

        def apply(current: Record) -> None:
            current.health_reported(report)

        await self._lifecycle.change(record, apply, *actions)

    async def exec(self, report: ExecReport) -> Empty:
        async with self._lifecycle.database.transaction() as tx:
            try:
                item = await sql.find_exec(tx, report.id)
            except NotFound:  # its container has been removed
                return EMPTY
            if item.exit_code is not None:
                return EMPTY
            item.running, item.exit_code, item.pid = False, report.exit_code, 0
            await sql.save_exec(tx, item)
            record = await sql.by_id(tx, item.container_id)
            if record is not None:
                tx.emit(record.event("exec_die", execID=item.id, exitCode=str(report.exit_code)))
        return EMPTY

    # Inventory

    async def inventory(self, inventory: Inventory) -> InventoryAnswer:
        async with self._lifecycle.database.transaction() as tx:
            await sql.save_node(tx, inventory.facts, time.time_ns())
        async with self._lifecycle.database.read() as reader:
            records = {record.id: record for record in await sql.records(reader, inventory.node)}
        items = {item.id: item for item in inventory.items}
        for record in records.values():
            try:
                await self._settle(record, items.get(record.id))
            except (NotModified, NotFound, Conflict):
                continue
            except DavitError as error:
                log.warning("container %s not reconciled yet: %s", record.id[:12], error)
        return InventoryAnswer(remove=self._strangers(set(items) - set(records)))

    def _strangers(self, unknown: set[str]) -> list[str]:
        """Ids to remove: unknown for a while, since a create in progress is on the node before it is committed."""
        now = time.monotonic()
        self._unknown_since = {one: self._unknown_since.get(one, now) for one in unknown}
        return [one for one, since in self._unknown_since.items() if now - since > UNKNOWN_PATIENCE_S]

    async def _settle(self, record: Record, item: InventoryItem | None) -> None:
        """Make the record agree with the node, which is right about what runs."""
        if record.removing:
            await self._lifecycle.remove_record(record, volumes=record.remove_volumes)
            return
        if item is None:
            if record.alive:
                now = time.time_ns()
                gone = ExitRecord(
                    id=record.id, generation=record.container.generation, exit_code=GONE, finished_at_ns=now,
                    started_at_ns=record.started_ns, error="the node does not know this container any more",
                )  # fmt: skip
                await self._lifecycle.exited(record.id, gone, restarting=False, restart_count=0)
            return
        if item.generation < record.container.generation:
            return
        if item.status in ("running", "paused") and (not record.alive or item.generation > record.container.generation):
            await self._found_running(record, item)
        elif item.status == "exited" and record.alive and item.exit is not None:
            await self._lifecycle.exited(record.id, item.exit, restarting=False, restart_count=item.restart_count)

    async def _found_running(self, record: Record, item: InventoryItem) -> None:
        """A start whose commit was cut off: it happened."""

        def apply(current: Record) -> None:
            if current.alive and current.container.generation >= item.generation:
                raise NotModified("this start is known")
            if item.started_at_ns <= current.last_exit_ns:
                raise NotModified("it has ended since")
            current.container.generation = item.generation
            current.started(item.pid, item.started_at_ns)

        await self._lifecycle.change(record, apply, "start")
