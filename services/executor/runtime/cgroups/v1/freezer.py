"""v1 `freezer`: suspend and resume all processes.

Source: kernel cgroup-v1/freezer-subsystem.rst.
"""

from __future__ import annotations

import errno
import time

from services.executor.runtime.cgroups import files
from services.executor.runtime.errors import KernelFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from services.executor.runtime.cgroups.interface import Resources, Stats

NAME = "freezer"
_ATTEMPTS = 1000


def wanted(resources: Resources) -> str | None:
    return None


def validate(directory: str, resources: Resources) -> None:
    """Nothing to set."""


def apply(directory: str, resources: Resources) -> None:
    """Nothing to set."""


def stats(directory: str, into: Stats) -> None:
    """There are none."""


def freeze(directory: str) -> None:
    """Freeze, and wait until the kernel says so.

    A process that forks or is traced at the wrong moment can leave the group in FREEZING for ever; writing FROZEN again
    makes the kernel look once more, and a short thaw now and then lets such a process get out of where it is stuck.
    """
    for attempt in range(_ATTEMPTS):
        if attempt % 50 == 49:
            files.write(directory, "freezer.state", "THAWED")
            time.sleep(0.01)
        files.write(directory, "freezer.state", "FROZEN")
        if files.read(directory, "freezer.state") == "FROZEN":
            return
        time.sleep(0.0001 if attempt < 25 else 0.002)
    files.write(directory, "freezer.state", "THAWED")
    raise KernelFailure("freeze", directory, errno.ETIMEDOUT, step="cgroups")


def thaw(directory: str) -> None:
    files.write(directory, "freezer.state", "THAWED")


def frozen(directory: str) -> bool:
    """FREEZING counts: somebody asked for it. An ancestor's freeze does not."""
    return files.read_int(directory, "freezer.self_freezing") == 1
