"""Starting the confined child and hearing how it went.

All calls block and may be made from any thread; `unpacked` and `packed` at the end are for event loops.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from shared.errors import DavitError, Internal, InvalidArgument, NotFound, Unavailable

_PACKAGES = str(Path(__file__).resolve().parent.parent.parent)
_START = "import sys; sys.path.insert(0, sys.argv.pop()); from shared.layers.child import main; main()"
PIPE_BYTES = 1 << 20
_FIRST_FREE_FD = 10
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
    """A running child. Leaving the context kills it if it is still at work."""

    def __init__(self, order: dict[str, Any], root: Path, *, stdin: int, stdout: int, keep_open: Sequence[int]) -> None:
        directory = _high(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        outcome, told = os.pipe()
        told = _high(told)
        # The child wants its root and its outcome at fixed numbers, and moves them there itself. The original of the
        # root must not stay open: it would be a way out of the chroot.
        moves = f"import os; os.dup2({directory}, 3); os.close({directory}); os.dup2({told}, 4); os.close({told}); "
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", moves + _START, json.dumps(order), _PACKAGES],
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.PIPE,
                pass_fds=(directory, told, *keep_open),
                env={"LC_ALL": "C.UTF-8"},
            )
        except BaseException:
            os.close(outcome)
            raise
        finally:
            os.close(directory)
            os.close(told)
        self._outcome = open(outcome, "rb")  # noqa: SIM115  # closed in close
        self.stdin = self._process.stdin
        self.stdout = self._process.stdout

    def end(self) -> None:
        """Close the pipe to the child: there is no more input."""
        if self.stdin:
            with suppress(BrokenPipeError):
                self.stdin.close()

    def result(self) -> dict[str, Any]:
        """Wait for the end of the work.

        Raises:
            InvalidArgument: The archive is damaged or hostile.
            NotFound: A path to pack or to unpack into does not exist.
            Unavailable: The disk is full or failing.
            Internal: The child died.
        """
        self.end()
        outcome = self._outcome.read()
        diagnosis = self._process.stderr.read() if self._process.stderr else b""
        status = self._process.wait()
        if not outcome:
            text = diagnosis.decode(errors="replace").strip().rpartition("\n")[2]
            raise Internal(f"the archive process ended with status {status}: {text}")
        told: dict[str, Any] = json.loads(outcome)
        if "ok" in told:
            result: dict[str, Any] = told["ok"]
            return result
        raise _translated(told["error"])

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self.stdin, self.stdout, self._process.stderr, self._outcome):
            if stream:
                with suppress(BrokenPipeError):
                    stream.close()

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
        keep_open: Descriptors, 10 or higher, of files (locks) that stay open as long as the child lives.
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
        super().__init__(
            order,
            root,
            stdin=subprocess.PIPE if source is None else source,
            stdout=subprocess.DEVNULL,
            keep_open=keep_open,
        )
        if self.stdin:
            _widen(self.stdin.fileno())

    def write(self, data: bytes | memoryview) -> bool:
        """Pass on the next bytes of the tar; False when the child has ended and `result` says why."""
        assert self.stdin is not None
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self.stdin.fileno(), view) :]
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
        super().__init__(
            order,
            root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if output is None else output,
            keep_open=(),
        )
        if self.stdout:
            _widen(self.stdout.fileno())

    def read(self) -> bytes:
        """The next bytes of the tar; ``b""`` at the end, after which `result` says whether it is whole."""
        assert self.stdout is not None
        return os.read(self.stdout.fileno(), READ_BYTES)


def _high(descriptor: int) -> int:
    """The descriptor moved to where it cannot be in the way of the child's fixed numbers."""
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE_FD)
    finally:
        os.close(descriptor)


def _widen(pipe: int) -> None:
    """A larger pipe, where the kernel allows it: fewer switches between the two processes."""
    with suppress(OSError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


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
