"""v2 freezer, part of every group: cgroup.freeze.

Source: kernel cgroup-v2.rst, "cgroup.freeze" and "cgroup.events".
"""

from __future__ import annotations

import errno
import os
import select
import time

from services.executor.runtime.cgroups import files
from services.executor.runtime.errors import KernelFailure

_TIMEOUT_S = 10.0


def freeze(directory: str) -> None:
    """Freeze, and wait until the kernel says so."""
    files.write(directory, "cgroup.freeze", 1)
    try:
        _await(directory)
    except BaseException:
        files.write(directory, "cgroup.freeze", 0)
        raise


def _await(directory: str) -> None:
    """Wait for `frozen 1` in cgroup.events, which announces its changes to poll(2)."""
    deadline = time.monotonic() + _TIMEOUT_S
    fd = os.open(f"{directory}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    try:
        poller = select.poll()
        poller.register(fd, select.POLLPRI)
        while files.flat(os.pread(fd, 4096, 0).decode()).get("frozen") != 1:
            left = deadline - time.monotonic()
            if left <= 0:
                raise KernelFailure("freeze", directory, errno.ETIMEDOUT, step="cgroups")
            poller.poll(left * 1000)
    finally:
        os.close(fd)


def thaw(directory: str) -> None:
    files.write(directory, "cgroup.freeze", 0)


def frozen(directory: str) -> bool:
    """Whether the freeze was asked for here; an ancestor's does not count."""
    return files.read_optional(directory, "cgroup.freeze") == "1"
