"""What builds keep on the disk, and its removal: `docker buildx du` and `prune`.

Three kinds of records: steps (layers that are images to nobody), cache mounts, and copies of clients' directories.

Source: moby/buildkit, client/diskusage.go and client/prune.go (record types, filters).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from services.image.build.cache.cachedirs import directory_bytes
from services.image.buildkit.contexts import Contexts
from services.image.buildkit.progress import timestamp
from services.image.buildkit.wire import control_pb2
from shared.bus.client import EMPTY, Bus
from shared.contracts import images as contracts
from shared.contracts.images import BuildCachePrune
from shared.docker.moments import parse_rfc3339_ns
from shared.errors import Unsupported

LOCAL, MOUNT, REGULAR = "source.local", "exec.cachemount", "regular"
KINDS = (LOCAL, MOUNT, REGULAR)
SECOND_NS = 1_000_000_000


class Usage:
    """Args: contexts: the copies of clients' directories."""

    def __init__(self, bus: Bus, contexts: Contexts) -> None:
        self._bus = bus
        self._contexts = contexts

    async def records(self, request: control_pb2.DiskUsageRequest) -> list[control_pb2.UsageRecord]:
        """Raises Unsupported for a filter that is not known."""
        chosen = Filters(request.filter)
        records = [*await self._cache(), *await asyncio.to_thread(self._local)]
        age_ns = request.ageLimit
        now = time.time_ns()
        return [
            record
            for record in records
            if chosen.accept(record) and (not age_ns or now - record.LastUsedAt.ToNanoseconds() >= age_ns)
        ]

    async def _cache(self) -> list[control_pb2.UsageRecord]:
        found = []
        for entry in (await self._bus.request(contracts.BUILD_CACHE, EMPTY)).entries:
            record = control_pb2.UsageRecord(
                ID=entry.id,
                Mutable=entry.type == MOUNT,
                InUse=entry.in_use,
                Size=entry.size_bytes,
                Description=entry.description,
                RecordType=entry.type,
                Shared=entry.shared,
                Parents=entry.parents,
            )
            record.CreatedAt.CopyFrom(timestamp(parse_rfc3339_ns(entry.created_at)))
            if entry.last_used_at:
                record.LastUsedAt.CopyFrom(timestamp(parse_rfc3339_ns(entry.last_used_at)))
            found.append(record)
        return found

    def _local(self) -> list[control_pb2.UsageRecord]:
        found = []
        for path in self._contexts.entries():
            try:
                used_ns = path.stat().st_mtime_ns
            except FileNotFoundError:
                continue
            record = control_pb2.UsageRecord(
                ID=_name(path),
                Mutable=True,
                InUse=self._contexts.in_use(path),
                Size=directory_bytes(path),
                Description="local source for a build context",
                RecordType=LOCAL,
            )
            record.CreatedAt.CopyFrom(timestamp(used_ns))
            record.LastUsedAt.CopyFrom(timestamp(used_ns))
            found.append(record)
        return found

    async def prune(self, request: control_pb2.PruneRequest) -> AsyncIterator[control_pb2.UsageRecord]:
        """Remove what is not in use, and tell what was removed.

        Raises:
            Unsupported: A filter or a limit that is not known.
        """
        for name in ("maxUsedSpace", "minFreeSpace"):
            if getattr(request, name):
                raise Unsupported(f"{name} is not supported by this engine: use reserved-space", field=name)
        chosen = Filters(request.filter)
        before_ns = time.time_ns() - request.keepDuration
        kept = request.reservedSpace
        records = sorted(await asyncio.to_thread(self._local), key=lambda record: record.LastUsedAt.ToNanoseconds())
        total = sum(record.Size for record in records)
        for record in records:
            if kept and total <= kept:
                break
            if record.InUse or record.LastUsedAt.ToNanoseconds() > before_ns or not chosen.accept(record):
                continue
            if await asyncio.to_thread(self._remove, record.ID):
                total -= record.Size
                yield record
        for record in await self._prune_cache(request, chosen):
            yield record

    def _remove(self, name: str) -> bool:
        return any(self._contexts.remove(path) for path in self._contexts.entries() if _name(path) == name)

    async def _prune_cache(self, request: control_pb2.PruneRequest, chosen: Filters) -> list[control_pb2.UsageRecord]:
        if chosen.kind not in ("", MOUNT, REGULAR) or chosen.in_use:
            return []
        known = {record.ID: record for record in await self._cache()}
        filters = {name: [value] for name, value in chosen.passed_on().items()}
        if request.keepDuration:
            filters["until"] = [f"{request.keepDuration // SECOND_NS}s"]
        pruned = await self._bus.request(
            contracts.BUILD_PRUNE,
            BuildCachePrune(all=request.all, filters=filters, keep_storage_bytes=request.reservedSpace),
        )
        found = []
        for identifier in pruned.deleted:
            record = known.get(identifier) or control_pb2.UsageRecord(ID=identifier, RecordType=REGULAR)
            found.append(record)
        if found and not sum(record.Size for record in found):
            found[0].Size = pruned.space_reclaimed_bytes
        return found


class Filters:
    """``type==source.local``, ``id~=…`` and so on, all of which must hold.

    Raises:
        Unsupported: A field that is not known.
    """

    def __init__(self, given: Iterable[str]) -> None:
        self.kind = self.identifier = ""
        self.in_use: bool | None = None
        for text in given:
            for part in text.split(","):
                if part.strip():  # clients send an empty one where there is none
                    self._take(part.strip())

    def _take(self, part: str) -> None:
        name, found, value = part.partition("==")
        if not found:
            name, found, value = part.partition("=")
        if name in ("inuse", "in-use"):
            self.in_use = value.lower() not in ("false", "0") if found else True
        elif name == "type" and value in KINDS:
            self.kind = value
        elif name == "id" and found:
            self.identifier = value.removeprefix("~")
        else:
            raise Unsupported(f"the filter {part} is not supported by this engine", field="filter")

    def accept(self, record: control_pb2.UsageRecord) -> bool:
        if self.kind and record.RecordType != self.kind:
            return False
        if self.in_use is not None and record.InUse != self.in_use:
            return False
        return record.ID.startswith(self.identifier)

    def passed_on(self) -> dict[str, str]:
        """As the cache of the image service knows them."""
        return {name: value for name, value in (("type", self.kind), ("id", self.identifier)) if value}


def _name(path: Path) -> str:
    return f"{path.parent.name[:8]}{path.name}"
