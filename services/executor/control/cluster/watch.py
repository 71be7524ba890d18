"""What follows from nodes coming, going and changing: who is let in, and what is written down of their states."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from services.executor.control.cluster import sql
from services.executor.control.cluster.liveness import Liveness
from shared.bus.client import Bus
from shared.contracts import cluster as contract
from shared.contracts.cluster import NodeState
from shared.state.database import Database


class Watch:
    """One per copy of control; writing is done by the copy that holds the lease.

    Args:
        admit: Has the bus let in who is on record.
    """

    def __init__(
        self, database: Database, bus: Bus, liveness: Liveness, admit: Callable[[], Awaitable[None]], node: str
    ) -> None:
        self._database = database
        self._bus = bus
        self._liveness = liveness
        self._admit = admit
        self._node = node
        self._changed = asyncio.Event()
        self._lost: set[str] = set()
        # Called in the copy that holds the lease, with each node that is lost.
        self.on_lost: list[Callable[[str], Awaitable[None]]] = []

    async def start(self) -> None:
        await self._liveness.start()
        self._liveness.on_change.append(self._noticed)
        await self._bus.listen(contract.CHANGED, self._membership_changed)
        await self._admit()

    async def _noticed(self, node: str, state: NodeState) -> None:
        if state == "down":
            self._lost.add(node)
        else:
            self._lost.discard(node)
        self._changed.set()

    async def _membership_changed(self, _: bytes) -> None:
        await self._admit()
        self._changed.set()

    async def write_down_for_ever(self) -> None:
        """States of nodes as records and events, each change once."""
        self._liveness.leader = self._node
        try:
            while True:
                self._changed.clear()
                await self._write_down()
                for node in sorted(self._lost):
                    for move in self.on_lost:
                        await move(node)
                await self._changed.wait()
        finally:
            self._liveness.leader = ""

    async def _write_down(self) -> None:
        async with self._database.read() as reader:
            members = await sql.all_members(reader)
        for member in members:
            if not self._liveness.beats(member.name):
                continue
            state = self._liveness.state(member.name)
            if state == member.state:
                continue
            async with self._database.transaction() as tx:
                current = next((one for one in await sql.all_members(tx) if one.id == member.id), None)
                if current is None or current.state == state:
                    continue
                before, current.state = current.state, state
                await sql.save_member(tx, current)
                tx.emit(current.event("update", **{"state.old": before, "state.new": state}))
