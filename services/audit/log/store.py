"""The log: records by number, appended in batches, read from any number on, proved, rotated, and removed when old.

Nothing here waits: what waits for the disk (`sync`, `rotate`) is called from a thread by whoever writes.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.audit.log.hashes import GROUP, GROUP_LEVEL, StoredHashes
from services.audit.log.segments import (
    COMPRESSED,
    HINT_BYTES,
    RAW,
    ActiveSegment,
    ClosedSegment,
    compress,
    file_name,
)
from shared.auditing.records import decoded
from shared.errors import InvalidArgument, NotFound
from shared.transparency import merkle
from shared.transparency.merkle import Frontier, complete_parts, leaf_hash

SEGMENT_BYTES = 16 << 20
SEGMENT_RECORDS = 1 << 16


@dataclass(frozen=True, slots=True)
class Saved:
    """What a checkpoint says of the tree: its size, and the hashes that it is made of (see `Frontier`)."""

    size: int
    nodes: tuple[bytes, ...]


class AuditLog:
    """One log in a directory. Opened by one process at a time.

    Attributes:
        lost: Numbers of records that a checkpoint had and the files do not have any more: first, and the one after the
            last; equal when there are none.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._hashes = StoredHashes(directory, self._leaves_of)
        self._closed: list[ClosedSegment] = []
        self._closing: ActiveSegment | None = None
        self.lost = (0, 0)

    def open(self, saved: Saved | None = None) -> list[dict[str, Any]]:
        """Go on where the files end; the records that are newer than what was saved.

        Raises:
            Internal: A file is not what it should be.
        """
        self._closed = self._find_closed()
        self._active, lines = self._find_active()
        if saved is not None and saved.size > self._active.end:
            self._begin_after_loss(saved.size)
            lines = []
        first = self._active.first
        if saved is not None and saved.size >= first:
            self._frontier = Frontier(saved.size, saved.nodes)
        else:
            self._frontier = self._frontier_at(first)
        for number, line in enumerate(lines[self._frontier.size - first :], self._frontier.size):
            self._add_leaf(number, leaf_hash(line))
        since = first if saved is None else max(saved.size, self.first)
        return [decoded(line) for line in self._all_from(since)]

    def _find_active(self) -> tuple[ActiveSegment, list[bytes]]:
        """The file that grows, and its lines. One that was to be compressed when the process died is, now."""
        end = self._closed[-1].end if self._closed else 0
        active, lines = None, []
        for path in sorted(self._directory.glob(f"[0-9]*{RAW}")):
            if active is not None:
                self._closed.append(self._compressed(active))
                active.close()
            active = ActiveSegment(self._directory, int(path.name.removesuffix(RAW)))
            lines = _whole(active.found(), active.first)
            active.adopt(lines)
        if active is None:
            active = ActiveSegment(self._directory, end)
        return active, lines

    def _all_from(self, number: int) -> list[bytes]:
        lines: list[bytes] = []
        while more := self.read(number + len(lines), limit=SEGMENT_RECORDS, limit_bytes=SEGMENT_BYTES):
            lines += more
        return lines

    def _find_closed(self) -> list[ClosedSegment]:
        closed = []
        for path in sorted(self._directory.glob(f"[0-9]*{COMPRESSED}")):
            segment = ClosedSegment.read(path)
            # A crash between writing the one and removing the other leaves both.
            (self._directory / f"{file_name(segment.first)}{RAW}").unlink(missing_ok=True)
            closed.append(segment)
        return closed

    def _begin_after_loss(self, at: int) -> None:
        self.lost = (self._active.end, at)
        if self._active.count:
            self._closed.append(self._compressed(self._active))
        else:
            self._active.remove()
        self._active.close()
        self._active = ActiveSegment(self._directory, at)

    def _compressed(self, segment: ActiveSegment) -> ClosedSegment:
        return compress(self._directory, segment.first, segment.groups(), time.time_ns())

    def _frontier_at(self, size: int) -> Frontier:
        return Frontier(size, self.nodes_before(size))

    @property
    def size(self) -> int:
        """How many records there were; the number of the next."""
        return self._frontier.size

    @property
    def first(self) -> int:
        """The number of the oldest record that is still there."""
        if self._closed:
            return self._closed[0].first
        return self._active.first if self._closing is None else self._closing.first

    @property
    def disk_bytes(self) -> int:
        return sum(segment.disk_bytes for segment in self._closed) + self._active.size_bytes

    def saved(self) -> Saved:
        return Saved(self._frontier.size, self._frontier.nodes)

    def root(self) -> bytes:
        return self._frontier.root()

    def append(self, lines: Sequence[bytes]) -> None:
        """Add records, of which the first has the number `size`.

        Raises:
            Unavailable: The disk refuses; nothing was added.
        """
        leaves = [leaf_hash(line) for line in lines]
        self._active.append(lines, leaves)
        for leaf in leaves:
            self._add_leaf(self._frontier.size, leaf)

    def _add_leaf(self, number: int, leaf: bytes) -> None:
        if (number + 1) % GROUP == 0:
            node = leaf
            for left in reversed(self._frontier.nodes[-GROUP_LEVEL:]):
                node = merkle.node_hash(left, node)
            self._hashes.add(number >> GROUP_LEVEL, node)
        self._frontier.append(leaf)

    def sync(self) -> None:
        self._active.sync()

    # -- reading ----------------------------------------------------------------------------------------------------

    def read(self, first: int, *, limit: int, limit_bytes: int) -> list[bytes]:
        """Lines of records from a number on: one at least, if there is any, and not many more bytes than asked for.

        Raises:
            NotFound: They were removed: detail["first"] is the oldest that is there.
        """
        lines: list[bytes] = []
        size = 0
        while first < self.size and len(lines) < limit and size < limit_bytes:
            try:
                group = self._group(first)
            except NotFound:
                if lines:
                    return lines  # up to where some were lost
                raise
            base = max(first // GROUP * GROUP, self._segment_of(first).first)
            for line in group[first - base :]:
                if len(lines) == limit or (lines and size + len(line) > limit_bytes):
                    return lines
                lines.append(line)
                size += len(line) + 1
            first = base + len(group)
        return lines

    def _segment_of(self, number: int) -> ActiveSegment | ClosedSegment:
        if number >= self._active.first:
            return self._active
        if self._closing is not None and number >= self._closing.first:
            return self._closing
        place = bisect_right(self._closed, number, key=lambda segment: segment.first) - 1
        if place < 0 or number >= self._closed[place].end:
            following = self._closed[place + 1].first if place + 1 < len(self._closed) else self._active.first
            raise NotFound(f"record {number} is not kept any more", first=following, field="from")
        return self._closed[place]

    def _group(self, number: int) -> list[bytes]:
        return self._segment_of(number).group(number)

    def _leaves_of(self, group: int) -> list[bytes]:
        return [leaf_hash(line) for line in self._group(group * GROUP)]

    def hints(self, first: int, count: int) -> bytes:
        """Beginnings of the hashes of records from a number on, as they were when these were written."""
        found = b""
        while count > 0 and first < self.size:
            segment = self._segment_of(first)
            at = first - segment.first
            here = min(count, segment.count - at)
            part = segment.hints()[at * HINT_BYTES : (at + here) * HINT_BYTES]
            found += part.ljust(here * HINT_BYTES, b"\0")
            first, count = first + here, count - here
        return found

    # -- proofs -----------------------------------------------------------------------------------------------------

    def root_at(self, size: int) -> bytes:
        """Raises InvalidArgument for a size that the log has not had; NotFound when what it takes was removed."""
        self._check(size, 0)
        return merkle.root_at(self._hashes, size)

    def inclusion_proof(self, number: int, size: int) -> list[bytes]:
        self._check(size, 1)
        if not 0 <= number < size:
            raise InvalidArgument(f"there is no record {number} in a log of {size}", field="number")
        return merkle.inclusion_proof(self._hashes, number, size)

    def consistency_proof(self, first: int, second: int) -> list[bytes]:
        self._check(second, 1)
        if not 0 < first <= second:
            raise InvalidArgument(f"there is no proof from size {first} to size {second}", field="first")
        return merkle.consistency_proof(self._hashes, first, second)

    def nodes_before(self, size: int) -> list[bytes]:
        """What the tree of that size is made of: enough to go on with the records behind it (see `Frontier`)."""
        return [self._hashes.subtree(level, index) for level, index in complete_parts(size)]

    def _check(self, size: int, least: int) -> None:
        if not least <= size <= self.size:
            raise InvalidArgument(f"the log has had sizes up to {self.size}, not {size}", field="size")

    # -- rotation ---------------------------------------------------------------------------------------------------

    @property
    def rotation_due(self) -> bool:
        full = self._active.size_bytes >= SEGMENT_BYTES or self._active.count >= SEGMENT_RECORDS
        return full and self._active.end % GROUP == 0 and self._closing is None

    @property
    def compression_due(self) -> bool:
        return self._closing is not None

    def rotate(self) -> None:
        """Begin another file. The one before it is to be compressed by `compress`, and exchanged by `rotated`."""
        assert self._closing is None
        self._active.sync()
        self._hashes.sync()
        self._closing = self._active
        self._active = ActiveSegment(self._directory, self._closing.end)

    def compress(self) -> ClosedSegment:
        """Takes a while, and may run in a thread. Raises Unavailable: to be tried again."""
        assert self._closing is not None
        return self._compressed(self._closing)

    def rotated(self, closed: ClosedSegment) -> None:
        """Read from the compressed file from now on."""
        assert self._closing is not None
        self._closed.append(closed)
        self._closing.close()
        self._closing = None

    def remove_before(self, last_ns: int, *, limit_bytes: int) -> tuple[int, int]:
        """Remove files that are too old, and the oldest of what is too much; the range of numbers that is gone."""
        first = self.first
        while self._closed and (self._closed[0].last_ns < last_ns or self.disk_bytes > limit_bytes):
            self._closed.pop(0).remove()
        return first, self.first

    def close(self) -> None:
        self._active.sync()
        self._hashes.sync()
        self._active.close()
        if self._closing is not None:
            self._closing.close()
        self._hashes.close()


def _whole(lines: list[bytes], first: int) -> list[bytes]:
    """The lines up to the first that is not the record of its number: it was not written whole."""
    for at, line in enumerate(lines):
        try:
            number = decoded(line)["number"]
        except (ValueError, KeyError):
            number = None
        if number != first + at:
            return lines[:at]
    return lines
