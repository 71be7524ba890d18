"""The seam to the kernel for mounts: descriptor-based calls (Linux 5.2 and 5.12) beside mount(2).

Working on descriptors means that what was checked is what gets mounted: no path is walked a second time, so a container
that exchanges a directory for a symbolic link in between gains nothing.
"""

from __future__ import annotations

import ctypes
import os

from services.executor.runtime.errors import KernelFailure
from services.executor.runtime.kernel.calls import call, check, libc

_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _MOUNT_SETATTR = 428, 429, 430, 431, 432, 442

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x1, 0x2, 0x4, 0x8
MS_SYNCHRONOUS, MS_REMOUNT, MS_MANDLOCK, MS_DIRSYNC = 0x10, 0x20, 0x40, 0x80
MS_NOSYMFOLLOW, MS_NOATIME, MS_NODIRATIME, MS_BIND = 0x100, 0x400, 0x800, 0x1000
MS_MOVE, MS_REC, MS_SILENT = 0x2000, 0x4000, 0x8000
MS_UNBINDABLE, MS_PRIVATE, MS_SLAVE, MS_SHARED = 0x20000, 0x40000, 0x80000, 0x100000
MS_RELATIME, MS_I_VERSION, MS_STRICTATIME, MS_LAZYTIME = 0x200000, 0x800000, 0x1000000, 0x2000000

MNT_DETACH = 2

MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 0x1, 0x2, 0x4, 0x8
MOUNT_ATTR_ATIME_MASK, MOUNT_ATTR_NOATIME, MOUNT_ATTR_STRICTATIME = 0x70, 0x10, 0x20
MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_IDMAP, MOUNT_ATTR_NOSYMFOLLOW = 0x80, 0x100000, 0x200000

_AT_FDCWD, _AT_SYMLINK_NOFOLLOW, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x100, 0x1000, 0x8000
_OPEN_TREE_CLONE, _CLOEXEC = 1, os.O_CLOEXEC
_F_EMPTY_PATH, _T_EMPTY_PATH = 0x4, 0x40
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CREATE = 0, 1, 6


def mount(source: str | None, target: str, fstype: str | None, flags: int, data: str | None = None) -> None:
    """mount(2)."""
    raw = [None if text is None else os.fsencode(text) for text in (source, target, fstype, data)]
    result = libc.mount(
        ctypes.c_char_p(raw[0]),
        ctypes.c_char_p(raw[1]),
        ctypes.c_char_p(raw[2]),
        ctypes.c_ulong(flags),
        ctypes.c_char_p(raw[3]),
    )
    check(result, "mount", f"{fstype or source or 'flags ' + hex(flags)} on {target}")


def umount(target: str, flags: int = MNT_DETACH) -> None:
    """umount2(2)."""
    check(libc.umount2(ctypes.c_char_p(os.fsencode(target)), ctypes.c_int(flags)), "umount", target)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    result = libc.pivot_root(ctypes.c_char_p(os.fsencode(new_root)), ctypes.c_char_p(os.fsencode(put_old)))
    check(result, "pivot_root", new_root)


def clone_tree(directory: int, path: str, *, recursive: bool, follow: bool = True) -> int:
    """A detached copy of the mount at `path` (of the tree below it too): what a bind mount is before it is attached.

    With an empty `path`, of what the descriptor `directory` refers to. `directory` may be -100 (the current one).
    Without `follow`, of a symbolic link itself.
    """
    flags = _OPEN_TREE_CLONE | _CLOEXEC | _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    flags |= 0 if follow else _AT_SYMLINK_NOFOLLOW
    raw = ctypes.c_char_p(os.fsencode(path))
    return call("open_tree", path or "fd", _OPEN_TREE, ctypes.c_int(directory), raw, ctypes.c_uint(flags))


def clone_tree_at(path: str, *, recursive: bool, follow: bool = True) -> int:
    """`clone_tree` of an absolute path."""
    return clone_tree(_AT_FDCWD, path, recursive=recursive, follow=follow)


def attach(mount_fd: int, target_fd: int, subject: str) -> None:
    """Attach a detached mount on the object that `target_fd` refers to (move_mount(2), both by descriptor)."""
    empty = ctypes.c_char_p(b"")
    flags = ctypes.c_uint(_F_EMPTY_PATH | _T_EMPTY_PATH)
    call(
        "move_mount", f"on {subject}", _MOVE_MOUNT, ctypes.c_int(mount_fd), empty, ctypes.c_int(target_fd), empty, flags
    )


class _MountAttributes(ctypes.Structure):
    """struct mount_attr of linux/mount.h."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def set_attributes(
    mount_fd: int,
    subject: str,
    *,
    add: int = 0,
    clear: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
    recursive: bool = False,
    path: str = "",
) -> None:
    """mount_setattr(2): MOUNT_ATTR_* to add and to clear, one propagation (MS_SHARED, …), an id mapping."""
    attributes = _MountAttributes(attr_set=add, attr_clr=clear, propagation=propagation, userns_fd=userns_fd)
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    call(
        "mount_setattr",
        subject,
        _MOUNT_SETATTR,
        ctypes.c_int(mount_fd),
        ctypes.c_char_p(os.fsencode(path)),
        ctypes.c_uint(flags),
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )


def _kernel_log(fs_fd: int) -> str:
    """What the kernel says about a failed filesystem context (one message per read), without its level prefix."""
    messages: list[str] = []
    while len(messages) < 8:
        try:
            messages.append(os.read(fs_fd, 4096).decode(errors="replace")[2:].strip())
        except OSError:
            break
    return "; ".join(messages)


def new_filesystem(fstype: str, options: list[tuple[str, str | None]], attributes: int, subject: str) -> int:
    """A detached mount of a new instance of `fstype`. Options with value None are flags.

    A single value may have 255 bytes, but there is no limit on their number: overlay's `lowerdir+` (Linux 6.7) is given
    once per layer, where mount(2) has one page for all.
    """
    raw_type = ctypes.c_char_p(fstype.encode())
    fs_fd = call("fsopen", fstype, _FSOPEN, raw_type, ctypes.c_uint(1))
    try:
        for key, value in options:
            kind = _FSCONFIG_SET_FLAG if value is None else _FSCONFIG_SET_STRING
            raw_value = None if value is None else os.fsencode(value)
            _configure(fs_fd, kind, key, raw_value, f"{fstype} {key}={value}")
        _configure(fs_fd, _FSCONFIG_CREATE, None, None, f"{fstype} for {subject}")
        return call("fsmount", subject, _FSMOUNT, ctypes.c_int(fs_fd), ctypes.c_uint(1), ctypes.c_uint(attributes))
    except KernelFailure as failure:
        said = _kernel_log(fs_fd)
        if said:
            failure.message += f" ({said})"
            failure.args = (failure.message,)
        raise
    finally:
        os.close(fs_fd)


def _configure(fs_fd: int, kind: int, key: str | None, value: bytes | None, subject: str) -> None:
    """fsconfig(2)."""
    raw_key = ctypes.c_char_p(None if key is None else key.encode())
    call(
        "fsconfig",
        subject,
        _FSCONFIG,
        ctypes.c_int(fs_fd),
        ctypes.c_uint(kind),
        raw_key,
        ctypes.c_char_p(value),
        ctypes.c_int(0),
    )
