"""Execs: created, started on the node, inspected from the database."""

from __future__ import annotations

from services.executor.control.creation.names import new_id
from services.executor.control.creation.validate import check_console_size, check_terminal_size
from services.executor.control.domain import Record
from services.executor.control.life.ending import check_runs
from services.executor.control.peers import Peers
from services.executor.control.state import sql
from services.executor.control.state.records import Records
from shared.bus.client import EMPTY, Empty
from shared.contracts import node
from shared.contracts.containers import CreateExec, Exec, ExecId, ExecRef, ExecSpec, ResizeExec, StartExec
from shared.contracts.node import ExecOrder, ResizeOrder
from shared.errors import Conflict, DavitError, DeadlineExceeded, InvalidArgument, NotFound, Unavailable, from_wire
from shared.events.record import DomainEvent

START_FAILED = "OCI runtime exec failed: exec failed: unable to start container process: "
KILLED = 137


class Execs:
    """Handlers of the exec contracts."""

    def __init__(self, records: Records, peers: Peers) -> None:
        self._records = records
        self._bus = peers.bus

    async def create(self, request: CreateExec) -> ExecId:
        if not request.cmd:
            raise InvalidArgument("No exec command specified", field="Cmd")
        check_console_size(request.console_size, "ConsoleSize")
        spec = request.model_dump(include=set(ExecSpec.model_fields) - {"ref"})
        item = Exec(id=request.id or new_id(), container_id="", **spec)
        await self._records.find_settled(request.ref)
        async with self._records.database.transaction() as tx:
            if request.repeated and await sql.has_exec(tx, item.id):
                return ExecId(id=item.id)
            record = await sql.find(tx, request.ref)
            if record.status == "paused":
                raise Conflict(f"Container {request.ref} is paused, unpause the container before exec")
            check_runs(record)
            item.container_id = record.id
            await sql.insert_exec(tx, item, self._records.clock.time_ns())
            tx.emit(record.event(f"exec_create: {' '.join(request.cmd)}", execID=item.id))
        return ExecId(id=item.id)

    async def start(self, request: StartExec) -> Empty:
        """Start it; answered when its process runs, or with why it does not."""
        check_console_size(request.console_size, "ConsoleSize")
        async with self._records.database.read() as reader:
            item = await sql.find_exec(reader, request.id)
            record = await sql.find(reader, item.container_id)
        if request.repeated and item.failure is not None:
            raise from_wire(item.failure)
        if request.repeated and item.exit_code is not None:
            return EMPTY
        _check_startable(record, item, again=request.repeated)
        spec = ExecSpec(ref=record.id, **item.model_dump(include=set(ExecSpec.model_fields) - {"ref"}))
        order = ExecOrder(
            id=item.id,
            container_id=record.id,
            spec=spec,
            detach=request.detach,
            stream=request.stream,
            console_size=request.console_size,
        )
        try:
            started = await self._bus.request(node.EXEC_START, order, node=record.node)
        except (Unavailable, DeadlineExceeded):
            raise  # whether it runs is unknown: its exit tells
        except DavitError as error:
            told = error
            if "exit_code" in error.detail:
                told = InvalidArgument(f"{START_FAILED}{_reason(error.message)}: unknown", **error.detail)
            await self._failed(record, item.id, told)
            raise told from error
        async with self._records.database.transaction() as tx:
            current = await sql.find_exec(tx, item.id)
            if current.exit_code is None and not current.running:  # else that is known, and also that it has ended
                current.running, current.started, current.pid = True, True, started.pid
                tx.emit(_start_event(record, current))
                await sql.save_exec(tx, current, self._records.clock.time_ns())
        return EMPTY

    async def _failed(self, record: Record, exec_id: str, error: DavitError) -> None:
        code = int(error.detail.get("exit_code", 126))
        async with self._records.database.transaction() as tx:
            current = await sql.find_exec(tx, exec_id)
            current.running, current.started, current.exit_code = False, True, code
            current.failure = error.to_wire()
            tx.emit(_start_event(record, current))  # it was tried: Docker says so too
            await sql.save_exec(tx, current, self._records.clock.time_ns())

    async def ended(self, exec_id: str, exit_code: int, *, node: str = "") -> None:
        """Its process is gone. Told twice, it changes nothing; nor when its container has been removed.

        Args:
            node: The node that reports it; empty when control itself found it out.

        Raises:
            Forbidden: Its container is not on that node.
        """
        async with self._records.database.transaction() as tx:
            try:
                item = await sql.find_exec(tx, exec_id)
            except NotFound:
                return
            if item.exit_code is not None:
                return
            record = await sql.by_id(tx, item.container_id)
            if record is not None and node:
                record.check_node(node)
            untold = not (item.started or item.running)
            item.running, item.started, item.exit_code, item.pid = False, True, exit_code, 0
            await sql.save_exec(tx, item, self._records.clock.time_ns())
            if record is not None:
                if untold:  # it ended before its start was committed
                    tx.emit(_start_event(record, item))
                tx.emit(record.event("exec_die", execID=item.id, exitCode=str(exit_code)))

    async def inspect(self, request: ExecRef) -> Exec:
        async with self._records.database.read() as reader:
            item = await sql.find_exec(reader, request.id)
            if item.running:
                record = await sql.by_id(reader, item.container_id)
                if record is None or not record.alive:
                    # Its process died with the container, whose end may be known before the exec's is reported.
                    item.running, item.exit_code, item.pid = False, KILLED, 0
        return item

    async def resize(self, request: ResizeExec) -> Empty:
        check_terminal_size(request.height, request.width, "h", "w")
        async with self._records.database.read() as reader:
            item = await sql.find_exec(reader, request.id)
            record = await sql.find(reader, item.container_id)
        order = ResizeOrder(id=record.id, exec_id=item.id, height=request.height, width=request.width)
        await self._bus.request(node.RESIZE, order, node=record.node)
        return EMPTY


def _check_startable(record: Record, item: Exec, *, again: bool) -> None:
    """Raises Conflict."""
    if record.status == "paused":
        raise Conflict(f"Container {record.id} is paused, unpause the container before exec")
    if item.running and not again:
        raise Conflict(f"Error: Exec command {item.id} is already running")
    if item.exit_code is not None:
        raise Conflict(f"Error: Exec command {item.id} has already run")
    check_runs(record)


def _start_event(record: Record, item: Exec) -> DomainEvent:
    """Recorded with the outcome of the order, or with the exit when that is known first."""
    return record.event(f"exec_start: {' '.join(item.cmd)}", execID=item.id)


def _reason(text: str) -> str:
    """The node's own reason, without what a container start puts before it."""
    return text.rpartition("unable to start container process: ")[2]
