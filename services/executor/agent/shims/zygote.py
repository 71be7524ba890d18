"""The agent's handle on its zygote: starts it, gives it orders, starts another when it died.

The zygote is a fresh interpreter, not a fork of the agent: small, without threads, and replaceable at any time.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from services.executor.agent.shims.client import ShimClient, ShimGone
from services.executor.runtime.errors import Interrupted, InvalidSpec, RuntimeFailure, from_wire
from services.executor.runtime.launch.zygote import LARGEST_ORDER, LONG, MOST_FDS, pack_order, pack_packet
from services.executor.runtime.steps.selfexe import protected_interpreter

READY_S = 15.0
_SOURCE_ROOT = Path(__file__).resolve().parents[4]
_ISOLATED = ("-OO", "-E", "-s", "-S")


class LaunchResult:
    """A process that runs, or waits for `ShimClient.start`.

    Attributes:
        client: connected to its shim already. Use this one: a process that ends at once takes its socket along before
            another connection is made.
        pid: of the process; `shim_pid` of its shim.
        started_at_ns: nanoseconds since the epoch, 0 while it waits.
    """

    __slots__ = ("client", "pid", "shim_pid", "started_at_ns")

    def __init__(self, client: ShimClient, state: dict[str, Any]) -> None:
        self.client = client
        self.pid = int(state["pid"])
        self.shim_pid = int(state["shim_pid"])
        self.started_at_ns = int(state["started_at_ns"])


class Zygote:
    """Orders in, shims out.

    Attributes:
        pid: of the present zygote; 0 before `start`.
    """

    def __init__(self, run_dir: str | os.PathLike[str]) -> None:
        self.run_dir = Path(run_dir)
        self.pid = 0
        self._process: asyncio.subprocess.Process | None = None
        self._socket: socket.socket | None = None
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Start the process and wait until it takes orders.

        Raises:
            Interrupted: it ended instead.
        """
        async with self._starting:
            if self._process is not None and self._process.returncode is None and self._socket is not None:
                return
            await self._discard()
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                for size in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                    ours.setsockopt(socket.SOL_SOCKET, size, 4 * LARGEST_ORDER)
                ours.setblocking(False)
                self._process = await self._spawn(theirs.fileno())
                ready = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(ours, 16), READY_S)
            except (TimeoutError, OSError):
                ready = b""
            finally:
                theirs.close()
            if ready != b"ready" or self._process is None:
                ours.close()
                await self._discard()
                raise Interrupted("the zygote did not start", step="zygote")
            self._socket = ours
            self.pid = self._process.pid

    async def _spawn(self, fd: int) -> asyncio.subprocess.Process:
        program = protected_interpreter()
        try:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                *_ISOLATED,
                "-c",
                f"import sys; sys.path.insert(0, {str(_SOURCE_ROOT)!r}); "
                "from services.executor.runtime.launch.zygote import main; sys.exit(main(sys.argv))",
                "--socket",
                str(fd),
                executable=f"/proc/self/fd/{program}",
                pass_fds=(fd, program),
                stdin=asyncio.subprocess.DEVNULL,
                cwd=str(_SOURCE_ROOT),
            )
        finally:
            os.close(program)

    async def _discard(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
            await self._process.wait()
            self._process = None
        self.pid = 0

    async def launch(self, order: dict[str, Any], fds: Sequence[int] = ()) -> LaunchResult:
        """Have an order carried out; see `runtime.launch` for what it holds.

        Args:
            order: indexes of descriptors in it count from 0 in `fds`. `control_fd` is added here.
            fds: sent along; they stay open here, and are the caller's to close.

        Raises:
            Interrupted: the zygote died over it twice, or its shim was killed; nothing runs, it may be given again.
            InvalidSpec: more descriptors than can be sent: too many clients wait to be attached.
            RuntimeFailure: it could not be done, and why.
        """
        try:
            return await self._launch(order, fds)
        except ShimGone:
            # Whoever held the other end is gone, so nothing runs. If it was the zygote, killed with the order in its
            # hands, another may have it.
            if not await self._died():
                raise
            return await self._launch(order, fds)

    async def _died(self) -> bool:
        process = self._process
        if process is None:
            return True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 0.2)
        return process.returncode is not None

    async def _launch(self, order: dict[str, Any], fds: Sequence[int]) -> LaunchResult:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            await self._send({**order, "control_fd": len(fds)}, [*fds, theirs.fileno()])
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        client = await ShimClient.adopt(ours, order.get("socket", ""))
        try:
            first = await client.first_event()
        except BaseException:
            await client.close()
            raise
        if first.get("event") == "launched":
            return LaunchResult(client, first)
        await client.close()
        if first.get("event") == "failed":
            raise from_wire(first["error"])
        raise RuntimeFailure(f"unexpected answer of the shim: {first}")

    async def _send(self, order: dict[str, Any], fds: list[int]) -> None:
        if len(fds) >= MOST_FDS:  # one more may be the order's own
            raise InvalidSpec("attach", f"{len(order.get('attach') or [])} clients are too many to attach to a start")
        packet = pack_packet(*pack_order(order))
        spare: int | None = None
        if len(packet) > LARGEST_ORDER:
            spare = os.memfd_create("order", os.MFD_CLOEXEC)
            os.write(spare, packet)
            packet, fds = LONG, [*fds, spare]
        try:
            await self._deliver(packet, fds)
        finally:
            if spare is not None:
                os.close(spare)

    async def _deliver(self, packet: bytes, fds: list[int]) -> None:
        for attempt in (1, 2):
            await self.start()
            assert self._socket is not None
            try:
                await _send_packet(self._socket, packet, fds)
                return
            except (BrokenPipeError, ConnectionResetError, ConnectionRefusedError) as error:
                await self._reset()
                if attempt == 2:
                    raise Interrupted("the zygote died twice over an order", step="zygote") from error

    async def _reset(self) -> None:
        async with self._starting:
            await self._discard()

    async def close(self) -> None:
        """End the zygote; shims and containers live on."""
        async with self._starting:
            await self._discard()


async def _send_packet(sock: socket.socket, data: bytes, fds: list[int]) -> None:
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
    while True:
        try:
            sock.sendmsg([data], ancillary)
            return
        except BlockingIOError:
            await _writable(sock)


async def _writable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_writer(sock.fileno(), event.set)
    try:
        await event.wait()
    finally:
        loop.remove_writer(sock.fileno())
