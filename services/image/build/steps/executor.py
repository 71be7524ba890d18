"""Commands of RUN, carried out by the executor service: one container each, over the bus.

::

    create ─► attach (stream) ─► start ─► output until the process ends ─► wait ─► upper directory ─► remove

The changes are read from the container's upper directory, which is on this machine wherever images are built.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass
from pathlib import Path

from services.image.build.ports import Output, RunOrder
from services.image.build.steps.layer import LayerTarget, WrittenLayer
from services.image.build.steps.upper import write_upper
from shared.bus.client import Bus, Contract, Rep, Req
from shared.bus.streams import ByteStream, offer
from shared.contracts import containers
from shared.docker.frames import STDERR, Demultiplexer
from shared.errors import Conflict, DeadlineExceeded, Internal, NotFound, Unavailable

log = logging.getLogger(__name__)

# A client that reads slowly holds output back; one that reads nothing for this long after the command's end is gone.
OUTPUT_GRACE_S = 60.0
RETRY_PAUSES_S = (0.2, 1.0, 3.0)


@dataclass(frozen=True, slots=True)
class BusExecutor:
    """An `Executor` that asks the executor service."""

    bus: Bus

    async def create(self, order: RunOrder) -> str:
        # With an id of its own, which a second attempt finds.
        request = containers.CreateContainer(
            id=secrets.token_hex(32), repeated=True, config=order.config, host_config=order.host_config
        )
        return (await self._persistently(containers.CREATE, request)).id

    async def run(self, container_id: str, output: Output) -> int:
        stream = await offer(self.bus)
        async with stream:
            attach = containers.Attach(ref=container_id, stream=stream.ref, stdout=True, stderr=True)
            await self.bus.request(containers.ATTACH, attach)
            await stream.close_write()
            reading = asyncio.create_task(_demultiplex(stream, output), name=f"output of {container_id[:12]}")
            try:
                # With a key, by which a second attempt does not run the command again.
                request = containers.StartContainer(ref=container_id, key=secrets.token_hex(8))
                await self._persistently(containers.START, request)
                return await self._finish(container_id, reading)
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)

    async def _finish(self, container_id: str, reading: asyncio.Task[None]) -> int:
        """The exit code, once all output has been handed over. Output that fails ends the wait, too."""
        waiting = asyncio.create_task(self._exit_code(container_id), name=f"exit of {container_id[:12]}")
        try:
            await asyncio.wait({reading, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                await asyncio.wait({reading}, timeout=OUTPUT_GRACE_S)
            if not reading.done():
                raise Unavailable(f"the output of container {container_id[:12]} did not end with it")
            reading.result()
            return await waiting
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    async def _persistently(self, contract: Contract[Req, Rep], request: Req) -> Rep:
        """Ask what may be asked again, until an executor service that went away meanwhile is back."""
        for pause_s in RETRY_PAUSES_S:
            try:
                return await self.bus.request(contract, request)
            except (DeadlineExceeded, Unavailable) as error:
                log.info("asking again in %g s: %s", pause_s, error)
                await asyncio.sleep(pause_s)
        return await self.bus.request(contract, request)

    async def _exit_code(self, container_id: str) -> int:
        ticket = ""
        while True:
            request = containers.WaitContainer(ref=container_id, ticket=ticket)
            result = await self._persistently(containers.WAIT, request)
            if not result.pending:
                return result.status_code
            ticket = result.ticket

    async def changes(
        self, container_id: str, target: LayerTarget, *, omit: frozenset[str], take: bool
    ) -> WrittenLayer | None:
        container = await self._persistently(containers.INSPECT, containers.InspectContainer(ref=container_id))
        upper = Path(container.upper_dir)
        if not upper.is_dir():
            raise Unavailable(f"the files of container {container_id[:12]} are not on this machine")
        return await asyncio.to_thread(write_upper, upper, target, omit=omit, take=take)

    async def remove(self, container_id: str) -> None:
        request = containers.RemoveContainer(ref=container_id, force=True, volumes=True)
        try:
            await self._persistently(containers.REMOVE, request)
        except NotFound:
            return
        except Conflict as error:
            if "removal" not in str(error):  # somebody else is removing it already
                raise


async def _demultiplex(stream: ByteStream, output: Output) -> None:
    """Hand on the frames of an attached process that has no terminal. Source: Docker Engine API, ContainerAttach."""
    reader = Demultiplexer()
    async for chunk in stream:
        for one in reader.feed(chunk):
            await output(one.stream == STDERR, one.payload)
    if reader.pending:
        raise Internal("the output of a command ended in the middle of a frame")
