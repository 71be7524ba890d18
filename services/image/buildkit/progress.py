"""What a build shows: vertices (the lines of a progress display), what they wrote, warnings; told live, and kept.

Source: moby/buildkit, control.proto (StatusResponse); names of vertices as its Dockerfile frontend gives them.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from google.protobuf.timestamp_pb2 import Timestamp

from services.image.buildkit.wire import control_pb2, ops_pb2

# What is kept of a build's output for those who look at it later, and for a client that reads slowly.
MAX_LOG_BYTES = 2 << 20
CLIPPED = b"\n[output clipped, log limit 2MiB reached]\n"
TRANSFER_TOLD_EVERY_S = 0.1


def now() -> Timestamp:
    return timestamp(time.time_ns())


def timestamp(value_ns: int) -> Timestamp:
    return Timestamp(seconds=value_ns // 1_000_000_000, nanos=value_ns % 1_000_000_000)


def digest_of(*parts: str) -> str:
    """A vertex's name on the wire: any digest, the same for the same thing."""
    return f"sha256:{hashlib.sha256(chr(0).join(parts).encode('utf-8', 'surrogateescape')).hexdigest()}"


@dataclass(slots=True)
class VertexLine:
    """One line of the display."""

    progress: Progress
    vertex: control_pb2.Vertex
    logged_bytes: int = 0
    statuses: dict[str, control_pb2.VertexStatus] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        return self.vertex.digest

    def _tell(self) -> None:
        self.progress.tell(control_pb2.StatusResponse(vertexes=[self.vertex]))

    def start(self) -> None:
        if not self.vertex.HasField("started"):
            self.vertex.started.CopyFrom(now())
            self.progress.started += 1
            self._tell()

    def cached(self) -> None:
        self.vertex.cached = True
        self.progress.cached += 1

    def finish(self, error: str = "") -> None:
        if self.vertex.HasField("completed"):
            return
        self.start()
        self.vertex.completed.CopyFrom(now())
        self.vertex.error = error
        self.progress.completed += 1
        self._tell()

    def log(self, stream: int, data: bytes) -> None:
        """Args: stream: 1 is standard output, 2 standard error."""
        if self.logged_bytes > MAX_LOG_BYTES:
            return
        self.logged_bytes += len(data)
        if self.logged_bytes > MAX_LOG_BYTES:
            data = CLIPPED
        entry = control_pb2.VertexLog(vertex=self.digest, timestamp=now(), stream=stream, msg=data)
        self.progress.tell(control_pb2.StatusResponse(logs=[entry]))

    def status(self, identifier: str, *, current: int = 0, total: int = 0, done: bool = False, name: str = "") -> None:
        """A line below the line: something that makes progress of its own."""
        status = self.statuses.get(identifier)
        if status is None:
            status = control_pb2.VertexStatus(ID=identifier, vertex=self.digest, name=name or identifier, started=now())
            self.statuses[identifier] = status
        status.current, status.total = current, total
        status.timestamp.CopyFrom(now())
        if done:
            status.completed.CopyFrom(now())
        self.progress.tell(control_pb2.StatusResponse(statuses=[status]))


@dataclass(slots=True)
class Progress:
    """Everything that one build shows."""

    events: list[control_pb2.StatusResponse] = field(default_factory=list)
    ended: bool = False
    started: int = 0
    completed: int = 0
    cached: int = 0
    warnings: int = 0
    _grown: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self, response: control_pb2.StatusResponse) -> None:
        copy = control_pb2.StatusResponse()
        copy.CopyFrom(response)
        self.events.append(copy)
        self._grown.set()

    def end(self) -> None:
        """Nothing more comes."""
        self.ended = True
        self._grown.set()

    async def follow(self) -> AsyncIterator[control_pb2.StatusResponse]:
        """All that was told, and what is told from now on until the end; what is there together comes together."""
        at = 0
        while True:
            self._grown.clear()
            fresh = self.events[at:]
            at += len(fresh)
            if fresh:
                merged = control_pb2.StatusResponse()
                for event in fresh:
                    merged.MergeFrom(event)
                yield merged
            elif self.ended:
                return
            else:
                await self._grown.wait()

    def vertex(
        self, name: str, *key: str, inputs: Sequence[str] = (), group: ops_pb2.ProgressGroup | None = None
    ) -> VertexLine:
        """A new line, which has not begun."""
        vertex = control_pb2.Vertex(digest=digest_of(name, *key), name=name, inputs=list(inputs))
        if group is not None:
            vertex.progressGroup.CopyFrom(group)
        return VertexLine(self, vertex)

    @asynccontextmanager
    async def doing(self, name: str, *key: str, inputs: Sequence[str] = ()) -> AsyncIterator[VertexLine]:
        """A line for the time of the block; what the block raises is its error."""
        line = self.vertex(name, *key, inputs=inputs)
        line.start()
        try:
            yield line
        except asyncio.CancelledError:
            line.finish("context canceled")
            raise
        except BaseException as error:
            line.finish(str(error) or type(error).__name__)
            raise
        line.finish()

    def warn(self, warning: control_pb2.VertexWarning) -> None:
        self.warnings += 1
        self.tell(control_pb2.StatusResponse(warnings=[warning]))


class TransferStatus:
    """Bytes of a transfer, told now and then."""

    def __init__(self, line: VertexLine, identifier: str) -> None:
        self._line = line
        self._identifier = identifier
        self._bytes = 0
        self._told_at = 0.0

    async def add(self, size: int) -> None:
        self._bytes += size
        if time.monotonic() - self._told_at > TRANSFER_TOLD_EVERY_S:
            self._told_at = time.monotonic()
            self._line.status(self._identifier, current=self._bytes, name="transferring")

    def done(self) -> None:
        self._line.status(self._identifier, current=self._bytes, name="transferring", done=True)
