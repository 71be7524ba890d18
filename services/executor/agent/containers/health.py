"""Health checks: probes on the node, whether or not the rest of the cluster is there.

Source: Docker's HEALTHCHECK: interval 30 s, timeout 30 s, start period 0 s, start interval 5 s, 3 retries; the last
five probes are kept; output is cut at 4096 bytes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from services.executor.agent.containers.probes import Collected, Probes
from services.executor.agent.containers.records import NodeRecord
from services.executor.agent.containers.reports import Reporter
from shared.contracts.containers import HealthLogEntry
from shared.contracts.docker import ContainerConfig, HealthConfig
from shared.contracts.node import ContainerReport
from shared.docker.durations import duration_text
from shared.docker.moments import rfc3339_now
from shared.errors import DavitError

DEFAULT_INTERVAL_S = 30.0
DEFAULT_TIMEOUT_S = 30.0
DEFAULT_START_INTERVAL_S = 5.0
DEFAULT_RETRIES = 3
OUTPUT_LIMIT_BYTES = 4096


def probe_command(config: ContainerConfig) -> list[str] | None:
    """The command of a health check; None when there is none or it is disabled."""
    check = config.healthcheck
    if check is None or not check.test:
        return None
    kind, *words = check.test
    if kind == "CMD" and words:
        return words
    if kind == "CMD-SHELL" and words:
        return [*(config.shell or ["/bin/sh", "-c"]), words[0]]
    return None


def seconds(nanoseconds: int, default_s: float) -> float:
    return nanoseconds / 1e9 if nanoseconds else default_s


class HealthChecks:
    """Runs the probes of every container that has some."""

    def __init__(self, node: str, probes: Probes, reporter: Reporter, spawn: Callable[..., Any]) -> None:
        self._node = node
        self._probes = probes
        self._reporter = reporter
        self._spawn = spawn
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def started(self, record: NodeRecord) -> None:
        command = probe_command(record.order.config)
        if command is not None:
            self._tasks[record.id] = self._spawn(self._watch(record, command), name=f"health {record.id[:12]}")

    def exited(self, record: NodeRecord) -> None:
        task = self._tasks.pop(record.id, None)
        if task is not None:
            task.cancel()

    async def _watch(self, record: NodeRecord, command: list[str]) -> None:
        check = record.order.config.healthcheck or HealthConfig()
        started = time.monotonic()
        start_period_s = check.start_period / 1e9
        retries = check.retries or DEFAULT_RETRIES
        streak = 0
        status = "starting"
        while True:
            starting = status == "starting" and time.monotonic() - started < start_period_s
            pause = (
                seconds(check.start_interval, DEFAULT_START_INTERVAL_S)
                if starting
                else seconds(check.interval, DEFAULT_INTERVAL_S)
            )
            await asyncio.sleep(pause)
            if record.status == "paused":
                continue
            entry = await self._probe(record, command, seconds(check.timeout, DEFAULT_TIMEOUT_S))
            if entry.exit_code == 0:
                streak, status = 0, "healthy"
            elif not (status == "starting" and time.monotonic() - started < start_period_s):
                streak += 1
                if streak >= retries:
                    status = "unhealthy"
            self._reporter.send(
                ContainerReport(
                    node=self._node,
                    id=record.id,
                    generation=record.order.generation,
                    kind="health",
                    health_status=status,
                    failing_streak=streak,
                    health_entry=entry,
                    at_ns=time.time_ns(),
                )
            )

    async def _probe(self, record: NodeRecord, command: list[str], timeout_s: float) -> HealthLogEntry:
        begin, output = rfc3339_now(), Collected(OUTPUT_LIMIT_BYTES)
        try:
            code = await asyncio.wait_for(self._probes.run(record.id, command, output), timeout_s)
            text = output.text()
        except TimeoutError:
            code, text = -1, f"Health check exceeded timeout ({duration_text(round(timeout_s * 1e9))})"
            if said := output.text():
                text += f": {said}"
        except DavitError as error:
            code, text = -1, str(error)
        return HealthLogEntry(start=begin, end=rfc3339_now(), exit_code=code, output=text)
