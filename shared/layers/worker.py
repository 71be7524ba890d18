"""Starting the confined child and hearing how it went.

All calls block and may be made from any thread; `unpacked` and `packed` at the end are for event loops.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from shared.errors import DavitError, Internal, InvalidArgument, NotFound, Unavailable
from shared.layers.warm import warm

PIPE_BYTES = 1 << 20
READ_BYTES = 512 * 1024
# An archive must leave this much room on the disk for everybody else.
RESERVED_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What an archive contained.

    Attributes:
        diff_id: ``sha256:<hex>`` of the uncompressed tar; empty when it was not asked for.
        compression: gzip, zstd, xz, bzip2 or empty.
        tar_bytes: Size of the uncompressed tar.
        size_bytes: Bytes of its files and of symbolic links' targets, hard links counted once.
    """

    diff_id: str
    compression: str
    tar_bytes: int
    size_bytes: int
    entries: int


class Child:
    """A running child. Leaving the context kills it if it is still at work.

    Args:
        order: See `shared.layers.child`.
        root: The directory that it cannot leave.
        source, output: Descriptors to read from and to write to; None for a pipe to this process.
        keep_open: Descriptors of files (locks) that stay open as long as the child lives.
    """

    def __init__(
        self, order: dict[str, Any], root: Path, *, source: int | None, output: int | None, keep_open: Sequence[int]
    ) -> None:
        self.stdin = self.stdout = -1
        with ExitStack() as sent:
            directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            sent.callback(os.close, directory)
            if source is None:
                source, self.stdin = _pipe()
                sent.callback(os.close, source)
            if output is None:
                self.stdout, output = _pipe()
                sent.callback(os.close, output)
            try:
                self._forked = warm.fork(order, (directory, source, output, *keep_open))
            except BaseException:
                self._close_pipes()
                raise

    async def over(self) -> None:
        """Return when the work has ended, however: `result` then does not block for long."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        outcome = self._forked.outcome
        loop.add_reader(outcome.fileno(), ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(outcome.fileno())
            outcome.setblocking(True)  # libuv makes what it watches non-blocking

    def end(self) -> None:
        """Close the pipe to the child: there is no more input. Idempotent."""
        descriptor, self.stdin = self.stdin, -1
        if descriptor >= 0:
            os.close(descriptor)

    def result(self) -> dict[str, Any]:
        """Wait for the end of the work.

        Raises:
            InvalidArgument: The archive is damaged or hostile.
            NotFound: A path to pack or to unpack into does not exist.
            Unavailable: The disk is full or failing.
            Internal: The child died.
        """
        self.end()
        outcome = b""
        with suppress(ConnectionResetError):  # it died, and left something unread
            while piece := self._forked.outcome.recv(65536):
                outcome += piece
        self._forked.wait()
        if not outcome:
            raise Internal("the archive process died over its work")
        told: dict[str, Any] = json.loads(outcome)
        if "ok" in told:
            result: dict[str, Any] = told["ok"]
            return result
        raise _translated(told["error"])

    def close(self) -> None:
        """Idempotent."""
        self._forked.close()
        self._close_pipes()

    def _close_pipes(self) -> None:
        self.end()
        descriptor, self.stdout = self.stdout, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _translated(error: dict[str, Any]) -> DavitError:
    message = str(error["message"])
    if error["kind"] == "archive":
        return InvalidArgument(f"Error processing tar file: {message}")
    if error["kind"] == "system":
        if error.get("errno") in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return NotFound(message)
        return Unavailable(f"the archive could not be processed: {message}")
    return Internal(message)


class Unpacker(Child):
    """Unpacks a tar, compressed or not, into a directory.

    Args:
        root: The directory that nothing can leave.
        source: A descriptor to read the tar from; None for a pipe, written with `write`.
        directory: Where in the root, as seen from inside.
        layer, keep_kinds, owner: See `shared.layers.extract.Options`.
        digest: Whether to compute the diff id.
        keep_open: Descriptors of files (locks) that stay open as long as the child lives.
    """

    def __init__(
        self,
        root: Path,
        *,
        source: int | None = None,
        directory: str = "/",
        layer: bool = True,
        keep_kinds: bool = False,
        owner: tuple[int, int] | None = None,
        digest: bool = True,
        max_entries: int = 10_000_000,
        max_bytes: int = 1 << 62,
        keep_open: Sequence[int] = (),
    ) -> None:
        order = {
            "job": "unpack",
            "directory": directory,
            "layer": layer,
            "keep_kinds": keep_kinds,
            "owner": owner,
            "digest": digest,
            "max_entries": max_entries,
            "max_bytes": max_bytes,
            "room_bytes": _free_bytes(root),
        }
        with _nothing(os.O_WRONLY) as nothing:
            super().__init__(order, root, source=source, output=nothing, keep_open=keep_open)

    def write(self, data: bytes | memoryview) -> bool:
        """Pass on the next bytes of the tar; False when the child has ended and `result` says why."""
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self.stdin, view) :]
        except BrokenPipeError:
            return False
        return True

    def unpacked(self) -> Unpacked:
        """Wait for the end. Raises as `result`."""
        return Unpacked(**self.result())


class Packer(Child):
    """Packs a tree, or an overlay's changes, as an uncompressed tar.

    Args:
        root: The tree that nothing can leave.
        output: A descriptor to write to; None for a pipe, read with `read`.
        path, name, layer, exclude, shallow, one_file_system: See `shared.layers.archive.Options`.
    """

    def __init__(
        self,
        root: Path,
        *,
        output: int | None = None,
        path: str = "/",
        name: str = "",
        layer: bool = False,
        exclude: Sequence[str] = (),
        shallow: Sequence[str] = (),
        one_file_system: bool = False,
    ) -> None:
        order = {
            "job": "pack",
            "path": path,
            "name": name,
            "layer": layer,
            "exclude": list(exclude),
            "shallow": list(shallow),
            "one_file_system": one_file_system,
        }
        with _nothing(os.O_RDONLY) as nothing:
            super().__init__(order, root, source=nothing, output=output, keep_open=())

    def read(self) -> bytes:
        """The next bytes of the tar; ``b""`` at the end, after which `result` says whether it is whole."""
        return os.read(self.stdout, READ_BYTES)


@contextmanager
def _nothing(flags: int) -> Iterator[int]:
    descriptor = os.open("/dev/null", flags | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _pipe() -> tuple[int, int]:
    """A pipe as large as the kernel allows: fewer switches between the two processes."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    with suppress(OSError):
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return reading, writing


