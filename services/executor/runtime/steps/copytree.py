"""Copy a directory tree by descriptors: what a tmpfs with "tmpcopyup" begins with."""

from __future__ import annotations

import os
import stat

from services.executor.runtime.kernel import calls as kernel


def copy(source: int, target: int) -> None:
    """Copy everything in directory `source` into `target`: files, links, nodes, owners, modes, times, xattrs.

    `target` itself stays as it was mounted, as with runc.
    """
    with kernel.reporting("copy", "tmpcopyup"):
        _copy_entries(source, target)


def _copy_entries(source: int, target: int) -> None:
    for name in os.listdir(source):
        found = os.stat(name, dir_fd=source, follow_symlinks=False)
        kind = stat.S_IFMT(found.st_mode)
        if kind == stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            os.chown(name, found.st_uid, found.st_gid, dir_fd=target, follow_symlinks=False)
            continue
        if kind == stat.S_IFDIR:
            os.mkdir(name, dir_fd=target)
        elif kind == stat.S_IFREG:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=target))
        else:
            os.mknod(name, found.st_mode, found.st_rdev, dir_fd=target)
            os.chown(name, found.st_uid, found.st_gid, dir_fd=target, follow_symlinks=False)
            continue
        _copy_opened(name, source, target, directory=kind == stat.S_IFDIR)


def _copy_opened(name: str, source: int, target: int, *, directory: bool) -> None:
    flags = os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_DIRECTORY if directory else 0)
    old = os.open(name, flags | os.O_RDONLY, dir_fd=source)
    new = os.open(name, flags | (os.O_RDONLY if directory else os.O_WRONLY), dir_fd=target)
    try:
        if directory:
            _copy_entries(old, new)
        else:
            while os.sendfile(new, old, None, 1 << 30):
                pass
        _copy_metadata(old, new)
    finally:
        os.close(old)
        os.close(new)


def _copy_metadata(source: int, target: int) -> None:
    found = os.fstat(source)
    os.fchown(target, found.st_uid, found.st_gid)
    os.fchmod(target, stat.S_IMODE(found.st_mode))
    for attribute in os.listxattr(source):
        if not attribute.startswith(("trusted.overlay.", "security.selinux")):
            os.setxattr(target, attribute, os.getxattr(source, attribute))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
