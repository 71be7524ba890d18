"""`docker wait`: a bounded wait that a client continues with a ticket."""

from __future__ import annotations

import asyncio

from services.executor.control import sql
from services.executor.control.domain import ALIVE, Record
from services.executor.control.lifecycle import Lifecycle
from shared.contracts.containers import WaitContainer, WaitResult
from shared.errors import NotFound


class Waits:
    """Tickets are ``<id>:<exits seen when the wait began>``."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    async def wait(self, request: WaitContainer) -> WaitResult:
        """The outcome, or `pending` after the request's patience."""
        if request.ticket:
            container_id, _, text = request.ticket.partition(":")
            baseline = int(text)
        else:
            record = await self._lifecycle.find(request.ref)
            container_id, baseline = record.id, record.exits
        loop = asyncio.get_running_loop()
        deadline = loop.time() + request.patience_s
        ticket = f"{container_id}:{baseline}"
        with self._lifecycle.changes.watch(container_id) as changed:
            while True:
                changed.clear()
                result = await self._look(container_id, baseline, request.condition)
                if result is not None:
                    return result
                left = deadline - loop.time()
                if left <= 0:
                    return WaitResult(pending=True, ticket=ticket)
                try:
                    await asyncio.wait_for(changed.wait(), left)
                except TimeoutError:
                    continue

    async def _look(self, container_id: str, baseline: int, condition: str) -> WaitResult | None:
        async with self._lifecycle.database.read() as reader:
            record = await sql.by_id(reader, container_id)
            if record is None:
                code = await sql.tombstone(reader, container_id)
                if code is None:
                    raise NotFound(f"No such container: {container_id}")
                return WaitResult(status_code=code)
        if condition == "next-exit" and record.exits > baseline:
            return _outcome(record)
        if condition == "not-running" and record.status not in ALIVE:
            return _outcome(record)
        return None


def _outcome(record: Record) -> WaitResult:
    state = record.container.state
    return WaitResult(status_code=state.exit_code, error=state.error)
