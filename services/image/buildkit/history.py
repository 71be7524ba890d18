"""Builds that have ended, and what they showed: kept for `docker buildx history`.

::

    <data>/build/history/<ref>.record     BuildHistoryRecord
                         <ref>.progress   StatusResponse, all of it in one

The oldest go when there are too many, or they are too old; those that are pinned stay.

Source: moby/buildkit, solver/llbsolver/history.go (what is told when); docker buildx history.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.message import DecodeError
from grpclib import GRPCError

from services.image.buildkit.builds import Build, Builds
from services.image.buildkit.failures import to_grpc
from services.image.buildkit.progress import timestamp
from services.image.buildkit.wire import control_pb2
from shared.errors import DavitError, NotFound, Unsupported

RECORD, PROGRESS = ".record", ".progress"
KEPT, KEPT_S = 50, 48 * 3600.0
LISTENERS_WAITING = 256
_REF = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")
STARTED, COMPLETE, DELETED = (
    control_pb2.STARTED,
    control_pb2.COMPLETE,
    control_pb2.DELETED,
)


@dataclass(slots=True)
class Outcome:
    """What a build has come to: its answer, unless it failed."""

    answer: dict[str, str] = field(default_factory=dict)


class History:
    """Args: root: where records are."""

    def __init__(self, root: Path, builds: Builds) -> None:
        self._root = root
        self._builds = builds
        self._running: dict[str, control_pb2.BuildHistoryRecord] = {}
        self._listeners: set[asyncio.Queue[control_pb2.BuildHistoryEvent]] = set()

    # -- writing ----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def recording(self, build: Build) -> AsyncIterator[Outcome]:
        """Record a build that goes on within the block; what only asks, and internal ones, are not recorded."""
        if build.request.Internal or not _REF.match(build.ref):
            yield Outcome()
            return
        record = _record_of(build)
        self._running[build.ref] = record
        self._tell(STARTED, record)
        outcome = Outcome()
        try:
            yield outcome
        except GRPCError as error:
            _set_error(record, error)
            raise
        except DavitError as error:
            _set_error(record, to_grpc(error, plain=True))
            raise
        except asyncio.CancelledError:
            record.error.code, record.error.message = 1, "context canceled"
            raise
        finally:
            del self._running[build.ref]
            if build.options is None or not build.options.subrequest:
                await asyncio.shield(self._finish(record, build, outcome))

    async def _finish(self, record: control_pb2.BuildHistoryRecord, build: Build, outcome: Outcome) -> None:
        _complete(record, build)
        record.ExporterResponse.update(outcome.answer)
        shown = control_pb2.StatusResponse()
        for event in build.progress.events:
            shown.MergeFrom(event)
        await asyncio.to_thread(self._write, record, shown)
        self._tell(COMPLETE, record)

    def _write(self, record: control_pb2.BuildHistoryRecord, shown: control_pb2.StatusResponse) -> None:
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for suffix, message in ((PROGRESS, shown), (RECORD, record)):  # a record says that all is there
            part = self._root / f"{record.Ref}{suffix}.part"
            part.write_bytes(message.SerializeToString())
            os.replace(part, self._root / f"{record.Ref}{suffix}")
        self._tidy()

    def _tidy(self) -> None:
        records = self._records()
        old_ns = time.time_ns() - int(KEPT_S * 1e9)
        loose = [record for record in records if not record.pinned]
        for number, record in enumerate(loose):
            if number >= KEPT or record.CompletedAt.ToNanoseconds() < old_ns:
                self._delete(record.Ref)

    def _delete(self, ref: str) -> None:
        for suffix in (RECORD, PROGRESS):
            (self._root / f"{ref}{suffix}").unlink(missing_ok=True)

    # -- reading ----------------------------------------------------------------------------------------------------

    def _records(self) -> list[control_pb2.BuildHistoryRecord]:
        """The newest first. Blocks."""
        found = []
        for path in self._root.glob(f"*{RECORD}") if self._root.is_dir() else ():
            try:
                found.append(control_pb2.BuildHistoryRecord.FromString(path.read_bytes()))
            except (OSError, DecodeError):  # removed at this moment, or not whole: it is no record
                continue
        return sorted(found, key=lambda record: record.CreatedAt.ToNanoseconds(), reverse=True)

    async def progress(self, ref: str) -> list[control_pb2.StatusResponse]:
        """What a build showed that has ended; empty for one that is not known."""
        if not _REF.match(ref):
            return []
        try:
            data = await asyncio.to_thread((self._root / f"{ref}{PROGRESS}").read_bytes)
            return [control_pb2.StatusResponse.FromString(data)]
        except (OSError, DecodeError):
            return []

    async def listen(self, request: control_pb2.BuildHistoryRequest) -> AsyncIterator[control_pb2.BuildHistoryEvent]:
        """What there is, the newest first, and then what happens, unless the client wants no more than that."""
        queue: asyncio.Queue[control_pb2.BuildHistoryEvent] = asyncio.Queue(LISTENERS_WAITING)
        self._listeners.add(queue)
        try:
            for event in await self._known(request):
                yield event
            while not request.EarlyExit:
                event = await queue.get()
                if not request.Ref or event.record.Ref == request.Ref:
                    yield event
        finally:
            self._listeners.discard(queue)

    async def _known(self, request: control_pb2.BuildHistoryRequest) -> list[control_pb2.BuildHistoryEvent]:
        events = [_event(STARTED, record) for record in self._running.values()]
        if not request.ActiveOnly:
            events += [_event(COMPLETE, record) for record in await asyncio.to_thread(self._records)]
        events = [event for event in events if not request.Ref or event.record.Ref == request.Ref]
        events = [event for event in events if all(_accepts(text, event.record) for text in request.Filter)]
        return events[: request.Limit] if request.Limit else events

    async def update(self, request: control_pb2.UpdateBuildHistoryRequest) -> None:
        """Pin, finish or delete a record. Raises NotFound."""
        ref = request.Ref
        path = self._root / f"{ref}{RECORD}"
        if not _REF.match(ref) or not path.exists():
            raise NotFound(f"no record found for {ref!r}", field="Ref")
        record = control_pb2.BuildHistoryRecord.FromString(await asyncio.to_thread(path.read_bytes))
        if request.Delete:
            await asyncio.to_thread(self._delete, ref)
            self._tell(DELETED, record)
        elif not request.Finalize:
            record.pinned = request.Pinned
            await asyncio.to_thread(path.write_bytes, record.SerializeToString())

    def _tell(self, kind: control_pb2.BuildHistoryEventType, record: control_pb2.BuildHistoryRecord) -> None:
        for queue in self._listeners:
            if not queue.full():  # who takes in nothing hears no more
                queue.put_nowait(_event(kind, record))


def _event(
    kind: control_pb2.BuildHistoryEventType, record: control_pb2.BuildHistoryRecord
) -> control_pb2.BuildHistoryEvent:
    return control_pb2.BuildHistoryEvent(type=kind, record=record)


def _record_of(build: Build) -> control_pb2.BuildHistoryRecord:
    request = build.request
    return control_pb2.BuildHistoryRecord(
        Ref=build.ref,
        Frontend=request.Frontend,
        FrontendAttrs=request.FrontendAttrs,
        Exporters=request.Exporters,
        CreatedAt=timestamp(build.created_ns),
    )


def _complete(record: control_pb2.BuildHistoryRecord, build: Build) -> None:
    progress = build.progress
    record.CompletedAt.CopyFrom(timestamp(time.time_ns()))
    record.numCachedSteps, record.numCompletedSteps = progress.cached, progress.completed
    record.numTotalSteps, record.numWarnings = progress.started, progress.warnings


def _set_error(record: control_pb2.BuildHistoryRecord, error: GRPCError) -> None:
    record.error.code, record.error.message = error.status.value, error.message or ""
    for type_url, value in error.details or ():
        record.error.details.add(type_url=type_url, value=value)


def _accepts(text: str, record: control_pb2.BuildHistoryRecord) -> bool:
    """Raises Unsupported for a filter that is not known."""
    name, equals, value = text.partition("==")
    if not equals:
        name, equals, value = text.partition("=")
    if name == "ref" and equals:
        return record.Ref == value
    if name == "status" and equals:
        failed, running = bool(record.error.message), not record.HasField("CompletedAt")
        return value == ("running" if running else "error" if failed else "completed")
    if name == "repository" and equals:
        return record.FrontendAttrs.get("vcs:source", "") == value
    raise Unsupported(f"the filter {text} is not supported by this engine", field="Filter")
