"""Health probes as processes: commands run in a container for their outcome and the beginning of their output."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable
from typing import Any

from services.executor.agent.containers.records import ExecPaths, NodeRecords
from services.executor.agent.execs.launch import ExecLauncher
from services.executor.agent.output.attach import AttachSpec
from services.executor.agent.shims.client import ShimClient, ShimGone
from services.executor.agent.shims.zygote import LaunchResult
from services.executor.runtime.errors import RuntimeFailure
from shared.contracts.containers import ExecSpec
from shared.docker.frames import HEADER_BYTES, Demultiplexer

READ_BYTES = 64 * 1024
KILL = 9


class Collected:
    """The beginning of a probe's output, as text; also of one that is still running."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._frames = Demultiplexer()
        self._payload = bytearray()
        self._cut = False

    def feed(self, data: bytes) -> None:
        """Take multiplexed output."""
        if self._cut:
            return
        for one in self._frames.feed(data):
            self._payload += one.payload
        self._cut = len(self._payload) + max(0, len(self._frames.pending) - HEADER_BYTES) > self._limit_bytes

    def text(self) -> str:
        """What there is so far, with what has come of a frame; three dots at the end when there was more."""
        whole = bytes(self._payload) + bytes(self._frames.pending[HEADER_BYTES:])
        return whole[: self._limit_bytes].decode(errors="replace") + ("..." if self._cut else "")


class Probes:
    """Runs probes; none of them outlives whoever waits for it by more than a moment."""

    def __init__(self, records: NodeRecords, launcher: ExecLauncher, spawn: Callable[..., Any]) -> None:
        self._records = records
        self._launcher = launcher
        self._spawn = spawn

    async def run(self, container_id: str, command: list[str], output: Collected) -> int:
        """Run a command, collect its output (stdout and stderr together), answer its exit code.

        Cancelling it kills the command.
        """
        probe_id = secrets.token_hex(32)
        paths = self._records.probe_paths(container_id, probe_id)
        spec = ExecSpec(ref=container_id, cmd=command, attach_stdout=True, attach_stderr=True)
        order = self._launcher.order(container_id, probe_id, spec, paths)
        launching = self._launcher.launch_attached(order, AttachSpec(stdout=True, stderr=True))
        try:
            result, connection = await self._launched(launching)
            try:
                return await _outcome(result, connection, output)
            except BaseException:
                await _kill(result.client)
                raise
            finally:
                await result.client.close()
        finally:
            paths.unlink()

    async def _launched(self, launching: Any) -> tuple[LaunchResult, socket.socket]:
        """A launch goes on when its wait is cancelled: what it leads to must be ended then."""
        task: asyncio.Task[tuple[LaunchResult, socket.socket]] = asyncio.ensure_future(launching)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._spawn(_end_when_launched(task), name="probe given up")
            raise

    async def recover(self) -> None:
        """After a start of the agent: end the probes of the one before, whose outcome nobody waits for any more."""
        for record in self._records.ended_probes():
            record.unlink(missing_ok=True)
        for path in self._records.probe_sockets():
            try:
                shim = await ShimClient.connect(path)
                state = await shim.state()
            except ShimGone:
                path.unlink(missing_ok=True)
                continue
            paths = self._records.probe_paths(state.id, state.exec_id or "")
            # Not waited for: it ends only when its container is thawed, if that is paused.
            self._spawn(_end(shim, paths), name="probe of an earlier agent")


async def _outcome(result: LaunchResult, connection: socket.socket, output: Collected) -> int:
    reader, writer = await asyncio.open_unix_connection(sock=connection)
    try:
        while frame := await reader.read(READ_BYTES):
            output.feed(frame)
    finally:
        writer.close()
    return (await result.client.wait()).exit_code


async def _end_when_launched(launching: asyncio.Task[tuple[LaunchResult, socket.socket]]) -> None:
    await asyncio.wait({launching})
    if launching.exception() is None:
        result, connection = launching.result()
        connection.close()
        await _kill(result.client)
        await result.client.close()


async def _end(shim: ShimClient, paths: ExecPaths) -> None:
    await _kill(shim)
    await shim.close()
    paths.unlink()


async def _kill(shim: ShimClient) -> None:
    """Kill its process and wait for the end, so that the exit record has been written and can be removed."""
    try:
        await shim.signal(KILL)
        await shim.wait()
    except RuntimeFailure:  # it ended by itself
        return
