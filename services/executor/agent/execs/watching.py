"""Execs: further processes in a running container, watched until control knows of their ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from services.executor.agent.containers.failures import translated
from services.executor.agent.containers.records import ExecPaths, NodeRecords
from services.executor.agent.containers.reports import Reporter
from services.executor.agent.execs.launch import ExecLauncher
from services.executor.agent.output import attach as attaching
from services.executor.agent.output.attach import AttachSpec
from services.executor.agent.shims.client import ShimClient, ShimGone
from services.executor.agent.shims.zygote import LaunchResult
from services.executor.runtime.shim.exitrecord import ExitRecord
from shared.bus.client import Bus
from shared.bus.streams import StreamRef, accept
from shared.contracts.node import ExecOrder, ExecReport, Started
from shared.errors import NotFound

KILLED = 137
TELL_AGAIN_S = 5.0


class Execs:
    """Starts execs and keeps their shims until they end."""

    def __init__(
        self,
        node: str,
        bus: Bus,
        records: NodeRecords,
        launcher: ExecLauncher,
        reporter: Reporter,
        spawn: Callable[..., Any],
    ) -> None:
        self._node = node
        self._bus = bus
        self._records = records
        self._launcher = launcher
        self._reporter = reporter
        self._spawn = spawn
        self._shims: dict[str, ShimClient] = {}
        self._answers: dict[str, Started] = {}
        self._starting: dict[str, asyncio.Lock] = {}

    def running(self) -> list[str]:
        """Ids of the execs that run, and of those whose end control has yet to acknowledge."""
        return list(self._shims)

    def _paths(self, exec_id: str, container_id: str) -> ExecPaths:
        return self._records.exec_paths(container_id, exec_id)

    async def start(self, order: ExecOrder) -> Started:
        """Start an exec. Its output goes to the order's stream; its exit is reported before the stream ends.

        The same exec again is answered as before: control was killed over the first order. The first one's stream is
        the one that counts then.
        """
        lock = self._starting.setdefault(order.id, asyncio.Lock())
        try:
            async with lock:
                if order.id not in self._answers:
                    self._answers[order.id] = await self._start(order)
                return self._answers[order.id]
        finally:
            if not lock.locked():
                self._starting.pop(order.id, None)

    async def _start(self, order: ExecOrder) -> Started:
        paths = self._paths(order.id, order.container_id)
        request = self._launcher.order(order.container_id, order.id, order.spec, paths, order.console_size)
        if order.stream is None or order.detach:
            result = await self._launcher.launch(request)
            self._watch(order.id, order.container_id, result.client)
        else:
            result = await self._start_attached(order, request, order.stream)
        return Started(pid=result.pid, started_at_ns=result.started_at_ns)

    async def _start_attached(self, order: ExecOrder, request: dict[str, Any], ref: StreamRef) -> LaunchResult:
        spec = AttachSpec(order.spec.attach_stdin, order.spec.attach_stdout, order.spec.attach_stderr)
        # Accepted first: no process is to run whose output has nowhere to go.
        stream = await accept(self._bus, ref)
        try:
            result, connection = await self._launcher.launch_attached(request, spec)
        except BaseException:
            await stream.aclose()
            raise
        ended = self._watch(order.id, order.container_id, result.client)
        reader, writer = await asyncio.open_unix_connection(sock=connection)
        joined = attaching.join(reader, writer, stream, spec, before_close=lambda: _done(ended))
        self._spawn(joined, name=f"exec {order.id[:12]}")
        return result

    def _watch(self, exec_id: str, container_id: str, shim: ShimClient) -> asyncio.Task[None]:
        self._shims[exec_id] = shim
        task: asyncio.Task[None] = self._spawn(
            self._settle(exec_id, container_id, shim), name=f"exec exit {exec_id[:12]}"
        )
        return task

    async def _settle(self, exec_id: str, container_id: str, shim: ShimClient) -> None:
        """Wait for the end and report it."""
        try:
            ended: ExitRecord | None = await shim.wait()
        except ShimGone:
            ended = ShimClient.read_exit_file(self._paths(exec_id, container_id).exit)
        await shim.close()
        await self._tell(exec_id, container_id, ended)

    async def _tell(self, exec_id: str, container_id: str, ended: ExitRecord | None) -> None:
        """Report an end; later, if control is away. Its files stay until then, for the next agent to find."""
        report = ExecReport(
            node=self._node,
            id=exec_id,
            container_id=container_id,
            exit_code=KILLED if ended is None else ended.exit_code,
            at_ns=time.time_ns(),
        )
        if await self._reporter.send_exec(report):
            self._forget(exec_id, container_id)
        else:
            self._spawn(self._tell_later(report), name=f"exec exit {exec_id[:12]}")

    async def _tell_later(self, report: ExecReport) -> None:
        told = False
        while not told:
            await asyncio.sleep(TELL_AGAIN_S)
            told = await self._reporter.send_exec(report)
        self._forget(report.id, report.container_id)

    def _forget(self, exec_id: str, container_id: str) -> None:
        self._shims.pop(exec_id, None)
        self._answers.pop(exec_id, None)
        self._paths(exec_id, container_id).unlink()

    async def recover(self) -> None:
        """After a start of the agent: go on with the execs that run, and tell the ends of those that do not.

        Of an exec whose shim was killed nothing is left here; that the inventory does not list it tells its end.
        """
        for path in self._records.exec_sockets():
            try:
                shim = await ShimClient.connect(path)
                state = await shim.state()
            except ShimGone:
                path.unlink(missing_ok=True)
                continue
            exec_id = state.exec_id or ""
            self._answers[exec_id] = Started(pid=state.pid, started_at_ns=state.started_at_ns)
            self._watch(exec_id, state.id, shim)
        for container_id, exec_id in self._records.ended_execs():
            if exec_id not in self._shims:
                ended = ShimClient.read_exit_file(self._paths(exec_id, container_id).exit)
                self._answers[exec_id] = Started(pid=0, started_at_ns=0)  # should it be ordered again: it has run
                self._spawn(self._tell(exec_id, container_id, ended), name=f"exec exit {exec_id[:12]}")

    async def resize(self, exec_id: str, height: int, width: int) -> None:
        shim = self._shims.get(exec_id)
        if shim is None:
            raise NotFound(f"No such exec instance: {exec_id}")
        with translated():
            await shim.resize(height, width)


async def _done(task: asyncio.Task[Any]) -> None:
    await asyncio.wait({task})
