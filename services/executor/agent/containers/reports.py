"""Telling control what happened, until it has committed it.

The node's records are the spool: an exit stays `unreported` in its record until control acknowledged it, so neither
a lost bus nor a killed agent or control loses one. Reports of one container go out in order.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from shared.bus.client import Bus
from shared.contracts import node as contract
from shared.contracts.node import ContainerReport, ExecReport
from shared.errors import DavitError, DeadlineExceeded, Unavailable

log = logging.getLogger(__name__)

RETRY_S = 0.25
LONGEST_RETRY_S = 5.0

Spawn = Callable[..., object]


class Reporter:
    """Delivers reports in order per container; keeps trying while control or the bus is away.

    Args:
        spawn: Starts an owned background task.
        acknowledged: Called with a report once control committed it.
    """

    def __init__(
        self, bus: Bus, spawn: Callable[..., Any], acknowledged: Callable[[ContainerReport], Coroutine[Any, Any, None]]
    ) -> None:
        self._bus = bus
        self._spawn = spawn
        self._acknowledged = acknowledged
        self._queues: dict[str, deque[ContainerReport]] = {}

    def send(self, report: ContainerReport) -> None:
        """Queue a report; returns at once."""
        queue = self._queues.get(report.id)
        if queue is not None:
            queue.append(report)
            return
        self._queues[report.id] = deque([report])
        self._spawn(self._deliver_all(report.id), name=f"report {report.id[:12]}")

    async def send_exec(self, report: ExecReport) -> bool:
        """Deliver an exec's exit before its stream is closed; gives up after the contract's deadline twice."""
        for _ in range(2):
            try:
                await self._bus.request(contract.REPORT_EXEC, report, node=report.node)
            except (Unavailable, DeadlineExceeded) as error:
                log.warning("exit of exec %s not delivered yet: %s", report.id, error)
                continue
            except DavitError as error:
                log.error("control refused the exit of exec %s: %s", report.id, error)
            return True
        return False

    async def _deliver_all(self, container_id: str) -> None:
        queue = self._queues[container_id]
        while queue:
            await self._deliver(queue[0])
            queue.popleft()
        del self._queues[container_id]

    async def _deliver(self, report: ContainerReport) -> None:
        delay = RETRY_S
        while True:
            try:
                await self._bus.request(contract.REPORT, report, node=report.node)
            except (Unavailable, DeadlineExceeded):
                await asyncio.sleep(delay)
                delay = min(delay * 2, LONGEST_RETRY_S)
                continue
            except DavitError as error:
                # Control understood and said no (for example: it does not know the container any more). Repeating
                # would not change that; the inventory settles what is left.
                log.warning("control refused the report %s of %s: %s", report.kind, report.id, error)
            await self._acknowledged(report)
            return
