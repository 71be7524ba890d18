"""Bytes handed from one service to another on the same machine, which spares large bodies the way over the bus.

::

    sender                                   receiver
      │ makes a pipe                            │
      │ request with its `PipeRef` ────────────►│ opens /proc/<pid>/fd/<descriptor>, and checks that it is that pipe
      │◄──────────────────────────────── answer │ or refuses with `field="file"`: then the sender uses a stream
      │ writes, while the body arrives          │ reads, and works on what it has
      │ closes the pipe                         │ comes to its end

The other way round, who wants to read makes the pipe (`Inbox`), and who writes opens its writing end (`sink`) before
it answers. Processes that block get their end with `source` and `sink`.

An end may come of the sender's death: that the body was whole has to be told beside the pipe.

Source: proc(5), /proc/[pid]/fd; pipe(7); fcntl(2), F_SETPIPE_SZ; pid_namespaces(7).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import stat
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from shared.errors import Unavailable

FIELD = "file"
# What an unprivileged process may ask for, and what it falls back to when users have used up theirs.
PIPE_BYTES = 1 << 20
READ_BYTES = 1 << 18


class PipeRef(BaseModel):
    """Names a pipe of a process.

    Attributes:
        machine: The kernel's boot id and the process's pid namespace; a pid means something only there.
        descriptor: The end that is handed over.
    """

    machine: str
    pid: int
    descriptor: int
    device: int
    inode: int


@cache
def machine() -> str:
    """What `PipeRef.machine` is for this process."""
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"


class Outlet:
    """The end that writes. Made by `give`."""

    def __init__(self, descriptor: int) -> None:
        self._writing = descriptor

    async def write(self, data: bytes) -> None:
        """Wait while the pipe is full. Raises BrokenPipeError when the receiver reads no further."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._writing, view) :]
            except BlockingIOError:
                loop = asyncio.get_running_loop()
                await _ready(self._writing, loop.add_writer, loop.remove_writer)

    def close(self) -> None:
        """Idempotent."""
        self._writing = _closed(self._writing)


class Sender(Outlet):
    """A pipe made by who writes it. `taken` once the receiver has answered, `close` in any case.

    Raises:
        Unavailable: This process has no descriptors left.
    """

    def __init__(self) -> None:
        self._reading, writing = _pipe()
        super().__init__(writing)

    def ref(self) -> PipeRef:
        return _ref(self._reading)

    def taken(self) -> None:
        """The receiver has its own reading end: from now on a write fails when it is gone."""
        self._reading = _closed(self._reading)

    def close(self) -> None:
        self.taken()
        super().close()


class Receiver:
    """The end that reads: an iterator of chunks. Made by `take`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    async def read(self) -> bytes:
        """What has come; ``b""`` at the end."""
        while True:
            try:
                return os.read(self._descriptor, READ_BYTES)
            except BlockingIOError:
                loop = asyncio.get_running_loop()
                await _ready(self._descriptor, loop.add_reader, loop.remove_reader)

    def __aiter__(self) -> Receiver:
        return self

    async def __anext__(self) -> bytes:
        data = await self.read()
        if not data:
            raise StopAsyncIteration
        return data

    def close(self) -> None:
        """Idempotent."""
        self._descriptor = _closed(self._descriptor)


class Inbox(Receiver):
    """A pipe made by who reads it. `given` once the other side has answered, `close` in any case.

    A side that did not open it, since it is on another machine, leaves it empty: it then ends at once.

    Raises:
        Unavailable: This process has no descriptors left.
    """

    def __init__(self) -> None:
        reading, self._writing = _pipe()
        super().__init__(reading)

    def ref(self) -> PipeRef:
        return _ref(self._writing)

    def given(self) -> None:
        """The other side has its own writing end, or wants none: from now on the pipe ends when it does."""
        self._writing = _closed(self._writing)

    def close(self) -> None:
        self.given()
        super().close()


# The first word on a stream beside an offered pipe, of who is to read: through the pipe, or on the stream.
PIPED = b"p"
STREAMED = b"s"


def take(ref: PipeRef) -> Receiver:
    """The pipe that a reference names.

    Raises:
        Unavailable: It is not on this machine, or is not there any more; ``detail["field"]`` is ``file``.
    """
    return Receiver(_open(ref, os.O_RDONLY | os.O_NONBLOCK))


def give(ref: PipeRef) -> Outlet:
    """The writing end of the pipe of an `Inbox`. Raises as `take`."""
    return Outlet(_open(ref, os.O_WRONLY | os.O_NONBLOCK))


def source(ref: PipeRef) -> int:
    """A descriptor to read the pipe that a reference names, for a process that blocks. Raises as `take`."""
    return _open(ref, os.O_RDONLY)


def sink(ref: PipeRef) -> int:
    """A descriptor to write to the pipe of an `Inbox`, for a process that blocks. Raises as `take`."""
    return _open(ref, os.O_WRONLY)


def _open(ref: PipeRef, flags: int) -> int:
    if ref.machine != machine():
        raise Unavailable("the pipe is on another machine", field=FIELD)
    try:
        descriptor = os.open(f"/proc/{ref.pid}/fd/{ref.descriptor}", flags | os.O_CLOEXEC)
    except OSError as error:
        raise Unavailable(f"the pipe cannot be opened: {error}", field=FIELD) from error
    status = os.fstat(descriptor)
    if (status.st_dev, status.st_ino) != (ref.device, ref.inode) or not stat.S_ISFIFO(status.st_mode):
        os.close(descriptor)
        raise Unavailable("the pipe is not there any more", field=FIELD)
    return descriptor


def _pipe() -> tuple[int, int]:
    try:
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise Unavailable(f"no pipe can be made: {error.strerror}", field=FIELD) from error
    with contextlib.suppress(OSError):  # it holds less then
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return reading, writing


def _ref(descriptor: int) -> PipeRef:
    status = os.fstat(descriptor)
    return PipeRef(machine=machine(), pid=os.getpid(), descriptor=descriptor, device=status.st_dev, inode=status.st_ino)


async def _ready(descriptor: int, add: Callable[..., Any], remove: Callable[[int], Any]) -> None:
    """Wait until a descriptor can be read or written, whichever `add` and `remove` are about."""
    ready = asyncio.Event()
    add(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        remove(descriptor)


def _closed(descriptor: int) -> int:
    if descriptor >= 0:
        os.close(descriptor)
    return -1
