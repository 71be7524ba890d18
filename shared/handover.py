"""Files handed from one service to another on the same machine, which spares large bodies the way over the bus.

::

    sender                                   receiver
      │ an unnamed file, written whole          │
      │ request with its `FileRef` ────────────►│ opens /proc/<pid>/fd/<descriptor>, and checks that it is that file
      │◄──────────────────────────────── answer │ or refuses with `field="file"`: then the sender uses a stream
      │ closes the file                         │ reads on

The file has no name, so nothing is left of it when both are gone, however they went.

Source: proc(5), /proc/[pid]/fd; open(2), O_TMPFILE; pid_namespaces(7).
"""

from __future__ import annotations

import os
import stat
import tempfile
from functools import cache
from pathlib import Path
from typing import BinaryIO, cast

from pydantic import BaseModel

from shared.errors import Unavailable

FIELD = "file"


class FileRef(BaseModel):
    """Names an open file of a process.

    Attributes:
        machine: The kernel's boot id and the process's pid namespace; a pid means something only there.
    """

    machine: str
    pid: int
    descriptor: int
    device: int
    inode: int


@cache
def machine() -> str:
    """What `FileRef.machine` is for this process."""
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"


def unnamed_file(directory: Path) -> BinaryIO:
    """A new file in a directory that is gone once it is closed everywhere. Raises OSError."""
    return cast(BinaryIO, tempfile.TemporaryFile(dir=directory, buffering=0))


def refer(file: BinaryIO) -> FileRef:
    """The reference to a file that stays open until the request that carries it has been answered."""
    status = os.fstat(file.fileno())
    return FileRef(
        machine=machine(),
        pid=os.getpid(),
        descriptor=file.fileno(),
        device=status.st_dev,
        inode=status.st_ino,
    )


def take(ref: FileRef) -> BinaryIO:
    """The file that a reference names, at its beginning, opened anew.

    Raises:
        Unavailable: It is not on this machine, or is not there any more; ``detail["field"]`` is ``file``.
    """
    if ref.machine != machine():
        raise Unavailable("the file is on another machine", field=FIELD)
    try:
        # Not blocking: should it be a pipe after all, opening it must not wait for a writer.
        descriptor = os.open(f"/proc/{ref.pid}/fd/{ref.descriptor}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Unavailable(f"the file cannot be opened: {error}", field=FIELD) from error
    status = os.fstat(descriptor)
    if (status.st_dev, status.st_ino) != (ref.device, ref.inode) or not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise Unavailable("the file is not there any more", field=FIELD)
    return os.fdopen(descriptor, "rb")
