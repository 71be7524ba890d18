"""Further processes in a running container: exec and health probes."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.executor.agent import attach as attaching
from services.executor.agent.attach import AttachSpec
from services.executor.agent.containers import Containers
from services.executor.agent.failures import translated
from services.executor.agent.records import NodeRecord
from services.executor.agent.reports import Reporter
from services.executor.agent.shims import ShimClient, ShimGone
from services.executor.agent.spec import exec_process
from services.executor.agent.zygote import LaunchResult, Zygote
from services.executor.runtime.errors import RuntimeFailure
from services.executor.runtime.exitrecord import ExitRecord
from shared.bus import Bus
from shared.contracts.containers import CreateExec
from shared.contracts.node import ExecOrder, ExecReport, Started
from shared.errors import Conflict, NotFound
from shared.streams import accept

READ_BYTES = 64 * 1024
KILLED = 137
TELL_AGAIN_S = 5.0


class Execs:
    """Starts execs and keeps their shims until they end."""

    def __init__(
        self,
        node: str,
        bus: Bus,
        containers: Containers,
        zygote: Zygote,
        reporter: Reporter,
        spawn: Callable[..., Any],
    ) -> None:
        self._node = node
        self._bus = bus
        self._containers = containers
        self._zygote = zygote
        self._reporter = reporter
        self._spawn = spawn
        self._shims: dict[str, ShimClient] = {}

    def _request(self, record: NodeRecord, exec_id: str, spec: CreateExec, console_size: list[int]) -> dict[str, Any]:
        plan = exec_process(record.order, spec, console_size)
        request = {
            "id": record.id,
            "exec_id": exec_id,
            "pid": record.pid,
            "cgroup": self._containers.cgroup_path(record),
            "process": plan.process,
            "user": plan.user,
            "tty": spec.tty,
            "open_stdin": spec.attach_stdin,
            "stdin_once": spec.attach_stdin,
            "socket": str(self._containers.records.exec_socket(exec_id)),
            "exit_file": str(self._exit_file(record, exec_id)),
        }
        if record.runtime is not None:  # it has the filter in its state of the container
            request["runtime"] = record.runtime.order(self._containers.records.paths(record.id).directory)
        elif plan.seccomp:
            request["seccomp_bpf"] = plan.seccomp
        return request

    def _exit_file(self, record: NodeRecord, exec_id: str) -> Path:
        return self._containers.records.paths(record.id).directory / f"exec-{exec_id}.json"

    async def start(self, order: ExecOrder) -> Started:
        """Start an exec. Its output goes to the order's stream; its exit is reported before the stream ends."""
        record = self._containers.records.get(order.container_id)
        if record.status == "paused":
            raise Conflict(f"Container {order.container_id} is paused, unpause the container before exec")
        self._containers.live(order.container_id)
        request = self._request(record, order.id, order.spec, order.console_size)
        attached = order.stream is not None and not order.detach
        spec = AttachSpec(order.spec.attach_stdin, order.spec.attach_stdout, order.spec.attach_stderr)
        result, connection = await self._launch(request, spec if attached else None)
        shim = result.client
        self._shims[order.id] = shim
        settled = self._spawn(self._settle(order.id, order.container_id, shim), name=f"exec exit {order.id[:12]}")
        if connection is not None and order.stream is not None:
            stream = await accept(self._bus, order.stream)
            reader, writer = await asyncio.open_unix_connection(sock=connection)
            self._spawn(
                attaching.join(reader, writer, stream, spec, before_close=lambda: _done(settled)),
                name=f"exec {order.id[:12]}",
            )
        return Started(pid=result.pid, started_at_ns=result.started_at_ns)

    async def _launch(
        self, request: dict[str, Any], spec: AttachSpec | None
    ) -> tuple[LaunchResult, socket.socket | None]:
        """Start an exec's process, with one connection attached from its first byte on."""
        if spec is None:
            with translated():
                result = await self._zygote.launch(request)
            result.client.path = request["socket"]
            return result, None
        ours, theirs = socket.socketpair()
        try:
            request["attach"] = [{"fd": 0, "stdin": spec.stdin, "stdout": spec.stdout, "stderr": spec.stderr}]
            with translated():
                result = await self._zygote.launch(request, [theirs.fileno()])
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        result.client.path = request["socket"]
        return result, ours

    async def _settle(self, exec_id: str, container_id: str, shim: ShimClient) -> None:
        """Wait for the end and report it."""
        try:
            ended: ExitRecord | None = await shim.wait()
        except ShimGone:
            ended = self._ended(exec_id, container_id)
        await shim.close()
        await self._tell(exec_id, container_id, ended)

    def _ended(self, exec_id: str, container_id: str) -> ExitRecord | None:
        record = self._containers.records.find(container_id)
        return None if record is None else ShimClient.read_exit_file(self._exit_file(record, exec_id))

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
        self._containers.records.exec_socket(exec_id).unlink(missing_ok=True)
        record = self._containers.records.find(container_id)
        if record is not None:
            self._exit_file(record, exec_id).unlink(missing_ok=True)

    async def recover(self) -> None:
        """After a start of the agent: go on with the execs that run, and tell the ends of those that do not."""
        for path in self._containers.records.exec_sockets():
            try:
                shim = await ShimClient.connect(path)
                state = await shim.state()
            except ShimGone:
                path.unlink(missing_ok=True)
                continue
            exec_id = state.exec_id or ""
            self._shims[exec_id] = shim
            self._spawn(self._settle(exec_id, state.id, shim), name=f"exec exit {exec_id[:12]}")
        for record in self._containers.records.all():
            for file in self._containers.records.paths(record.id).directory.glob("exec-*.json"):
                exec_id = file.stem.removeprefix("exec-")
                if exec_id not in self._shims:
                    work = self._tell(exec_id, record.id, ShimClient.read_exit_file(file))
                    self._spawn(work, name=f"exec exit {exec_id[:12]}")

    async def resize(self, exec_id: str, height: int, width: int) -> None:
        shim = self._shims.get(exec_id)
        if shim is None:
            raise NotFound(f"No such exec instance: {exec_id}")
        with translated():
            await shim.resize(height, width)

    async def capture(self, record: NodeRecord, exec_id: str, spec: CreateExec, limit_bytes: int) -> tuple[int, bytes]:
        """Run a command and collect its output (stdout and stderr together, the first `limit_bytes`).

        Cancelling it kills the command.
        """
        request = self._request(record, exec_id, spec, [])
        result, connection = await self._launch(request, AttachSpec(stdout=True, stderr=True))
        shim = result.client
        output = bytearray()
        try:
            reader, writer = await asyncio.open_unix_connection(sock=connection)
            try:
                while frame := await reader.read(READ_BYTES):
                    if len(output) < limit_bytes:
                        output += frame
            finally:
                writer.close()
            return (await shim.wait()).exit_code, bytes(output[:limit_bytes])
        except BaseException:
            await self._kill(shim)
            raise
        finally:
            await shim.close()
            Path(request["socket"]).unlink(missing_ok=True)
            Path(request["exit_file"]).unlink(missing_ok=True)

    async def _kill(self, shim: ShimClient) -> None:
        try:
            await shim.signal(9)
        except RuntimeFailure:  # it ended by itself
            return


async def _done(task: asyncio.Task[Any]) -> None:
    await asyncio.wait({task})
