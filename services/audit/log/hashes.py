"""The tree's hashes on disk: complete subtrees of every fourth level from 256 leaves on, one file a level.

Leaves and what is between are computed from the records when they are asked for, which few are. The files take an
eighth of a byte per record, and stay when old records are removed: proofs about the others need them.

::

    8.hashes    │ over 0-255 │ over 256-511 │ …         32 bytes each, at their index
    12.hashes   │ over 0-4095 │ …
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from shared.errors import NotFound, Unavailable
from shared.transparency.merkle import HASH_BYTES, LeafHashes, node_hash

GROUP_LEVEL = 8
GROUP = 1 << GROUP_LEVEL
LEVELS = (8, 12, 16, 20, 24, 28)
_STEP = 4


class StoredHashes:
    """Hashes of a log's complete subtrees.

    Args:
        directory: Where the files are; made when missing.
        leaves_of: The leaf hashes of the records of a group of 256, as far as there are any. Raises NotFound when they
            were removed.
    """

    def __init__(self, directory: Path, leaves_of: Callable[[int], Sequence[bytes]]) -> None:
        self._directory = directory
        self._leaves_of = leaves_of
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._files = {level: self._open(level) for level in LEVELS}
        self._cached = lru_cache(maxsize=8)(lambda group: LeafHashes(leaves_of(group)))

    def _open(self, level: int) -> int:
        path = self._directory / f"{level}.hashes"
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def add(self, group: int, node: bytes) -> None:
        """Keep the hash of a group that has become complete, and of larger subtrees that it completes."""
        self._write(GROUP_LEVEL, group, node)
        index = group
        for level in LEVELS[1:]:
            if (index + 1) % (1 << _STEP):
                return
            index >>= _STEP
            self._write(level, index, self._combined(level - _STEP, index << _STEP, _STEP))

    def _write(self, level: int, index: int, node: bytes) -> None:
        try:
            os.pwrite(self._files[level], node, index * HASH_BYTES)
        except OSError as error:
            raise Unavailable(f"the audit log's hashes cannot be written: {error.strerror}") from error

    def group(self, group: int) -> bytes:
        """The hash over a complete group."""
        return self._read(GROUP_LEVEL, group)

    def subtree(self, level: int, index: int) -> bytes:
        """As `Subtrees` says. Raises NotFound when it is of records that were removed, and within one group."""
        if level < GROUP_LEVEL:
            group = index >> GROUP_LEVEL - level
            inside = index - (group << GROUP_LEVEL - level)
            try:
                return self._cached(group).subtree(level, inside)
            except IndexError:  # the group has grown since
                self._cached.cache_clear()
                return self._cached(group).subtree(level, inside)
        stored = max(one for one in LEVELS if one <= level)
        rise = level - stored
        return self._combined(stored, index << rise, rise)

    def _combined(self, level: int, index: int, rise: int) -> bytes:
        """The hash over ``1 << rise`` subtrees of a level, from the one at the index on."""
        nodes = [self._read(level, index + at) for at in range(1 << rise)]
        while len(nodes) > 1:
            nodes = [node_hash(nodes[at], nodes[at + 1]) for at in range(0, len(nodes), 2)]
        return nodes[0]

    def _read(self, level: int, index: int) -> bytes:
        node = os.pread(self._files[level], HASH_BYTES, index * HASH_BYTES)
        if len(node) != HASH_BYTES:
            raise NotFound(f"the audit log has no hash over records from {index << level} on")
        return node

    def forget(self) -> None:
        """The records of groups may have changed: read them anew."""
        self._cached.cache_clear()

    def sync(self) -> None:
        for descriptor in self._files.values():
            os.fdatasync(descriptor)

    def close(self) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)
