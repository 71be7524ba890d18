"""Paths inside a rootfs that its owner may be changing while we look: resolved by the kernel, beneath the root.

Every path is walked by openat2(2) with RESOLVE_IN_ROOT, so symbolic links and `..` cannot lead out, and with
RESOLVE_NO_MAGICLINKS, so links in /proc cannot either. What comes out is a descriptor; it is used instead of the path.
"""

from __future__ import annotations

import errno
import os

from services.executor.runtime.errors import KernelFailure
from services.executor.runtime.kernel import calls as kernel

_RESOLVE = kernel.RESOLVE_IN_ROOT | kernel.RESOLVE_NO_MAGICLINKS
_MAX_LINKS = 40


def open_beneath(root: int, path: str, flags: int = os.O_PATH, *, resolve: int = 0, mode: int = 0) -> int:
    """A descriptor of `path` as the container would see it.

    Raises:
        KernelFailure: with errno ENOENT, ENOTDIR, ELOOP, … of openat2(2).
    """
    return kernel.openat2(root, path, flags, resolve=_RESOLVE | resolve, mode=mode)


def try_open_beneath(root: int, path: str, flags: int = os.O_PATH) -> int | None:
    """The same, or None when there is no such object."""
    try:
        return open_beneath(root, path, flags)
    except KernelFailure as failure:
        if failure.errno in {errno.ENOENT, errno.ENOTDIR}:
            return None
        raise


def make_directory(root: int, path: str, mode: int = 0o755) -> int:
    """An O_PATH descriptor of the directory `path`, made with its parents where they are missing."""
    return _make(root, path, lambda parent, name: os.mkdir(name, mode, dir_fd=parent), os.O_DIRECTORY, _MAX_LINKS)


def make_file(root: int, path: str, mode: int = 0o755) -> int:
    """An O_PATH descriptor of `path`, made as an empty file (its parents as directories) when it is missing."""

    def create(parent: int, name: str) -> None:
        os.close(
            os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, mode, dir_fd=parent)
        )

    return _make(root, path, create, 0, _MAX_LINKS)


def make_itself(root: int, path: str, *, directory: bool) -> int:
    """An O_PATH descriptor of what `path` names, a symbolic link included; a directory or file when it is missing."""
    parent_path, name = os.path.split(os.path.normpath("/" + path))
    parent = make_directory(root, parent_path)
    try:
        return kernel.openat2(parent, name, os.O_PATH | os.O_NOFOLLOW, resolve=kernel.RESOLVE_BENEATH)
    except KernelFailure as failure:
        if failure.errno != errno.ENOENT:
            raise
    finally:
        os.close(parent)
    return make_directory(root, path) if directory else make_file(root, path)


def _make(root: int, path: str, create, flags: int, links: int) -> int:  # type: ignore[no-untyped-def]
    path = os.path.normpath("/" + path)
    found = try_open_beneath(root, path, os.O_PATH | flags)
    if found is not None:
        return found
    parent_path, name = os.path.split(path)
    parent = make_directory(root, parent_path)
    try:
        with kernel.reporting("create", path):
            try:
                create(parent, name)
            except FileExistsError:
                link = os.readlink(name, dir_fd=parent)  # dangling, or appeared just now: EINVAL says it is no link
                if links == 0:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
                return _make(root, os.path.join(parent_path, link), create, flags, links - 1)
        return kernel.openat2(parent, name, os.O_PATH | os.O_NOFOLLOW | flags, resolve=kernel.RESOLVE_BENEATH)
    finally:
        os.close(parent)


def is_link_to(directory: int, name: str, target: str) -> bool:
    """Whether a name in a directory is a symbolic link with this text."""
    try:
        return os.readlink(name, dir_fd=directory) == target
    except OSError:
        return False


def location(fd: int) -> str:
    """Where the object of a descriptor is now, as the kernel sees it from our root."""
    return os.readlink(f"/proc/self/fd/{fd}")
