"""Filling the holes of the heap before the fork, so that what a service allocates lies together.

A heap after many imports is full of small free pieces. A forked service would put its objects there, one on this page
and one on that, and every page that is written to is copied: 4 KiB for an object of 64 bytes. With the holes filled,
what it allocates comes from new pages, side by side. The filling itself lies in pages that are there anyway, once.

Source: malloc(3), mallinfo(3), mallopt(3), sbrk(2); CPython, Objects/obmalloc.c (pools of 16 KiB, one size class each).
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from typing import Any

POOL_BYTES = 16 * 1024
LARGEST_CLASS_BYTES = 512
ALIGNMENT = 16
_BYTES_HEADER = 33
_LARGEST_CHUNK = 1 << 16
_SMALLEST_CHUNK = 24
_M_ARENA_MAX = -8
# Never freed: they are the filling.
_filling: list[Any] = []


def fill() -> None:
    """Fill the holes of Python's allocator, and of the C library's where that is glibc's."""
    for size in range(ALIGNMENT, LARGEST_CLASS_BYTES + 1, ALIGNMENT):
        _fill_class(size)
    _fill_malloc()


def _fill_class(size: int) -> None:
    """Allocate blocks of one size until many lie in a row, as in a pool that was empty: no other had any left."""
    make, count = _maker(size), POOL_BYTES // size
    while True:
        blocks = [make() for _ in range(count)]
        _filling.extend(blocks)
        places = [id(block) for block in blocks]
        in_a_row = sum(after - before == size for before, after in itertools.pairwise(places))
        if in_a_row > count // 3:
            return


def _maker(size: int) -> Callable[[], object]:
    """Makes objects that take exactly so many bytes, and that the collector does not track."""
    if size == ALIGNMENT:
        return object
    if size == 2 * ALIGNMENT:
        return complex
    return lambda: bytes(size - _BYTES_HEADER)


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"
        )
    ]  # fmt: skip


def _fill_malloc() -> None:
    """Allocate chunks, large ones first, as long as they do not come from the end of the heap."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return
    libc.mallinfo2.restype = _Mallinfo2
    libc.sbrk.restype = libc.malloc.restype = ctypes.c_size_t
    libc.malloc.argtypes = libc.free.argtypes = (ctypes.c_size_t,)
    # One heap for all threads: they hold the interpreter's lock most of the time, and each further heap has its holes.
    libc.mallopt(_M_ARENA_MAX, 1)
    size = _LARGEST_CHUNK
    while size >= _SMALLEST_CHUNK:
        end = libc.sbrk(0) - libc.mallinfo2().keepcost
        while libc.malloc(size) < end:
            pass
        size = size * 3 // 4 if size > 2048 else size - ALIGNMENT
