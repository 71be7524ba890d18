"""The log of an engine in the background: one file that all its processes append to, kept from growing for ever."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

LARGEST_BYTES = 16 << 20


def path_of(data_root: Path) -> Path:
    return data_root / "engine.log"


def is_ours(path: Path, descriptor: int = 2) -> bool:
    """Whether this process's errors go there, and not to a terminal or a journal."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def rotate_if_large(path: Path, largest_bytes: int = LARGEST_BYTES) -> bool:
    """Move what is in the file to ``engine.log.1``, in place of what was there, when it is too much; whether it was.

    The file stays the same one, since every process has it open to append. What is written between the last byte that
    is copied and the cut is lost: microseconds, and only of a log that someone lets grow.
    """
    try:
        if path.stat().st_size <= largest_bytes:
            return False
    except FileNotFoundError:
        return False
    with path.open("rb+") as log, path.with_name("engine.log.1").open("wb") as kept:
        os.fchmod(kept.fileno(), 0o600)
        shutil.copyfileobj(log, kept)
        log.truncate(0)
    return True
