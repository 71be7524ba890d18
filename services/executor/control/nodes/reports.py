"""What nodes report, applied to the records."""

from __future__ import annotations

from services.executor.control.domain import Record
from services.executor.control.life.ending import Ending
from services.executor.control.life.execs import Execs
from services.executor.control.state.records import Records
from shared.bus.client import EMPTY, Empty
from shared.bus.context import check_node
from shared.contracts.node import ContainerReport, ExecReport
from shared.errors import NotFound, NotModified
from shared.events.record import DomainEvent


class Reports:
    """Handlers of the node's reports: each may come twice, and changes something once."""

    def __init__(self, records: Records, ending: Ending, execs: Execs) -> None:
        self._records = records
        self._ending = ending
        self._execs = execs

    async def container(self, report: ContainerReport) -> Empty:
        check_node(report.node)
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
        record = await self._records.get(report.id)
        if record is None:
            raise NotFound(f"No such container: {report.id}")
        record.check_node(report.node)
        return record

    async def _exited(self, report: ContainerReport) -> None:
        if report.exit is None:
            return
        await self._ending.exited(
            report.exit,
            restarting=report.kind == "restarting",
            restart_count=report.restart_count,
            node=report.node,
        )

    async def _started(self, report: ContainerReport) -> None:
        """Started again by policy."""

        def apply(current: Record) -> list[DomainEvent]:
            if report.generation != current.generation or report.started_at_ns <= current.started_ns:
                raise NotModified("this start is known")
            if current.status == "removing":
                raise NotModified("it is being removed")
            current.container.restart_count = report.restart_count
            cause = current.restart_cause()
            started = current.started(report.pid, report.started_at_ns)
            started.cause = cause
            return [started]

        await self._records.change(await self._record(report), apply)

    async def _oom(self, report: ContainerReport) -> None:
        def apply(current: Record) -> list[DomainEvent]:
            if report.generation != current.generation or current.container.state.oom_killed:
                raise NotModified("this is known")
            current.container.state.oom_killed = True
            return [current.event("oom")]

        await self._records.change(await self._record(report), apply)

    async def _health(self, report: ContainerReport) -> None:
        def apply(current: Record) -> list[DomainEvent]:
            if current.health_reported(report):
                return [current.event(f"health_status: {report.health_status}")]
            return []

        await self._records.change(await self._record(report), apply)

    async def exec(self, report: ExecReport) -> Empty:
        check_node(report.node)
        await self._execs.ended(report.id, report.exit_code, node=report.node)
        return EMPTY
