"""The life of this node's containers: start, stop, exit, restart by policy.

::

    created ──start──► starting ──► running ◄──pause/unpause──► paused
                          │            │
                    (error text)     exit ──policy──► restarting ──delay──► starting
                          ▼            ▼
                       created       exited

Every transition is written to the node's record before it is reported; control acknowledges exits.
"""

from __future__ import annotations

import asyncio
import logging
import signal as signals
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from services.executor.agent.containers.failures import translated
from services.executor.agent.containers.launch import Launcher
from services.executor.agent.containers.records import NodeRecord, NodeRecords
from services.executor.agent.containers.reports import Reporter
from services.executor.agent.containers.restart import Backoff, should_restart, should_start_at_boot
from services.executor.agent.network import NodeNetwork
from services.executor.agent.output import attach as attaching
from services.executor.agent.output.attach import AttachSpec, PendingAttach
from services.executor.agent.shims.client import ShimClient, ShimGone
from services.executor.runtime.cgroups.interface import CgroupBackend
from services.executor.runtime.errors import NotFound as ProcessEnded
from services.executor.runtime.errors import RuntimeFailure
from services.executor.runtime.shim.exitrecord import ExitRecord as ShimExit
from shared.bus.streams import ByteStream
from shared.contracts.node import ContainerOrder, ContainerReport, ExitRecord, Started
from shared.errors import Conflict, DavitError, InvalidArgument
from shared.failpoints import holdpoint

log = logging.getLogger(__name__)

GONE_EXIT_CODE = 255
# Where the API has the limits that can be updated, by where the OCI specification has them.
LIMIT_FIELDS = {
    "linux.resources.memory.limit": "Memory",
    "linux.resources.memory.swap": "MemorySwap",
    "linux.resources.memory.reservation": "MemoryReservation",
    "linux.resources.cpu.shares": "CpuShares",
    "linux.resources.cpu.quota": "CpuQuota",
    "linux.resources.cpu.period": "CpuPeriod",
    "linux.resources.cpu.realtimeRuntime": "CpuRealtimeRuntime",
    "linux.resources.cpu.realtimePeriod": "CpuRealtimePeriod",
    "linux.resources.cpu.cpus": "CpusetCpus",
    "linux.resources.cpu.mems": "CpusetMems",
    "linux.resources.pids.limit": "PidsLimit",
    "linux.resources.blockIO.weight": "BlkioWeight",
}


@dataclass(slots=True)
class Live:
    """What the agent holds of a container whose process runs."""

    shim: ShimClient
    exited: asyncio.Event = field(default_factory=asyncio.Event)


