"""Giving back what a container held of the networks, once its process is gone.

A release runs beside the answer to the client. What a crash cuts off is found by the reconciler: `holding` stays in
the container's row until a release has been acknowledged.

A release is for a start, by its generation: what a later start has been given meanwhile, by whichever copy of control,
it leaves alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from services.executor.control.domain import Record
from services.executor.control.peers import Peers
from services.executor.control.state import sql
from shared.errors import DavitError
from shared.state.database import Database
from shared.state.reserve import spend

log = logging.getLogger(__name__)

WRITE_DOWN_PERIOD_S = 10.0
CLOSE_WITHIN_S = 5.0


class Endpoints:
    """Releases under way in this process, and those done that the database does not know of yet."""

    def __init__(self, database: Database, peers: Peers, spawn: Callable[..., asyncio.Task[Any]]) -> None:
        self._database = database
        self._peers = peers
        self._spawn = spawn
        self._leaving: dict[str, asyncio.Task[Any]] = {}
        self._released: dict[str, int] = {}

    def let_go(self, record: Record) -> None:
        """Start to release; returns at once."""
        if record.holding:
            self.let_go_of(record.id, record.generation)

    def let_go_of(self, container_id: str, generation: int) -> None:
        """As `let_go`, by id; nothing when that has been done for this start, or is being done."""
        if container_id not in self._leaving and self._released.get(container_id) != generation:
            work = self._leave_quietly(container_id, generation)
            self._leaving[container_id] = self._spawn(work, name=f"leave {container_id[:12]}")

    async def settled(self, container_id: str) -> None:
        """Wait for a release that is under way here."""
        task = self._leaving.get(container_id)
        if task is not None:
            await asyncio.wait({task})

    async def release(self, record: Record) -> None:
        """Release, unless that has been done for this start. Raises what the network service answers."""
        await self.settled(record.id)
        if record.holding and self._released.get(record.id) != record.generation:
            # A container that is being removed is not started any more: nothing of it is for later.
            await self._leave(record.id, None if record.status == "removing" else record.generation)

    async def _leave(self, container_id: str, generation: int | None) -> None:
        left = await self._peers.leave(container_id, generation=generation)
        if generation is not None and not left.kept:
            self._released[container_id] = generation

    async def _leave_quietly(self, container_id: str, generation: int) -> None:
        try:
            await self._leave(container_id, generation)
        except DavitError as error:  # the reconciler comes back to it
            log.warning("endpoints of %s not released yet: %s", container_id[:12], error)
        finally:
            del self._leaving[container_id]

    def forget(self, container_id: str) -> None:
        """The container starts anew, or is gone."""
        self._released.pop(container_id, None)

    async def write_down(self) -> None:
        """Let the database know of all releases so far. Raises Unavailable."""
        done = dict(self._released)
        if not done:
            return
        async with self._database.transaction() as tx:
            await sql.released(tx, done)
        for container_id, generation in done.items():
            if self._released.get(container_id) == generation:
                del self._released[container_id]

    async def close(self) -> None:
        """Let the releases under way end, and write all of them down."""
        if self._leaving:
            await asyncio.wait(self._leaving.values(), timeout=CLOSE_WITHIN_S)
        await self.write_down()

    async def write_down_for_ever(self) -> None:
        while True:
            await asyncio.sleep(WRITE_DOWN_PERIOD_S)
            try:
                with spend():
                    await self.write_down()
            except DavitError as error:
                log.warning("released endpoints not written down yet: %s", error)
