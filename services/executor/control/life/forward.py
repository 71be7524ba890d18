"""Requests that control resolves and hands to the container's node; bytes then flow past control."""

from __future__ import annotations

from services.executor.control.creation.validate import check_terminal_size
from services.executor.control.domain import Record
from services.executor.control.life.ending import check_runs
from services.executor.control.peers import Peers
from services.executor.control.state.records import Records
from shared.bus.client import EMPTY, Empty
from shared.contracts import node
from shared.contracts.containers import (
    ArchivePath,
    Attach,
    AttachInfo,
    Changes,
    ContainerRef,
    Detached,
    Export,
    GetArchive,
    Logs,
    PathStat,
    PutArchive,
    ResizeContainer,
    Stats,
    StatsResult,
    Top,
    TopResult,
)
from shared.contracts.node import (
    AttachOrder,
    ContainerId,
    ExportOrder,
    GetArchiveOrder,
    LogOrder,
    PathOrder,
    PutArchiveOrder,
    ResizeOrder,
    StatsOrder,
    TopOrder,
)
from shared.errors import Conflict, InvalidArgument


class Forward:
    """Handlers that end in one order to a node."""

    def __init__(self, records: Records, peers: Peers) -> None:
        self._records = records
        self._peers = peers
        self._bus = peers.bus

    async def _with_files(self, ref: str) -> Record:
        """A container whose files the node can reach, also before its first start."""
        record = await self._records.find_settled(ref)
        if record.generation == 0:
            await self._peers.prepare(record)
        return record

    async def logs(self, request: Logs) -> AttachInfo:
        record = await self._records.find(request.ref)
        if record.log_driver == "none":
            raise InvalidArgument("configured logging driver does not support reading")
        await self._bus.request(node.LOGS, LogOrder(id=record.id, request=request), node=record.node)
        return AttachInfo(tty=record.container.config.tty)

    async def attach(self, request: Attach) -> AttachInfo:
        record = await self._records.find(request.ref)
        if record.status == "paused":
            raise Conflict(f"container {record.id} is paused, unpause the container before attach")
        if record.status == "removing":
            raise Conflict(f"container {record.id} is being removed")
        if request.stdin and not record.container.config.open_stdin:
            request = request.model_copy(update={"stdin": False})
        order = AttachOrder(id=record.id, request=request)
        attached = await self._bus.request(node.ATTACH, order, node=record.node)
        if request.stream_output:  # else it was only a replay of the log
            await self._records.note(record.event("attach"))
        return AttachInfo(
            tty=record.container.config.tty, position="" if record.log_driver == "none" else attached.position
        )

    async def detached(self, request: Detached) -> Empty:
        record = await self._records.find(request.ref)
        event = record.event("exec_detach", execID=request.exec_id) if request.exec_id else record.event("detach")
        await self._records.note(event)
        return EMPTY

    async def resize(self, request: ResizeContainer) -> Empty:
        check_terminal_size(request.height, request.width, "h", "w")
        record = await self._records.find_settled(request.ref)
        if record.status != "running":
            raise Conflict(f"cannot resize a stopped container: {record.id}")
        order = ResizeOrder(id=record.id, height=request.height, width=request.width)
        await self._bus.request(node.RESIZE, order, node=record.node)
        await self._records.note(record.event("resize", height=str(request.height), width=str(request.width)))
        return EMPTY

    async def top(self, request: Top) -> TopResult:
        record = await self._records.find_settled(request.ref)
        check_runs(record)
        result = await self._bus.request(node.TOP, TopOrder(id=record.id, ps_args=request.ps_args), node=record.node)
        await self._records.note(record.event("top"))
        return result

    async def stats(self, request: Stats) -> StatsResult:
        record = await self._records.find_settled(request.ref)
        if record.status not in ("running", "paused"):
            return StatsResult(stats=_no_stats(record))
        order = StatsOrder(id=record.id, name=record.name, one_shot=request.one_shot)
        try:
            return await self._bus.request(node.STATS, order, node=record.node)
        except Conflict:  # it has just ended
            return StatsResult(stats=_no_stats(record))

    async def stat_path(self, request: ArchivePath) -> PathStat:
        record = await self._with_files(request.ref)
        order = PathOrder(id=record.id, path=request.path)
        return await self._bus.request(node.STAT_PATH, order, node=record.node)

    async def get_archive(self, request: GetArchive) -> PathStat:
        record = await self._with_files(request.ref)
        order = GetArchiveOrder(id=record.id, path=request.path, stream=request.stream, pipe=request.pipe)
        found = await self._bus.request(node.GET_ARCHIVE, order, node=record.node)
        await self._records.note(record.event("archive-path"))
        return found

    async def put_archive(self, request: PutArchive) -> Empty:
        record = await self._with_files(request.ref)
        order = PutArchiveOrder(
            id=record.id,
            path=request.path,
            stream=request.stream,
            pipe=request.pipe,
            no_overwrite_dir_non_dir=request.no_overwrite_dir_non_dir,
            copy_uid_gid=request.copy_uid_gid,
        )
        await self._bus.request(node.PUT_ARCHIVE, order, node=record.node)
        await self._records.note(record.event("extract-to-dir"))
        return EMPTY

    async def export(self, request: Export) -> Empty:
        record = await self._with_files(request.ref)
        order = ExportOrder(id=record.id, stream=request.stream, pipe=request.pipe)
        await self._bus.request(node.EXPORT, order, node=record.node)
        await self._records.note(record.event("export"))
        return EMPTY

    async def changes(self, request: ContainerRef) -> Changes:
        record = await self._with_files(request.ref)
        return await self._bus.request(node.CHANGES, ContainerId(id=record.id), node=record.node)


def _no_stats(record: Record) -> dict[str, object]:
    """What Docker answers for a container that does not run."""
    zero = "0001-01-01T00:00:00Z"
    empty_cpu = {
        "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
        "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
    }
    return {
        "name": "/" + record.name,
        "id": record.id,
        "read": zero,
        "preread": zero,
        "num_procs": 0,
        "pids_stats": {},
        "blkio_stats": {},
        "storage_stats": {},
        "cpu_stats": empty_cpu,
        "precpu_stats": empty_cpu,
        "memory_stats": {},
    }
