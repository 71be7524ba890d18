"""All deliveries of the configuration: each at its own pace, from its own place, tried until it works.

Where a delivery is, is written down after each batch: one that is interrupted sends that batch again. What the log's
retention removes before it was delivered is lost for that delivery, and said in the log.
"""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import Any

from services.audit import keys, sql
from services.audit.log.store import AuditLog
from services.audit.sinks.delivery import Delivery, NotDelivered
from services.audit.sinks.file import FileDelivery
from services.audit.sinks.formats import format_of
from services.audit.sinks.stream import StreamDelivery
from services.audit.writer import Writer
from shared.auditing import records
from shared.bus.client import Bus
from shared.config import AuditSink, EngineConfig
from shared.contracts.audit import SinkState
from shared.errors import DavitError, NotFound
from shared.service import ServiceContext
from shared.state.database import Database
from shared.state.reserve import spend

BATCH_BYTES = 512 * 1024
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 3600.0
LOOK_EVERY_S = 60.0
STREAM_BYTES = 512 << 20


class Deliveries:
    """Runs one `_Running` for each delivery that is configured."""

    def __init__(self, ctx: ServiceContext, audit_log: AuditLog, writer: Writer, database: Database) -> None:
        self._ctx = ctx
        self._log = audit_log
        self._writer = writer
        self._database = database
        self._running: dict[str, tuple[_Running, asyncio.Task[Any]]] = {}

    async def start(self, config: EngineConfig) -> None:
        """Run what is configured, and nothing else; again after the configuration has changed.

        Raises:
            InvalidArgument: A secret cannot be read; what runs goes on.
        """
        made = {sink.name: _delivery_of(sink, config, self._ctx.bus) for sink in config.audit_sinks}
        async with self._database.read() as connection:
            rows = await sql.all_sinks(connection)
        for running, task in self._running.values():
            task.cancel()
            await asyncio.wait([task])
            await running.delivery.close()
            rows[running.sink.name] = running  # knows its place best
        self._running.clear()
        for sink in config.audit_sinks:
            row = rows.get(sink.name)
            begin = self._log.first if sink.start == "oldest" else self._log.size
            running = _Running(sink, made[sink.name], self._log, self._writer, self._database)
            running.position = row.position if row is not None else begin
            # Who wants no more is asked again when the configuration is read anew, and not at each start.
            running.gone = bool(getattr(row, "gone", False)) and not isinstance(row, _Running)
            self._running[sink.name] = running, self._ctx.spawn(running.run(), name=f"delivery {sink.name}")

    def states(self) -> list[SinkState]:
        return [running.state() for running, _ in self._running.values()]


class _Running:
    """One delivery, as it goes."""

    def __init__(
        self, sink: AuditSink, delivery: Delivery, audit_log: AuditLog, writer: Writer, database: Database
    ) -> None:
        self.sink = sink
        self.delivery = delivery
        self.position = 0
        self.gone = False
        self._log = audit_log
        self._writer = writer
        self._database = database
        self._failures = 0
        self._next_at_ns = 0
        self._problem = ""

    def state(self) -> SinkState:
        return SinkState(
            name=self.sink.name,
            type=self.sink.type,
            format=self.sink.form,
            position=self.position,
            behind=max(0, self._writer.size - self.position),
            failures=self._failures,
            next_at=records.moment(self._next_at_ns) if self._next_at_ns else "",
            problem=self._problem,
            gone=self.gone,
        )

    async def run(self) -> None:
        """Deliver for ever; one that is gone waits for another configuration."""
        while not self.gone:
            await self._writer.wait_for(self.position, LOOK_EVERY_S)
            if self.position >= self._writer.size:
                continue
            try:
                lines = self._next()
                await self.delivery.send(self.position, lines)
            except NotDelivered as error:
                await self._failed(error)
            else:
                self.position += len(lines)
                self._failures, self._next_at_ns, self._problem = 0, 0, ""
                await self._keep()

    def _next(self) -> list[bytes]:
        limit = min(self.sink.batch, self._writer.size - self.position)
        while True:
            try:
                return self._log.read(self.position, limit=limit, limit_bytes=BATCH_BYTES)
            except NotFound as error:
                self._skip(int(error.detail["first"]))
            except DavitError as error:  # a part of the log cannot be read; to be looked at, not to be skipped
                raise NotDelivered(str(error)) from error

    def _skip(self, first: int) -> None:
        """Records are not there any more."""
        reason = f"records {self.position} to {first - 1} were removed before they were delivered to {self.sink.name}"
        gap = {"count": first - self.position, "reason": reason, "sink": self.sink.name}
        self._writer.add({"kind": records.GAP, "time": records.moment(time.time_ns()), "gap": gap})
        self.position = first

    async def _failed(self, error: NotDelivered) -> None:
        self._failures += 1
        self._problem, self.gone = str(error), error.gone
        pause_s = min(FIRST_PAUSE_S * 2.0 ** min(self._failures - 1, 20), LONGEST_PAUSE_S) * random.uniform(0.75, 1.0)
        pause_s = max(pause_s, error.after_s)
        self._next_at_ns = 0 if self.gone else time.time_ns() + int(pause_s * 1e9)
        await self._keep()
        if not self.gone:
            await asyncio.sleep(pause_s)

    async def _keep(self) -> None:
        row = {
            "name": self.sink.name,
            "position": self.position,
            "failures": self._failures,
            "next_at_ns": self._next_at_ns,
            "problem": self._problem,
            "gone": self.gone,
        }
        try:
            with spend():
                async with self._database.transaction() as tx:
                    await sql.keep_sink(tx, row)
        except DavitError as error:  # it goes on, and would repeat more after a crash
            self._problem = str(error)


def _delivery_of(sink: AuditSink, config: EngineConfig, bus: Bus) -> Delivery:
    origin = keys.origin_of(config.node)
    form = format_of(sink.form, origin)
    match sink.type:
        case "file":
            return FileDelivery(Path(sink.path), form)
        case "nats":
            return StreamDelivery(bus, form, retention_s=config.audit_retention_s, limit_bytes=STREAM_BYTES)
        case _:
            # Its HTTP client is what only who has a webhook is to pay for.
            from services.audit.sinks.webhook import WebhookDelivery, secret_of

            secret = secret_of(sink.secret_file) if sink.secret_file else ""
            return WebhookDelivery(sink.url, form, origin=origin, secret=secret, ca_file=sink.ca_file)
