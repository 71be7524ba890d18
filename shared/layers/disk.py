"""The two system calls of the disk that Python does not have. Source: sync_file_range(2), syncfs(2)."""

from __future__ import annotations

import ctypes
import os

_SYNC_FILE_RANGE_WRITE = 2


def start_writing(descriptor: int, offset: int, length: int) -> None:
    """Have the kernel begin to write a part of a file to the disk, without waiting for it."""
    libc = ctypes.CDLL(None, use_errno=True)
    # A hint: where it is refused, the later fdatasync(2) takes longer and nothing else changes.
    libc.sync_file_range(descriptor, ctypes.c_int64(offset), ctypes.c_int64(length), _SYNC_FILE_RANGE_WRITE)


def sync_file_system(descriptor: int) -> None:
    """Wait until everything of the file system that holds a descriptor is on the disk. Raises OSError."""
    if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"syncfs: {os.strerror(number)}")
