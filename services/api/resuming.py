"""Output that goes on when whoever sends it dies: nothing of it is lost, and nothing doubled.

A log is sent in batches with positions, so the next agent is asked for what is behind the last one. The output of a
process is nowhere but in its container's log; where that has every byte of it as it was, it takes the output's place.
"""

from __future__ import annotations

import asyncio
import codecs
from typing import TYPE_CHECKING

from services.api.copies import Download
from services.api.repeating import ATTEMPTS, until_answered
from services.api.streaming import end_stream
from shared.bus.batches import Batch, BatchReader
from shared.contracts import containers as contracts
from shared.contracts.containers import Attach, AttachInfo, Logs
from shared.docker.frames import STDERR, STDOUT, Demultiplexer, frame
from shared.errors import DavitError, DeadlineExceeded, Unavailable

if TYPE_CHECKING:
    from services.api.call import Call
    from shared.bus.streams import ByteStream

RETRY_PAUSE_S = 0.3
# How long a node may be away before who follows a log of it is told so.
GIVE_UP_AFTER_S = 60.0

STREAMS = {STDOUT: 0, STDERR: 1}
# Lines longer than this are cut in the log, be it in the middle of a character.
CUT_LINES_BYTES = 16 * 1024


class LogLink:
    """A log on one stream after another.

    Attributes:
        request: What is asked for; `stream` and `pipe` in it are replaced.

    Raises:
        DavitError: From all methods, what the other services answer.
    """

    def __init__(self, call: Call, request: Logs) -> None:
        self.request = request
        self._call = call
        self._output: Download | None = None
        self._batches: BatchReader | None = None
        self._losses = 0

    async def open(self) -> AttachInfo:
        info = await until_answered(lambda _: self._ask())
        assert info is not None  # no error counts as done
        return info

    async def _ask(self) -> AttachInfo:
        await self.end()
        stream = await self._call.deps.offer()
        output = self._output = Download(stream)
        self._batches = BatchReader(output)
        where = {"stream": stream.ref, "pipe": output.ref()}
        info = await self._call.ask(contracts.LOGS, self.request.model_copy(update=where))
        await output.begin()
        return info

    async def read(self) -> Batch | None:
        """The next batch; None at the end. Raises Unavailable when this stream has no more."""
        assert self._batches is not None, "it has not been opened"
        batch = await self._batches.read()
        self._losses = 0
        return batch

    async def reopen(self, error: DavitError) -> None:
        """Ask anew, for as long as it may take until there is somebody who has it.

        Args:
            error: Why; it is raised when that was so several times, and nothing came in between.
        """
        self._losses += 1
        if self._losses > ATTEMPTS:
            raise error
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + GIVE_UP_AFTER_S
        while True:
            try:
                await self._ask()
                return
            except (Unavailable, DeadlineExceeded):
                if loop.time() > give_up_at:
                    raise
            await asyncio.sleep(RETRY_PAUSE_S)

    async def end(self) -> None:
        if self._output is not None:
            await end_stream(self._output, finished=False)
            self._output = None


class LogOutput:
    """A log, read as a request asks."""

    def __init__(self, call: Call, request: Logs) -> None:
        self._link = LogLink(call, request)

    async def open(self) -> AttachInfo:
        """Raises DavitError."""
        return await self._link.open()

    async def read(self) -> bytes:
        """What comes next; ``b""`` at the end. Raises DavitError when the rest cannot be had."""
        while True:
            try:
                batch = await self._link.read()
            except Unavailable as error:
                await self._link.reopen(error)
                continue
            if batch is None:
                return b""
            self._link.request = self._link.request.model_copy(update={"after": batch.position})
            if batch.data:
                return batch.data

    async def cancel(self, _: str) -> None:
        await self._link.end()

    async def aclose(self) -> None:
        await self._link.end()


class AttachedOutput:
    """A process's output, as a client that is attached reads it; from the container's log when its sender has died.

    Args:
        info: With a position, when the output begins where the process does.
    """

    def __init__(self, call: Call, stream: ByteStream, request: Attach, info: AttachInfo) -> None:
        self._call = call
        self._stream = stream
        self._request = request
        self._position = info.position if not request.logs else ""
        self._had = Had(tty=info.tty)
        self._log: LogLink | None = None

    async def read(self) -> bytes:
        """What comes next; ``b""`` at the end. Raises DavitError when the rest cannot be had."""
        while True:
            try:
                data = await self._next()
            except Unavailable as error:
                await self._go_on(error)
                continue
            if not self._position or not data:
                return data
            if whole := self._had.add(data):
                return whole

    async def _next(self) -> bytes:
        if self._log is None:
            return await self._stream.read()
        while batch := await self._log.read():
            if batch.data:
                return batch.data
        return b""

    async def _go_on(self, error: DavitError) -> None:
        """Ask the log for all that the client has not had."""
        if not self._position or not self._had.exact:
            raise error
        self._had.forget_half()
        request = Logs(
            ref=self._request.ref,
            stream=self._stream.ref,
            stdout=self._request.stdout,
            stderr=self._request.stderr,
            follow=True,
            after=self._position,
            skip_bytes=self._had.counts,
        )
        if self._log is None:
            self._log = LogLink(self._call, request)
        self._log.request = request
        await self._log.reopen(error)

    async def aclose(self) -> None:
        if self._log is not None:
            await self._log.end()


class Had:
    """Counts what a client has had of each stream, in whole frames.

    Attributes:
        exact: Whether the log has the same bytes: it has marks in place of what is no UTF-8.
    """

    def __init__(self, *, tty: bool) -> None:
        self._tty = tty
        self._half = Demultiplexer()
        self._counts = [0, 0]
        self._texts = (_Text(), _Text())

    @property
    def counts(self) -> tuple[int, int]:
        """Of stdout, which is all that a terminal has, and of stderr."""
        return self._counts[0], self._counts[1]

    @property
    def exact(self) -> bool:
        return all(text.exact for text in self._texts)

    def forget_half(self) -> None:
        """The rest of a frame will not come."""
        self._half.pending.clear()

    def add(self, data: bytes) -> bytes:
        """Take in bytes; those that may be passed on, since their frames are complete."""
        if self._tty:
            self._count(0, data)
            return data
        whole = self._half.feed(data)
        for one in whole:
            self._count(STREAMS.get(one.stream, 0), one.payload)
        return b"".join(frame(one.stream, one.payload) for one in whole)

    def _count(self, stream: int, text: bytes) -> None:
        self._counts[stream] += len(text)
        self._texts[stream].add(text)


class _Text:
    """Whether a stream's bytes are in the log as they are."""

    def __init__(self) -> None:
        self.exact = True
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._ascii = True
        self._line_bytes = 0
        self._longest_bytes = 0

    def add(self, text: bytes) -> None:
        if not self.exact:
            return
        try:
            self._decoder.decode(text)
        except UnicodeDecodeError:
            self.exact = False
            return
        first, *others = text.split(b"\n")
        self._longest_bytes = max(self._longest_bytes, self._line_bytes + len(first), *map(len, others))
        self._line_bytes = len(others[-1]) if others else self._line_bytes + len(first)
        self._ascii = self._ascii and text.isascii()
        self.exact = self._ascii or self._longest_bytes < CUT_LINES_BYTES
