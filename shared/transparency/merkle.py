"""The Merkle tree over a log's records, and proofs about it.

::

    size 5:            root
                 ┌──────┴──────┐
            (2,0) complete     leaf 4        level 2, index 0: the subtree over leaves 0 to 3
             ┌────┴────┐
          (1,0)      (1,1)

A subtree of 2^level leaves that has all of them never changes again. Trees of any size are put together from such,
so that whoever keeps them (`Subtrees`) can answer for every size that there has been.

Source: RFC 9162, sections 2.1.1 (hashes), 2.1.3 (inclusion) and 2.1.4 (consistency).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Protocol

EMPTY_ROOT = hashlib.sha256(b"").digest()
HASH_BYTES = 32


def leaf_hash(record: bytes) -> bytes:
    """The hash of one record."""
    return hashlib.sha256(b"\x00" + record).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two subtrees side by side."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Subtrees(Protocol):
    """Complete subtrees by level and index; level 0 are the leaves."""

    def subtree(self, level: int, index: int) -> bytes:
        """The hash over leaves ``index << level`` up to ``(index + 1) << level``. Only of leaves that there are."""
        ...


class Frontier:
    """The right edge of a growing tree: all that is needed to append and to know the root, some 32 bytes a level.

    Args:
        size, nodes: To go on from: the hashes of the complete subtrees that a tree of this size is made of, the
            largest first.
    """

    def __init__(self, size: int = 0, nodes: Sequence[bytes] = ()) -> None:
        assert len(nodes) == size.bit_count(), "one node for each bit of the size"
        self.size = size
        self._nodes = list(nodes)

    @property
    def nodes(self) -> tuple[bytes, ...]:
        return tuple(self._nodes)

    def append(self, leaf: bytes) -> None:
        """Add a leaf's hash."""
        node, rest = leaf, self.size
        while rest & 1:
            node = node_hash(self._nodes.pop(), node)
            rest >>= 1
        self._nodes.append(node)
        self.size += 1

    def root(self) -> bytes:
        """The root over all leaves so far."""
        if not self._nodes:
            return EMPTY_ROOT
        node = self._nodes[-1]
        for left in reversed(self._nodes[:-1]):
            node = node_hash(left, node)
        return node


class LeafHashes:
    """`Subtrees` over leaves that are all at hand."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self._levels: list[list[bytes]] = [list(leaves)]
        while len(self._levels[-1]) > 1:
            below = self._levels[-1]
            self._levels.append([node_hash(below[at], below[at + 1]) for at in range(0, len(below) - 1, 2)])

    def subtree(self, level: int, index: int) -> bytes:
        return self._levels[level][index]


def root_of(leaves: Iterable[bytes]) -> bytes:
    """The root over leaf hashes."""
    frontier = Frontier()
    for leaf in leaves:
        frontier.append(leaf)
    return frontier.root()


def complete_parts(size: int) -> list[tuple[int, int]]:
    """The complete subtrees that a tree of this size is made of, as (level, index), the largest first."""
    parts, start = [], 0
    for level in range(size.bit_length() - 1, -1, -1):
        if size >> level & 1:
            parts.append((level, start >> level))
            start += 1 << level
    return parts


def root_at(trees: Subtrees, size: int) -> bytes:
    """The root that the tree had when it had that many leaves."""
    return _range_hash(trees, 0, size) if size else EMPTY_ROOT


def inclusion_proof(trees: Subtrees, index: int, size: int) -> list[bytes]:
    """Hashes that lead from a leaf to the root of the tree of that size.

    Raises:
        IndexError: The tree of that size has no such leaf.
    """
    if not 0 <= index < size:
        raise IndexError(f"no leaf {index} in a tree of {size}")
    proof: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            proof.append(_range_hash(trees, middle, end))
            end = middle
        else:
            proof.append(_range_hash(trees, start, middle))
            start = middle
    return proof[::-1]


def consistency_proof(trees: Subtrees, first: int, second: int) -> list[bytes]:
    """Hashes that show that the tree of the second size has all that the tree of the first had, in its place.

    Raises:
        IndexError: The first is not between 1 and the second.
    """
    if not 0 < first <= second:
        raise IndexError(f"no proof from size {first} to {second}")
    proof: list[bytes] = []
    start, end, whole = 0, second, True
    while first != end:
        middle = start + _split(end - start)
        if first <= middle:
            proof.append(_range_hash(trees, middle, end))
            end = middle
        else:
            proof.append(_range_hash(trees, start, middle))
            start, whole = middle, False
    if not whole:
        proof.append(_range_hash(trees, start, end))
    return proof[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether the proof leads from the leaf at this index to the root. Source: RFC 9162 section 2.1.3.2."""
    if not 0 <= index < size:
        return False
    at, last, node = index, size - 1, leaf
    for step in proof:
        if last == 0:
            return False
        if at & 1 or at == last:
            node = node_hash(step, node)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            node = node_hash(node, step)
        at, last = at >> 1, last >> 1
    return last == 0 and node == root


def verify_consistency(first: int, second: int, proof: Sequence[bytes], first_root: bytes, second_root: bytes) -> bool:
    """Whether the second tree begins with the first. Source: RFC 9162 section 2.1.4.2."""
    if not 0 < first <= second:
        return False
    if first == second:
        return not proof and first_root == second_root
    steps = list(proof)
    if first & (first - 1) == 0:
        steps.insert(0, first_root)
    if not steps:
        return False
    at, last = first - 1, second - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    one = two = steps[0]
    for step in steps[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            one, two = node_hash(step, one), node_hash(step, two)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            two = node_hash(two, step)
        at, last = at >> 1, last >> 1
    return last == 0 and one == first_root and two == second_root


def _split(size: int) -> int:
    """The largest power of two below a size of two or more."""
    return 1 << (size - 1).bit_length() - 1


def _range_hash(trees: Subtrees, start: int, end: int) -> bytes:
    """The hash over leaves `start` up to `end`, where `start` is where a subtree of that many begins."""
    size = end - start
    node: bytes | None = None
    for level, index in reversed(complete_parts(size)):
        part = trees.subtree(level, (start >> level) + index)
        node = part if node is None else node_hash(part, node)
    assert node is not None
    return node
