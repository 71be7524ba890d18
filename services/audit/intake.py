"""Taking records out of spools: each once, in its writer's order, also when either side is killed in between.

A record is known by its source and its number there. Which number was taken last is in the log itself: every record
has both. So a spool's file is removed only when all of it is on the log's disk, and may be read again until then.

What a writer that died could not say is said here: that its open requests have no outcome, and what it had lost.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from shared.auditing import records
from shared.auditing.frames import HEAD, LARGEST_BYTES, Torn, unpacked
from shared.auditing.recorder import gap
from shared.auditing.spool import CLOSED, LOST_SUFFIX, SUFFIX

log = logging.getLogger(__name__)

READ_BYTES = LARGEST_BYTES + HEAD.size  # one record at least
# A writer writes a record with one call: what is torn for longer will not become whole.
TORN_FOR_S = 5.0


@dataclass(slots=True)
class Taken:
    """A record, and where it comes from."""

    source: str
    sequence: int
    record: dict[str, Any]


@dataclass(slots=True)
class _File:
    path: Path
    descriptor: int
    position: int
    size: int = 0


@dataclass(slots=True)
class _Source:
    """One writer's spool, as far as it was read."""

    name: str
    index: int
    file: _File
    next: int
    boot: str
    open: dict[str, dict[str, Any]] = field(default_factory=dict)
    last_gap: int = 0
    torn_since: float = 0.0
    finished: list[_File] = field(default_factory=list)
    closed: bool = False
    ended: bool = False


