"""The agent's side of a shim's socket: requests, the end of the process, attached streams.

A shim outlives the agent: after a restart connect to every socket again. One that is gone has left an exit record
(`runtime.exitrecord.read`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from typing import Any

import orjson

from services.executor.runtime.errors import Interrupted, from_wire
from services.executor.runtime.shim import exitrecord, frames
from services.executor.runtime.shim.exitrecord import ExitRecord

CONNECT_S = 5.0


class ShimGone(Interrupted):
    """Nobody serves the shim's socket any more; its exit record says how the process ended, if it could be written."""


class ShimState:
    """What a shim says of its process.

    Attributes:
        status: "created", "running" or "stopped".
        started_at_ns: since the epoch; 0 while it is only created.
    """

    __slots__ = ("exec_id", "id", "pid", "shim_pid", "started_at_ns", "status")

    def __init__(self, state: dict[str, Any]) -> None:
        self.id = str(state["id"])
        self.exec_id: str | None = state["exec_id"]
        self.status = str(state["status"])
        self.pid = int(state["pid"])
        self.shim_pid = int(state["shim_pid"])
        self.started_at_ns = int(state["started_at_ns"])


class ShimClient:
    """A connection to one shim.

    Attributes:
        path: of its socket, for further connections.
        on_exit: called once with the record when the process has ended. A connection that ends without it calls
        nothing:
            see `closed`.
        on_oom: called with the number of processes killed so far.
        closed: done when the connection has ended.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str = "") -> None:
        self.path = path
        self.on_exit: Callable[[ExitRecord], None] | None = None
        self.on_oom: Callable[[int], None] | None = None
        self.exit_record: ExitRecord | None = None
        self._reader = reader
        self._writer = writer
        self._number = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        loop = asyncio.get_running_loop()
        self._first: asyncio.Future[dict[str, Any]] = loop.create_future()
        self._first.add_done_callback(_look_at)
        self.closed = loop.create_task(self._listen(), name=f"shim {path}")

    @classmethod
    async def connect(cls, path: str | os.PathLike[str]) -> ShimClient:
        """Connect to a shim's socket.

        Raises:
            ShimGone: nobody is there (any more).
        """
        try:
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await asyncio.open_unix_connection(path)
        except (OSError, TimeoutError) as error:
            raise ShimGone(f"no shim at {path}", step="shim") from error
        return cls(reader, writer, os.fspath(path))

    @classmethod
    async def adopt(cls, connection: socket.socket, path: str = "") -> ShimClient:
        """Take over a connection; the socket is ours from here on."""
        connection.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=connection)
        return cls(reader, writer, path)

    async def first_event(self) -> dict[str, Any]:
        """What the shim said first by itself: how a launch went.

        Raises:
            ShimGone: it went away without a word.
        """
        return await asyncio.shield(self._first)

    async def _listen(self) -> None:
        try:
            while True:
                size = int.from_bytes(await self._reader.readexactly(4), "big")
                self._handle(orjson.loads(await self._reader.readexactly(size)))
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self._fail_all()
            self._writer.close()

    def _fail_all(self) -> None:
        gone = ShimGone("the shim is gone", step="shim")
        if not self._first.done():
            self._first.set_exception(gone)
        for future in self._answers.values():
            if not future.done():
                future.set_exception(gone)
        self._answers.clear()

    def _handle(self, message: dict[str, Any]) -> None:
        event = message.get("event")
        if event is None:
            future = self._answers.pop(message["id"], None)
            if future is None or future.done():
                return
            if "error" in message:
                future.set_exception(from_wire(message["error"]))
            else:
                future.set_result(message["ok"])
            return
        if not self._first.done():
            self._first.set_result(message)
        if event == "exit":
            self.exit_record = ExitRecord.from_dict(message)
            if self.on_exit is not None:
                self.on_exit(self.exit_record)
        elif event == "oom" and self.on_oom is not None:
            self.on_oom(int(message["count"]))

    async def request(self, operation: str, **fields: Any) -> dict[str, Any]:
        """One request and its answer.

        Raises:
            ShimGone: the shim is gone.
            RuntimeFailure: what it says.
        """
        if self.closed.done():
            raise ShimGone("the shim is gone", step="shim")
        self._number += 1
        number = self._number
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[number] = future
        try:
            self._writer.write(frames.pack({"id": number, "op": operation, **fields}))
            return await future
        finally:
            self._answers.pop(number, None)

    async def start(self) -> dict[str, Any]:
        """Let a process that was launched with "wait" go on; returns its state."""
        return await self.request("start")

    async def signal(self, number: int, *, everyone: bool = False) -> None:
        """Send a signal to the process, or to everything in its cgroup."""
        await self.request("signal", number=number, all=everyone)

    async def resize(self, rows: int, cols: int) -> None:
        """Set the terminal's size."""
        await self.request("resize", rows=rows, cols=cols)

    async def wait(self) -> ExitRecord:
        """How the process ended; waits until it has."""
        if self.exit_record is None:
            try:
                return ExitRecord.from_dict(await self.request("wait"))
            except ShimGone:
                if self.exit_record is None:
                    raise
        return self.exit_record

    async def state(self) -> ShimState:
        """What the process is doing."""
        return ShimState(await self.request("state"))

    async def close_stdin(self) -> None:
        """End the process's standard input."""
        await self.request("close_stdin")

    @staticmethod
    def read_exit_file(path: str | os.PathLike[str]) -> ExitRecord | None:
        """What a shim left when its process ended, or None."""
        return exitrecord.read(os.fspath(path))

    async def attach(
        self, *, stdin: bool = False, stdout: bool = True, stderr: bool = True
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A second connection that carries raw bytes: what is written goes to the process, what is read comes from it.

        Without a terminal, output has Docker's 8-byte headers. `writer.write_eof()` ends the input.

        Raises:
            ShimGone: the shim is gone, or this connection has no path to connect to.
        """
        return await attach(self.path, stdin=stdin, stdout=stdout, stderr=stderr)

    async def close(self) -> None:
        """Close the connection; the shim and its process stay."""
        self.closed.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.closed


async def attach(
    path: str, *, stdin: bool = False, stdout: bool = True, stderr: bool = True
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """`ShimClient.attach`, by the path of the shim's socket."""
    try:
        async with asyncio.timeout(CONNECT_S):
            reader, writer = await asyncio.open_unix_connection(path, limit=1 << 18)
            writer.write(frames.pack({"id": 1, "op": "attach", "stdin": stdin, "stdout": stdout, "stderr": stderr}))
            while True:
                size = int.from_bytes(await reader.readexactly(4), "big")
                answer = orjson.loads(await reader.readexactly(size))
                if answer.get("id") == 1:
                    break
    except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
        raise ShimGone(f"no shim at {path}", step="shim") from error
    if "error" in answer:
        writer.close()
        raise from_wire(answer["error"])
    return reader, writer


def _look_at(future: asyncio.Future[dict[str, Any]]) -> None:
    """A failure that nobody waits for is not worth a warning."""
    if not future.cancelled():
        future.exception()