class Containers:
    """All containers of this node. One operation at a time per container."""

    def __init__(
        self,
        node: str,
        records: NodeRecords,
        launcher: Launcher,
        network: NodeNetwork,
        cgroups: CgroupBackend,
        reporter: Reporter,
        spawn: Callable[..., Any],
        *,
        default_cgroup: str = "/davit",
    ) -> None:
        self._default_cgroup = default_cgroup
        self._node = node
        self.records = records
        self._launcher = launcher
        self._network = network
        self._cgroups = cgroups
        self._reporter = reporter
        self._spawn = spawn
        self._live: dict[str, Live] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._pending: dict[str, list[PendingAttach]] = {}
        self._backoffs: dict[str, Backoff] = {}
        self._restarts: dict[str, asyncio.Task[None]] = {}
        # The engine ends: what would start again is left to the next agent.
        self.closing = False
        self.on_started: list[Callable[[NodeRecord], None]] = []
        self.on_exited: list[Callable[[NodeRecord], None]] = []

    def lock(self, container_id: str) -> asyncio.Lock:
        """Held by whoever begins, ends or changes a run of the container."""
        return self._locks.setdefault(container_id, asyncio.Lock())

    def live(self, container_id: str) -> Live:
        """Raises Conflict when the container's process does not run."""
        live = self._live.get(container_id)
        if live is None or live.exited.is_set():
            raise Conflict(f"container {container_id} is not running")
        return live

    def runs(self, container_id: str) -> bool:
        live = self._live.get(container_id)
        return live is not None and not live.exited.is_set()

    def ended(self, container_id: str) -> asyncio.Event:
        """Set once the container's process is gone; already set when it does not run."""
        live = self._live.get(container_id)
        if live is not None:
            return live.exited
        event = asyncio.Event()
        record = self.records.find(container_id)
        if record is None or record.status not in ("starting", "restarting"):
            event.set()
        return event

    def cgroup_path(self, record: NodeRecord) -> str:
        """Where it is since its start, or will be."""
        if record.cgroup:
            return record.cgroup
        parent = record.order.host_config.cgroup_parent or self._default_cgroup
        return f"/{parent.strip('/')}/{record.id}"

    # Start

    async def start(self, order: ContainerOrder) -> Started:
        """Start a container. The same generation again answers what the first call did."""
        async with self.lock(order.id):
            record = self.records.find(order.id)
            if record is not None and _has_run(record, order.generation):
                return Started(pid=record.pid, started_at_ns=record.started_at_ns)
            if record is not None and record.status in ("running", "paused", "starting"):
                raise Conflict(f"container {order.id} runs already")
            self._cancel_restart(order.id)
            self._backoffs.pop(order.id, None)
            before = record.runtime if record is not None else None
            record = NodeRecord(order=order, restart_count=order.restart_count, runtime=before)
            await self._launch(record)
            return Started(pid=record.pid, started_at_ns=record.started_at_ns)

    async def _launch(self, record: NodeRecord) -> None:
        record.status = "starting"
        if record.exit is not None and record.unreported:
            record.owed.append(record.exit)
        record.exit, record.unreported = None, False
        record.manually_stopped = False
        record.cgroup = ""
        record.cgroup = self.cgroup_path(record)
        record.run += 1
        self.records.save(record)
        waiting = self._pending.pop(record.id, [])
        await holdpoint("agent.launch.begun")
        try:
            launched = await self._launcher.launch(record, [pending.spec for pending in waiting])
        except BaseException:
            record.status = "exited"
            self.records.keep(record)
            for pending in waiting:
                pending.taken.set()
                await pending.stream.aclose()
            raise
        shim = launched.result.client
        for pending, connection in zip(waiting, launched.attached, strict=True):
            self._joined(pending, *await asyncio.open_unix_connection(sock=connection))
        record.pid = launched.result.pid
        record.shim_pid = launched.result.shim_pid
        record.started_at_ns = launched.result.started_at_ns
        record.status = "running"
        self.records.settle(record)
        self._watch(record, shim)
        for notify in self.on_started:
            notify(record)

    def _watch(self, record: NodeRecord, shim: ShimClient) -> None:
        live = Live(shim)
        self._live[record.id] = live
        shim.on_oom = lambda _count: self._report(record, "oom")
        self._spawn(self._until_exit(record.id, live), name=f"watch {record.id[:12]}")

    async def prepare(self, order: ContainerOrder) -> None:
        """Keep an order of a container that has not been started, so that its files can be reached."""
        async with self.lock(order.id):
            if self.records.find(order.id) is None:
                self.records.save(NodeRecord(order=order))

    # Exit

    async def _until_exit(self, container_id: str, live: Live) -> None:
        ended = await self._end_of(container_id, live.shim)
        await holdpoint("agent.exit.before_record")
        async with self.lock(container_id):
            record = self.records.find(container_id)
            if record is None or self._live.get(container_id) is not live:
                return
            record.exit = self._exit_record(record, ended)
            await self._after_exit(record, live)

    async def _end_of(self, container_id: str, shim: ShimClient) -> ShimExit | None:
        """How a process ended: from its shim, else from the record the shim left; None when it left none."""
        try:
            return await shim.wait()
        except ShimGone as gone:
            ended = ShimClient.read_exit_file(self.records.paths(container_id).exit)
            if ended is None:  # the shim was killed, and its process with it
                log.error("container %s: %s, and it left no exit record", container_id[:12], gone)
                await self._orphaned(container_id)
            return ended

    async def _orphaned(self, container_id: str) -> None:
        """End what is left of a container whose shim is gone: its cgroup, and what another runtime keeps running."""
        record = self.records.find(container_id)
        if record is None:
            return
        if record.runtime is not None:
            await record.runtime.delete(container_id)
        cgroup = self._cgroups.open(self.cgroup_path(record))
        if not cgroup.exists():  # the machine was started anew
            return
        try:
            await asyncio.to_thread(cgroup.kill)
            await asyncio.to_thread(cgroup.remove)
        except RuntimeFailure as failure:
            log.error("container %s: what it left could not be ended: %s", container_id[:12], failure)

    def _exit_record(self, record: NodeRecord, ended: ShimExit | None) -> ExitRecord:
        if ended is None:
            ended = ShimExit(GONE_EXIT_CODE, finished_at_ns=time.time_ns(), error="its exit was not recorded")
        return ExitRecord(
            id=record.id,
            generation=record.order.generation,
            start_key=record.order.start_key,
            exit_code=ended.exit_code,
            oom_killed=ended.oom_killed,
            started_at_ns=record.started_at_ns or ended.started_at_ns,
            finished_at_ns=ended.finished_at_ns,
            error=ended.error,
        )

    async def _after_exit(self, record: NodeRecord, live: Live | None) -> None:
        assert record.exit is not None
        policy = record.order.host_config.restart_policy
        again = should_restart(
            policy,
            exit_code=record.exit.exit_code,
            restart_count=record.restart_count,
            manually_stopped=record.manually_stopped,
        )
        record.status = "restarting" if again else "exited"
        record.pid = 0
        record.unreported = True
        if again:
            self.records.keep(record)
        else:
            self.records.settle(record)
        self._live.pop(record.id, None)
        if live is not None:
            live.exited.set()
            await live.shim.close()
        for notify in self.on_exited:
            notify(record)
        if record.exit.oom_killed:
            self._report(record, "oom")
        self._report(record, "restarting" if again else "exited", exit=record.exit)
        await self._network.release(record.id)
        if again and not self.closing:
            ran_s = (record.exit.finished_at_ns - record.exit.started_at_ns) / 1e9
            delay = self._backoffs.setdefault(record.id, Backoff()).next_delay_s(ran_s)
            self._restarts[record.id] = self._spawn(self._restart(record.id, delay), name=f"restart {record.id[:12]}")

    async def _restart(self, container_id: str, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        async with self.lock(container_id):
            record = self.records.find(container_id)
            if record is None or record.status != "restarting":
                return
            self._restarts.pop(container_id, None)
            await holdpoint("agent.restart.before_launch")
            record.restart_count += 1
            try:
                await self._launch(record)
            except Exception as error:  # the edge of this task: whatever it is, the next attempt follows by policy
                if not isinstance(error, DavitError):
                    log.exception("container %s could not be started again", container_id[:12])
                now = time.time_ns()
                record.exit = ExitRecord(
                    id=container_id,
                    generation=record.order.generation,
                    start_key=record.order.start_key,
                    exit_code=int(error.detail.get("exit_code", 128)) if isinstance(error, DavitError) else 128,
                    started_at_ns=now,
                    finished_at_ns=now,
                    error=str(error),
                )
                await self._after_exit(record, None)
                return
            self._report(record, "started")

    def _cancel_restart(self, container_id: str) -> None:
        task = self._restarts.pop(container_id, None)
        if task is not None:
            task.cancel()

    def _report(self, record: NodeRecord, kind: Any, **more: Any) -> None:
        self._reporter.send(
            ContainerReport(
                node=self._node,
                id=record.id,
                generation=record.order.generation,
                kind=kind,
                pid=record.pid,
                started_at_ns=record.started_at_ns,
                restart_count=record.restart_count,
                at_ns=time.time_ns(),
                **more,
            )
        )

    # Stop and signals

    async def stop(self, container_id: str, signal: int, timeout_s: int) -> ExitRecord:
        """Signal, wait, kill. Answers the exit, also of a container that has stopped already."""
        record, live = await self._told_to_stop(container_id)
        if live is not None:
            if record.status == "paused":
                await self.unpause(container_id)
            await self._stop_process(record, live, signal, timeout_s)
        if record.exit is None:
            raise Conflict(f"container {container_id} is not running")
        return record.exit

    async def _told_to_stop(self, container_id: str) -> tuple[NodeRecord, Live | None]:
        """No restart follows from here on, and a launch under way has had its end; its process, if there is one."""
        self.records.get(container_id).manually_stopped = True  # an exit that is being settled is the last already
        self._cancel_restart(container_id)
        async with self.lock(container_id):
            record = self.records.get(container_id)
            record.manually_stopped = True
            self._cancel_restart(container_id)
            live = self._live.get(container_id)
            if live is None and record.status == "restarting":
                self._rest(record)
            else:
                self.records.keep(record)
            return record, live

    def _rest(self, record: NodeRecord) -> None:
        """A container between two runs will have no further one."""
        record.status, record.unreported = "exited", True
        self.records.keep(record)
        self._report(record, "exited", exit=record.exit)

    async def end(self, container_id: str, signal: int, timeout_s: int) -> None:
        """Stop one that runs without taking it for stopped by a user: its restart policy stays in force.

        Raises:
            Conflict: It does not run.
        """
        record, live = self.records.get(container_id), self.live(container_id)
        if record.status == "paused":
            await self.unpause(container_id)
        await self._stop_process(record, live, signal, timeout_s)

    async def _stop_process(self, record: NodeRecord, live: Live, signal: int, timeout_s: int) -> None:
        if timeout_s != 0 or signal != signals.SIGKILL:
            await self._signal(live, signal)
        if timeout_s != 0:
            try:
                await asyncio.wait_for(live.exited.wait(), None if timeout_s < 0 else timeout_s)
            except TimeoutError:
                log.info("container %s did not stop within %d s: killing it", record.id[:12], timeout_s)
        if not live.exited.is_set():
            await self._signal(live, signals.SIGKILL)
            await live.exited.wait()

    async def _signal(self, live: Live, number: int) -> None:
        try:
            await live.shim.signal(number)
        except (ShimGone, ProcessEnded) as gone:
            log.debug("signal %d came after the end: %s", number, gone)

    async def signal(self, container_id: str, number: int, *, deliberate: bool) -> None:
        """Send a signal; of a container between two runs, any signal ends the waiting.

        Raises:
            Conflict: It does not run.
        """
        async with self.lock(container_id):
            record = self.records.get(container_id)
            if record.status == "restarting":
                self._cancel_restart(container_id)
                record.manually_stopped = True
                self._rest(record)
                return
            live = self.live(container_id)
            if deliberate:
                record.manually_stopped = True
                self.records.keep(record)
        await self._signal(live, number)
        if number == signals.SIGKILL and record.status == "paused":
            # A frozen v1 cgroup does not act on SIGKILL until it is thawed.
            with suppress(Conflict), self._while_it_runs(record):
                self._cgroups.open(self.cgroup_path(record)).thaw()

    # Pause and limits

    async def pause(self, container_id: str) -> None:
        async with self.lock(container_id):
            record = self.records.get(container_id)
            self.live(container_id)
            with self._while_it_runs(record):
                await asyncio.to_thread(self._cgroups.open(self.cgroup_path(record)).freeze)
            record.status = "paused"
            self.records.keep(record)

    async def unpause(self, container_id: str) -> None:
        async with self.lock(container_id):
            record = self.records.get(container_id)
            self.live(container_id)
            with self._while_it_runs(record):
                await asyncio.to_thread(self._cgroups.open(self.cgroup_path(record)).thaw)
            record.status = "running"
            self.records.keep(record)

    async def limit(self, record: NodeRecord, resources: dict[str, Any], before: dict[str, Any]) -> None:
        """Set limits of a container that runs, or has just ended, which has none any more.

        Raises:
            InvalidArgument: The kernel refuses a number; the limits are as `before` then.
        """
        cgroup = self._cgroups.open(self.cgroup_path(record))
        with suppress(Conflict), self._while_it_runs(record):
            try:
                await asyncio.to_thread(cgroup.apply, resources)
            except RuntimeFailure as failure:
                with suppress(RuntimeFailure):
                    await asyncio.to_thread(cgroup.apply, before)
                if failure.field is None:
                    raise
                field = LIMIT_FIELDS.get(failure.field, failure.field)
                text = f"Cannot update container {record.id}: {field}: {failure.message}"
                raise InvalidArgument(text, field=field) from failure

    @contextmanager
    def _while_it_runs(self, record: NodeRecord) -> Iterator[None]:
        """What is done to a control group inside fails with Conflict when that has gone with the process."""
        try:
            with translated():
                yield
        except DavitError as error:
            if self._cgroups.open(self.cgroup_path(record)).exists():
                raise
            raise Conflict(f"container {record.id} is not running") from error

    async def resize(self, container_id: str, height: int, width: int) -> None:
        """A container without a terminal is answered as Docker answers it: there is nothing to do."""
        live = self.live(container_id)
        if self.records.get(container_id).order.config.tty:
            with translated():
                await live.shim.resize(height, width)

    # Attach

    async def attach(self, container_id: str, spec: AttachSpec, stream: ByteStream) -> None:
        """Join a client to the container's stdio: now when it runs, or at its next start."""
        pending = PendingAttach(spec, stream)
        live = self._live.get(container_id)
        if live is None or not self.runs(container_id):
            self._pending.setdefault(container_id, []).append(pending)
            self._spawn(self._drop_when_gone(container_id, pending), name=f"attach {container_id[:12]}")
            return
        await self._join(live.shim, pending)

    async def _drop_when_gone(self, container_id: str, pending: PendingAttach) -> None:
        """Forget a client that leaves before the container starts."""
        gone = asyncio.create_task(pending.stream.gone())
        taken = asyncio.create_task(pending.taken.wait())
        try:
            await asyncio.wait({gone, taken}, return_when=asyncio.FIRST_COMPLETED)
            if not taken.done() and pending in self._pending.get(container_id, []):
                self._pending[container_id].remove(pending)
        finally:
            gone.cancel()
            taken.cancel()
            await asyncio.gather(gone, taken, return_exceptions=True)

    async def _join(self, shim: ShimClient, pending: PendingAttach) -> None:
        spec = pending.spec
        with translated():
            reader, writer = await shim.attach(stdin=spec.stdin, stdout=spec.stdout, stderr=spec.stderr)
        self._joined(pending, reader, writer)

    def _joined(self, pending: PendingAttach, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pending.taken.set()
        self._spawn(attaching.join(reader, writer, pending.stream, pending.spec), name="attached stream")

    # Remove, recover

    async def remove(self, container_id: str) -> None:
        """Delete what the node keeps. Idempotent. Raises Conflict while it runs."""
        async with self.lock(container_id):
            self._cancel_restart(container_id)
            if container_id in self._live:
                raise Conflict(f"container {container_id} is running")
            await self._network.release(container_id)
            for pending in self._pending.pop(container_id, []):
                pending.taken.set()
                await pending.stream.aclose()
            record = self.records.find(container_id)
            if record is not None and record.runtime is not None:
                await record.runtime.delete(container_id)
            self.records.forget(container_id)
            await asyncio.to_thread(self.records.delete, container_id)
            self._backoffs.pop(container_id, None)
        self._locks.pop(container_id, None)

    async def recover(self) -> None:
        """After a start of the agent: find the shims that are still there, and settle what ended meanwhile."""
        await asyncio.gather(*(self._recover(record) for record in self.records.all()))
        await self._network.settle()

    async def _recover(self, record: NodeRecord) -> None:
        for exit_ in record.owed:
            self._report(record, "restarting", exit=exit_)
        if record.status in ("created", "exited"):
            if record.unreported and record.exit is not None:
                self._report(record, "exited", exit=record.exit)
            return
        if record.status == "restarting":
            if record.unreported and record.exit is not None:
                self._report(record, "restarting", exit=record.exit)
            self._restarts[record.id] = self._spawn(self._restart(record.id, 0.0), name=f"restart {record.id[:12]}")
            return
        paths = self.records.paths(record.id)
        try:
            shim = await ShimClient.connect(paths.socket)
            state = await shim.state()
        except ShimGone:
            # After a reboot nobody can tell whether a launch came before it: the record is a second behind.
            launched = self.records.rebooted or paths.exit.exists() or paths.socket.exists()
            if record.status == "starting" and not launched:
                self._never_ran(record)
            else:
                await self._ended_meanwhile(record)
            return
        record.pid = state.pid or record.pid
        if record.status == "starting":
            record.status = "running"
            record.started_at_ns = state.started_at_ns or time.time_ns()
        self.records.keep(record)
        self._watch(record, shim)
        await self._network.adopt(record.id, record.pid, record.order.attachments, record.order.host_config.dns)
        for notify in self.on_started:
            notify(record)
        if record.owed:
            self._report(record, "started")

    def _never_ran(self, record: NodeRecord) -> None:
        """The last agent was killed between its record of a launch and the launch."""
        if record.run > 1:  # a restart by policy, which nobody will order again
            record.status, record.restart_count = "restarting", record.restart_count - 1
            self._restarts[record.id] = self._spawn(self._restart(record.id, 0.0), name=f"restart {record.id[:12]}")
        else:  # who ordered the start repeats the order
            record.status = "exited"
        self.records.keep(record)

    async def _ended_meanwhile(self, record: NodeRecord) -> None:
        ended = ShimClient.read_exit_file(self.records.paths(record.id).exit)
        rebooted = ended is None
        if rebooted:
            await self._orphaned(record.id)
        record.exit = self._exit_record(record, ended)
        if rebooted and should_start_at_boot(
            record.order.host_config.restart_policy,
            exit_code=GONE_EXIT_CODE,
            restart_count=record.restart_count,
            manually_stopped=record.manually_stopped,
        ):
            record.manually_stopped = False
        async with self.lock(record.id):
            await self._after_exit(record, None)

    def pids(self, container_id: str) -> set[int]:
        """All processes of a container, from its cgroup. Raises NotFound, Conflict."""
        record = self.records.get(container_id)
        self.live(container_id)
        with translated():
            return set(self._cgroups.open(self.cgroup_path(record)).pids())


def _has_run(record: NodeRecord, generation: int) -> bool:
    """Whether this start has been carried out already; also when the process has ended since."""
    if record.status in ("running", "paused", "starting"):
        return record.order.generation >= generation
    return record.order.generation == generation and (record.exit is not None or record.status == "restarting")
