"""What the audit service answers: records, proofs, checkpoints, an export, and how deliveries are."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import orjson
import zstandard

from services.audit import sql
from services.audit.log.store import AuditLog
from services.audit.writer import Writer
from shared.bus import streams
from shared.bus.client import Bus, Empty
from shared.contracts import audit as contract
from shared.contracts.audit import (
    Checkpoints,
    Exported,
    ExportLog,
    LogState,
    Proof,
    ProveConsistency,
    ProveInclusion,
    ReadCheckpoints,
    ReadRecords,
    Records,
    Sinks,
    SinkState,
)
from shared.errors import DavitError, InvalidArgument
from shared.state.database import Database
from shared.transparency.merkle import leaf_hash

log = logging.getLogger(__name__)

LONGEST_WAIT_S = 30.0
LARGEST_ANSWER_BYTES = 2 << 20
EXPORT_RECORDS = 256
EXPORT_BYTES = 256 * 1024


class AuditHandlers:
    """One method per contract."""

    def __init__(
        self,
        audit_log: AuditLog,
        writer: Writer,
        database: Database,
        bus: Bus,
        key: str,
        sinks: Callable[[], list[SinkState]],
        spawn: Callable[[Coroutine[Any, Any, None], str], Any],
    ) -> None:
        self._log = audit_log
        self._writer = writer
        self._database = database
        self._bus = bus
        self._key = key
        self._sinks = sinks
        self._spawn = spawn

    async def serve(self) -> None:
        await self._bus.serve(contract.READ, self.read)
        await self._bus.serve(contract.STATE, self.state)
        await self._bus.serve(contract.INCLUSION, self.inclusion)
        await self._bus.serve(contract.CONSISTENCY, self.consistency)
        await self._bus.serve(contract.CHECKPOINTS, self.checkpoints)
        await self._bus.serve(contract.EXPORT, self.export)
        await self._bus.serve(contract.SINKS, self.sinks)

    async def read(self, request: ReadRecords) -> Records:
        if request.first >= self._writer.size and request.wait_s:
            await self._writer.wait_for(request.first, min(request.wait_s, LONGEST_WAIT_S))
        limit = min(request.limit, max(0, self._writer.size - request.first))
        lines: list[bytes] = []
        if limit:
            lines = self._log.read(
                request.first, limit=limit, limit_bytes=min(request.limit_bytes, LARGEST_ANSWER_BYTES)
            )
        return Records(first=request.first, lines=[line.decode() for line in lines], size=self._writer.size)

    async def state(self, _: Empty) -> LogState:
        return LogState(
            first=self._log.first,
            size=self._writer.size,
            note=self._writer.note,
            key=self._key,
            problem=self._writer.problem,
        )

    async def inclusion(self, request: ProveInclusion) -> Proof:
        size = request.size or self._writer.signed_size
        hashes = self._log.inclusion_proof(request.number, size)
        line = self._log.read(request.number, limit=1, limit_bytes=1)[0]
        return Proof(
            size=size,
            root=self._log.root_at(size).hex(),
            hashes=[one.hex() for one in hashes],
            leaf=leaf_hash(line).hex(),
            note=await self._note_of(size),
        )

    async def consistency(self, request: ProveConsistency) -> Proof:
        second = request.second or self._writer.signed_size
        hashes = self._log.consistency_proof(request.first, second)
        return Proof(
            size=second,
            root=self._log.root_at(second).hex(),
            first_root=self._log.root_at(request.first).hex(),
            hashes=[one.hex() for one in hashes],
            note=await self._note_of(second),
        )

    async def _note_of(self, size: int) -> str:
        """The checkpoint of exactly that size; empty when none was signed."""
        async with self._database.read() as connection:
            rows = await sql.checkpoints_from(connection, size, 1)
        return str(rows[0].note) if rows and rows[0].size == size else ""

    async def checkpoints(self, request: ReadCheckpoints) -> Checkpoints:
        async with self._database.read() as connection:
            rows = await sql.checkpoints_from(connection, request.size, request.count)
        return Checkpoints(notes=[row.note for row in rows], sizes=[row.size for row in rows])

    async def sinks(self, _: Empty) -> Sinks:
        return Sinks(sinks=self._sinks())

    async def export(self, request: ExportLog) -> Exported:
        """What is there leaves on the stream after the answer, in a task that the stream's end ends."""
        first = max(request.first, self._log.first)
        end = min(request.end or self._writer.signed_size, self._writer.size)
        if request.first > end:
            raise InvalidArgument(f"there is no record {request.first} yet", field="from")
        stream = await streams.accept(self._bus, request.stream)
        self._spawn(self._send(stream, first, end), "audit export")
        return Exported(first=first, end=end)

    async def _send(self, stream: streams.ByteStream, first: int, end: int) -> None:
        compressor = zstandard.ZstdCompressor(level=1).compressobj()
        try:
            async for chunk in self._lines(first, end):
                if data := compressor.compress(chunk):
                    await stream.write(data)
            await stream.write(compressor.flush())
            await stream.close_write()
        except DavitError as error:
            log.info("an export of the audit log ended: %s", error)
            await stream.cancel(str(error))
        finally:
            await stream.aclose()

    async def _lines(self, first: int, end: int) -> AsyncIterator[bytes]:
        """Records with, behind each group of them, its hints, and behind those that one signs, the checkpoint."""
        before = [node.hex() for node in self._log.nodes_before(first)]
        yield orjson.dumps({"log": {"key": self._key, "first": first, "end": end, "before": before}}) + b"\n"
        number = first
        while number < end:
            lines = self._log.read(number, limit=min(EXPORT_RECORDS, end - number), limit_bytes=EXPORT_BYTES)
            hints = {"hints": {"first": number, "hashes": self._log.hints(number, len(lines)).hex()}}
            async with self._database.read() as connection:
                signed = await sql.checkpoints_from(connection, number + 1, EXPORT_RECORDS)
            notes = [row for row in signed if row.size <= number + len(lines)]
            parts = [orjson.dumps(hints)]
            at = number
            for row in notes:
                parts += lines[at - number : row.size - number]
                parts.append(orjson.dumps({"checkpoint": row.note}))
                at = row.size
            parts += lines[at - number :]
            number += len(lines)
            yield b"\n".join(parts) + b"\n"
