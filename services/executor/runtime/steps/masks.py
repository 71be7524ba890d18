"""Masked and read-only paths: parts of /proc and /sys that a container must not read, or not change.

Done by descriptor before the root changes: a container cannot exchange a directory for a link in between.
Source: OCI runtime-spec 1.2, config-linux.md "Masked Paths" and "Readonly Paths".
"""

from __future__ import annotations

import errno
import os
import stat

from services.executor.runtime.errors import KernelFailure
from services.executor.runtime.kernel import beneath, mountcalls


def make_read_only(root: int, paths: list[str]) -> None:
    """Bind each path on itself, read-only. A path that is not there is left out."""
    for path in paths:
        target = beneath.try_open_beneath(root, path)
        if target is None:
            continue
        tree = mountcalls.clone_tree(target, "", recursive=True)
        mountcalls.set_attributes(tree, path, add=mountcalls.MOUNT_ATTR_RDONLY)
        mountcalls.attach(tree, target, path)
        os.close(tree)
        os.close(target)


def hide(root: int, paths: list[str]) -> None:
    """Cover files with /dev/null, directories with one empty read-only tmpfs; leave out what is not there."""
    null: int | None = None
    empty: int | None = None
    for path in paths:
        target = beneath.try_open_beneath(root, path)
        if target is None:
            continue
        if stat.S_ISDIR(os.fstat(target).st_mode):
            if empty is None:
                empty = _empty_directory()
            source = empty
        else:
            if null is None:
                null = _null_device()
            source = null
        cover = mountcalls.clone_tree(source, "", recursive=False) if source is null else _spare(source)
        mountcalls.attach(cover, target, path)
        os.close(cover)
        os.close(target)
    for fd in (null, empty):
        if fd is not None:
            os.close(fd)


def _null_device() -> int:
    """The host's /dev/null: an image cannot put another file in its place."""
    fd = os.open("/dev/null", os.O_PATH | os.O_CLOEXEC)
    device = os.fstat(fd).st_rdev
    if device != os.makedev(1, 3):
        raise KernelFailure("open", "/dev/null", errno.ENODEV)
    return fd


def _empty_directory() -> int:
    return mountcalls.new_filesystem(
        "tmpfs",
        [("source", "tmpfs"), ("size", "0"), ("nr_inodes", "1"), ("ro", None)],
        mountcalls.MOUNT_ATTR_RDONLY,
        "mask",
    )


def _spare(source: int) -> int:
    """Another mount of the same empty directory; before Linux 6.15 a detached mount cannot be copied."""
    try:
        return mountcalls.clone_tree(source, "", recursive=False)
    except KernelFailure as failure:
        if failure.errno != errno.EINVAL:
            raise
        return _empty_directory()
