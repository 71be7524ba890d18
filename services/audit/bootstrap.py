"""Joins the audit service's parts."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import time
from pathlib import Path
from typing import Any

from services.audit import keys, sql
from services.audit.events import EventIntake
from services.audit.handlers import AuditHandlers
from services.audit.intake import Intake
from services.audit.log.store import AuditLog
from services.audit.sinks.deliveries import Deliveries
from services.audit.writer import Retention, Writer
from shared.auditing import records
from shared.auditing.policy import Policy
from shared.auditing.spool import boot_id
from shared.config import EngineConfig
from shared.contracts.audit import SPOOLED
from shared.errors import Conflict
from shared.service import ServiceContext
from shared.transparency.notes import Signer
from shared.version import VERSION


async def start(ctx: ServiceContext) -> None:
    """Go on with the log where it ends, take what waits, and answer."""
    root = Path(ctx.config.data_root) / "audit"
    _lock(ctx, root)
    signer = signer_of(ctx.config, root)
    database = ctx.required_database
    async with database.read() as connection:
        row = await sql.newest_checkpoint(connection)
        taken = await sql.taken_by_source(connection)
    audit_log = AuditLog(root / "log")
    newer = audit_log.open(None if row is None else sql.saved_of(row))
    for record in newer:
        source = record["source"]
        taken[source["id"]] = max(taken.get(source["id"], 0), source["sequence"])

    wake = asyncio.Event()
    spools = root / "spool"
    spools.mkdir(parents=True, exist_ok=True, mode=0o700)
    intake = Intake(spools, taken, boot_id())
    since_ns = ctx.clock.time_ns() if row is None else row.time_ns
    events = EventIntake(ctx.bus, taken, since_ns, wake)
    writer = Writer(
        audit_log,
        intake,
        events,
        database,
        signer,
        retention_of(ctx.config),
        ctx.clock,
        wake,
        since_checkpoint=0 if row is None else row.size,
    )
    writer.note = "" if row is None else row.note
    deliveries = Deliveries(ctx, audit_log, writer, database)
    await deliveries.start(ctx.config)
    handlers = AuditHandlers(
        audit_log,
        writer,
        database,
        ctx.bus,
        str(signer.key),
        deliveries.states,
        ctx.spawn,
    )
    _tell_start(ctx.config, writer, audit_log)

    async def spooled(_: bytes) -> None:
        wake.set()

    async def reload(config: EngineConfig) -> None:
        writer.retention = retention_of(config)
        await deliveries.start(config)
        writer.add(_configured(config, "reload"))

    async def close() -> None:
        await writer.close()
        audit_log.close()
        intake.close()

    await writer.turn()
    await ctx.bus.listen(SPOOLED, spooled)
    await handlers.serve()
    ctx.on_close(close)
    ctx.on_reload(reload)
    writing = ctx.spawn(writer.run(), name="audit log")
    ctx.on_close(lambda: _ended(writing))
    ctx.spawn(events.run(), name="events for the audit log")


async def _ended(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait([task])


def signer_of(config: EngineConfig, root: Path) -> Signer:
    return keys.signer_of(
        config.node,
        key_file=config.audit_key,
        default_file=root / "key.pem",
        command=config.audit_sign_command,
        verifier=config.audit_verifier,
    )


def retention_of(config: EngineConfig) -> Retention:
    return Retention(config.audit_retention_s, config.audit_max_bytes)


def _lock(ctx: ServiceContext, root: Path) -> None:
    """Be the only one that writes this log. Raises Conflict."""
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise Conflict(f"another audit service writes the log in {root}") from error

    async def unlock() -> None:
        os.close(descriptor)

    ctx.on_close(unlock)


def _tell_start(config: EngineConfig, writer: Writer, audit_log: AuditLog) -> None:
    first, end = audit_log.lost
    if end > first:
        reason = f"records {first} to {end - 1} were signed, and are not on the disk any more"
        writer.add(
            {
                "kind": records.GAP,
                "time": _now(),
                "gap": {"count": end - first, "reason": reason, "numbers": [first, end]},
            }
        )
    writer.add(_configured(config, "start"))


def _configured(config: EngineConfig, verb: str) -> dict[str, Any]:
    """The record that says by which rules is recorded from now on."""
    policy = Policy.read(config.audit_policy)
    digest = hashlib.sha256(policy.model_dump_json().encode()).hexdigest()
    return {
        "kind": records.ENGINE,
        "time": _now(),
        "actor": {"name": "system:audit"},
        "action": {"resource": "audit", "verb": verb},
        "details": {
            "mode": config.audit_mode,
            "policy": f"sha256:{digest}",
            "retention_s": config.audit_retention_s,
            "sinks": sorted(sink.name for sink in config.audit_sinks),
            "version": VERSION,
        },
    }


def _now() -> str:
    return records.moment(time.time_ns())
