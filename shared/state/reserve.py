"""Who may write to a database whose disk is full: work that ends something, out of space kept for it.

A contract says of itself that it `frees`; whoever serves it spends the reserve, and so does what it starts. All other
work is refused while there is room left for this.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

# A disk with less than this is full to all others.
FULL_BELOW_BYTES = 1 << 20

_spending: ContextVar[bool] = ContextVar("davit_spending", default=False)


def spending() -> bool:
    """Whether the work that is being done may spend the reserve."""
    return _spending.get()


@contextmanager
def spend(frees: bool = True) -> Iterator[None]:
    """Do work that ends things; with False, other work, also where it is started from such."""
    token = _spending.set(frees)
    try:
        yield
    finally:
        _spending.reset(token)


def free_bytes(directory: Path) -> int:
    """What this process can still write to a disk. Source: statvfs(3); what is reserved for root counts for root."""
    there = os.statvfs(directory)
    return there.f_frsize * (there.f_bfree if os.geteuid() == 0 else there.f_bavail)


def is_full(directory: Path) -> bool:
    return free_bytes(directory) < FULL_BELOW_BYTES