def _free_bytes(root: Path) -> int:
    status = os.statvfs(root)
    return max(0, status.f_bavail * status.f_frsize - RESERVED_BYTES)


async def unpack(chunks: AsyncIterable[bytes], root: Path, **options: Any) -> Unpacked:
    """Unpack a tar that arrives in chunks; options as for `Unpacker`. On cancellation the child is killed.

    Raises:
        DavitError: As `Child.result`, and whatever reading the chunks raises.
    """
    child = await asyncio.to_thread(lambda: Unpacker(root, **options))
    try:
        async for chunk in chunks:
            if not await asyncio.to_thread(child.write, chunk):
                break
        return await asyncio.to_thread(child.unpacked)
    finally:
        await asyncio.shield(asyncio.to_thread(child.close))


@asynccontextmanager
async def packing(root: Path, **options: Any) -> AsyncIterator[AsyncIterator[bytes]]:
    """The chunks of a tar of a tree; options as for `Packer`. Leaving early kills the child.

    Raises:
        DavitError: As `Child.result`, from the iteration.
    """
    child = await asyncio.to_thread(lambda: Packer(root, **options))

    async def chunks() -> AsyncIterator[bytes]:
        while chunk := await asyncio.to_thread(child.read):
            yield chunk
        await asyncio.to_thread(child.result)

    try:
        yield chunks()
    finally:
        await asyncio.shield(asyncio.to_thread(child.close))