class Intake:
    """All spools of a directory.

    Args:
        taken: By source, the number of the last record that the log has; kept up to date here.
        boot: Which run of the machine this is.

    Attributes:
        gone: Sources that have ended, and whose files were removed.
    """

    def __init__(self, directory: Path, taken: dict[str, int], boot: str) -> None:
        self._directory = directory
        self._taken = taken
        self._boot = boot
        self._sources: dict[str, _Source] = {}
        self._unreadable: set[Path] = set()
        self.gone: list[str] = []

    @property
    def taken(self) -> dict[str, int]:
        return self._taken

    def collect(self, limit: int) -> list[Taken]:
        """What is there and was not taken yet, about as much as asked for."""
        self._find()
        found: list[Taken] = []
        for source in list(self._sources.values()):
            for taken in self._of(source, limit - len(found)):
                if taken.sequence > self._taken.get(source.name, 0):
                    self._taken[source.name] = taken.sequence
                    found.append(taken)
            if len(found) >= limit:
                break
        return found

    def committed(self) -> None:
        """What was collected is on the log's disk: remove the files that are done with."""
        for source in list(self._sources.values()):
            for file in source.finished:
                os.close(file.descriptor)
                file.path.unlink(missing_ok=True)
            source.finished.clear()
            if source.ended:
                os.close(source.file.descriptor)
                source.file.path.unlink(missing_ok=True)
                (self._directory / f"{source.name}{LOST_SUFFIX}").unlink(missing_ok=True)
                del self._sources[source.name]
                self._taken.pop(source.name, None)
                self.gone.append(source.name)

    # -- finding ----------------------------------------------------------------------------------------------------

    def _find(self) -> None:
        by_source: dict[str, list[int]] = {}
        for path in self._directory.glob(f"*{SUFFIX}"):
            name, _, index = path.name.removesuffix(SUFFIX).rpartition(".")
            if index.isdecimal() and name not in self._sources:
                by_source.setdefault(name, []).append(int(index))
        for name, indexes in by_source.items():
            self._open(name, min(indexes))

    def _path(self, name: str, index: int) -> Path:
        return self._directory / f"{name}.{index}{SUFFIX}"

    def _open(self, name: str, index: int) -> None:
        opened = self._opened(self._path(name, index))
        if opened is None:
            return
        file, head = opened
        source = _Source(name, index, file, int(head["next"]), str(head.get("boot", "")))
        source.open = {str(one["request"]): one for one in head.get("open", ())}
        self._sources[name] = source

    def _opened(self, path: Path) -> tuple[_File, dict[str, Any]] | None:
        if path in self._unreadable:
            return None
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            frame = unpacked(os.pread(descriptor, LARGEST_BYTES + HEAD.size, 0), 0)
            head = None if frame is None else orjson.loads(frame[0])
        except (Torn, orjson.JSONDecodeError):
            frame = head = None
        if frame is None or head is None:
            os.close(descriptor)
            self._unreadable.add(path)
            log.error("the audit spool %s cannot be read, and is left where it is", path)
            return None
        return _File(path, descriptor, frame[1]), head

    # -- reading ----------------------------------------------------------------------------------------------------

    def _of(self, source: _Source, limit: int) -> Iterator[Taken]:
        """New records of a source; at its end, what it could not say itself."""
        while limit > 0 and not source.ended:
            count = 0
            for payload in self._payloads(source):
                yield self._taken_from(source, payload)
                count += 1
            limit -= count
            if not count and not self._go_on(source):
                if self._is_dead(source):
                    # Looked at again, since it may have written between the look and its end.
                    for payload in self._payloads(source):
                        yield self._taken_from(source, payload)
                    if not self._go_on(source):
                        yield from self._last_words(source)
                        source.ended = True
                        return
                    continue
                if self._is_stuck(source):
                    yield self._numbered(source, _unreadable("a part of a spool cannot be read"))
                return

    def _payloads(self, source: _Source) -> Iterator[bytes]:
        file = source.file
        if not any(os.pread(file.descriptor, HEAD.size, file.position)):
            return  # most looks find nothing
        data = os.pread(file.descriptor, READ_BYTES, file.position)
        at = 0
        try:
            while (frame := unpacked(data, at)) is not None:
                payload, at = frame
                source.torn_since = 0.0
                if payload == CLOSED:
                    source.closed = True
                else:
                    yield payload
        except Torn:
            source.torn_since = source.torn_since or time.monotonic()
        finally:
            file.position += at

    def _taken_from(self, source: _Source, payload: bytes) -> Taken:
        record = orjson.loads(payload)
        request = record.get("request")
        match record.get("kind"):
            case records.RECEIVED:
                source.open[str(request)] = {"request": request, "action": record.get("action")}
            case records.COMPLETE:
                source.open.pop(str(request), None)
            case records.GAP:
                source.last_gap = int(record["gap"].get("id") or 0)
        return self._numbered(source, record)

    def _numbered(self, source: _Source, record: dict[str, Any]) -> Taken:
        sequence, source.next = source.next, source.next + 1
        return Taken(source.name, sequence, record)

    def _go_on(self, source: _Source) -> bool:
        """Go on with the source's next file, if there is one: then nothing comes to this one any more."""
        path = self._path(source.name, source.index + 1)
        if not path.exists():
            return False
        for _ in self._leftover(source):  # written after the last look and before the next file was begun
            return True
        opened = self._opened(path)
        if opened is None:
            return False
        source.finished.append(source.file)
        source.file, head = opened
        source.next = int(head["next"])
        source.index += 1
        source.torn_since = 0.0
        return True

    def _leftover(self, source: _Source) -> Iterator[bytes]:
        data = os.pread(source.file.descriptor, READ_BYTES, source.file.position)
        try:
            frame = unpacked(data, 0)
        except Torn:
            return
        if frame is not None:
            yield frame[0]

    def _is_dead(self, source: _Source) -> bool:
        """Whether nobody holds the writer's lock any more."""
        try:
            fcntl.flock(source.file.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(source.file.descriptor, fcntl.LOCK_UN)
        return True

    def _is_stuck(self, source: _Source) -> bool:
        """Whether a living writer's record has been torn for long; said once."""
        if not source.torn_since or time.monotonic() - source.torn_since < TORN_FOR_S:
            return False
        source.torn_since = float("inf")
        log.error("the audit spool %s cannot be read from byte %d on", source.file.path, source.file.position)
        return True

    def _last_words(self, source: _Source) -> Iterator[Taken]:
        if source.torn_since and source.torn_since != float("inf"):
            yield self._numbered(source, _unreadable("its writer was killed while it wrote a record", count=1))
        if source.boot != self._boot and not source.closed:
            yield self._numbered(
                source, _unreadable("the machine ended without order: what was written in its last moments may be lost")
            )
        if (lost := self._lost(source)) is not None:
            yield self._numbered(source, gap(lost))
        for request in source.open.values():
            yield self._numbered(source, _without_outcome(request))

    def _lost(self, source: _Source) -> dict[str, Any] | None:
        """What the writer counted as lost and has not told."""
        try:
            text = (self._directory / f"{source.name}{LOST_SUFFIX}").read_bytes().rstrip(b"\0")
            lost: dict[str, Any] = orjson.loads(text) if text else {}
        except (OSError, orjson.JSONDecodeError):
            return None
        return lost if lost.get("count") and lost.get("gap") != source.last_gap else None

    def close(self) -> None:
        for source in self._sources.values():
            for file in (source.file, *source.finished):
                os.close(file.descriptor)


def _unreadable(reason: str, count: int | None = None) -> dict[str, Any]:
    now = records.moment(time.time_ns())
    return {"kind": records.GAP, "time": now, "gap": {"count": count, "reason": reason}}


def _without_outcome(request: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": records.COMPLETE,
        "time": records.moment(time.time_ns()),
        "request": request["request"],
        "action": request.get("action"),
        "outcome": {"status": None, "error": "no outcome was recorded: the process that served it has ended"},
    }
