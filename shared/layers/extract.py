"""Putting the entries of a tar into the directory that is this process's root.

Runs in a confined child only (`shared.layers.child`): paths are resolved by the kernel inside the chroot, so an
absolute name, ``..`` or a symbolic link leads nowhere else.

Layers say "removed" with whiteout files; on disk they become what overlayfs reads: a character device 0/0, and the
attribute ``trusted.overlay.opaque``.

Source: OCI image-spec, layer.md, "Applying Changesets"; Linux Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass

from shared.layers import tarheader
from shared.layers.tarheader import Entry, TarError
from shared.layers.tarstream import TarStream

WHITEOUT_PREFIX = ".wh."
META_PREFIX = ".wh..wh."
OPAQUE_NAME = ".wh..wh..opq"
OPAQUE_XATTR = "trusted.overlay.opaque"
OVERLAY_XATTRS = ("trusted.overlay.", "user.overlay.")
PARENT_MODE = 0o755

_DEVICE_TYPES = {
    tarheader.CHAR_DEVICE: stat.S_IFCHR,
    tarheader.BLOCK_DEVICE: stat.S_IFBLK,
    tarheader.FIFO: stat.S_IFIFO,
}
# Attributes that some file systems or kernels do not take; the file is complete for its purpose without them.
_OPTIONAL_XATTR_ERRORS = (errno.ENOTSUP, errno.EPERM, errno.EINVAL)
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Options:
    """How to unpack.

    Attributes:
        layer: Turn whiteouts into overlayfs's; otherwise names are taken as they are.
        keep_kinds: Refuse to put a directory in place of something else, or the reverse (PUT archive's
            ``noOverwriteDirNonDir``).
        owner: Give everything to this user and group instead of the archive's.
        max_entries, max_bytes: Bounds of what the archive may contain.
        room_bytes: What the disk has to spare for it.
    """

    layer: bool = True
    keep_kinds: bool = False
    owner: tuple[int, int] | None = None
    max_entries: int = 10_000_000
    max_bytes: int = 1 << 62
    room_bytes: int = 1 << 62


class Extractor:
    """Unpacks one tar into the working directory."""

    def __init__(self, tar: TarStream, options: Options) -> None:
        self._tar = tar
        self._options = options
        self._directory_times: dict[str, tuple[int, int]] = {}
        self.entries = 0
        self.size_bytes = 0

    def run(self) -> None:
        """Raises: TarError for the archive's faults, OSError for the file system's."""
        while (entry := self._tar.next()) is not None:
            self.entries += 1
            if self.entries > self._options.max_entries:
                raise TarError(f"the archive has more than {self._options.max_entries} entries")
            try:
                self._place(entry)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENOMEM):
                    raise
                raise TarError(f"{entry.name!r} cannot be unpacked: {error.strerror}") from error
        # Adding a file to a directory changes the directory's time, so these come last.
        for path, times in reversed(self._directory_times.items()):
            try:
                os.utime(path, ns=times, follow_symlinks=False)
            except FileNotFoundError:
                continue  # a later entry replaced it

    def _place(self, entry: Entry) -> None:
        path = clean(entry.name)
        if self._options.layer:
            directory, _, name = path.rpartition("/")
            if name.startswith(WHITEOUT_PREFIX):
                self._whiteout(directory, name)
                return
        kind = entry.kind
        if kind == tarheader.DIRECTORY:
            self._directory(path, entry)
        elif path == ".":
            raise TarError("the root of the archive is not a directory")
        elif kind == tarheader.REGULAR:
            self._file(path, entry)
        elif kind == tarheader.SYMLINK:
            self._retried(path, entry, lambda: os.symlink(entry.link, path))
            self.size_bytes += len(os.fsencode(entry.link))  # as lstat(2) and so Docker count it
            self._attributes(path, entry)
        elif kind == tarheader.HARD_LINK:
            self._hard_link(path, entry)
        elif kind in _DEVICE_TYPES:
            self._device(path, entry)
        else:
            raise TarError(f"{entry.name!r} has the unknown type {kind!r}")

    # -- kinds --------------------------------------------------------------------------------------------------

    def _directory(self, path: str, entry: Entry) -> None:
        try:
            os.mkdir(path, 0o700)
        except OSError as error:
            if error.errno != errno.EEXIST or not stat.S_ISDIR(os.lstat(path).st_mode):
                was_removed = self._make_room(path, entry, error)
                os.mkdir(path, 0o700)
                if was_removed:  # a new directory over one that a whiteout removed
                    os.setxattr(path, OPAQUE_XATTR, b"y", follow_symlinks=False)
        self._attributes(path, entry)
        self._directory_times[path] = _times(entry)

    def _file(self, path: str, entry: Entry) -> None:
        self.size_bytes += entry.stored
        if self.size_bytes > self._options.max_bytes:
            raise TarError(f"the archive has more than {self._options.max_bytes} bytes of files")
        if self.size_bytes > self._options.room_bytes:
            spare = f"the archive needs more than the {self._options.room_bytes} bytes that can be spared"
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC).lower()}: {spare}")
        try:
            descriptor = os.open(path, _CREATE, 0o600)
        except OSError as error:
            self._make_room(path, entry, error)
            descriptor = os.open(path, _CREATE, 0o600)
        try:
            if entry.sparse is None:
                for piece in self._tar.data():
                    if os.write(descriptor, piece) != len(piece):
                        raise OSError(errno.ENOSPC, "short write")
            else:
                self._sparse(descriptor, entry.size, entry.sparse)
            uid, gid = self._options.owner or (entry.uid, entry.gid)
            os.fchown(descriptor, uid, gid)
            if entry.xattrs:
                _set_xattrs(descriptor, entry.xattrs)
            os.fchmod(descriptor, entry.mode)
            os.utime(descriptor, ns=_times(entry))
        finally:
            os.close(descriptor)

    def _sparse(self, descriptor: int, size: int, runs: list[tuple[int, int]]) -> None:
        pieces = self._tar.data()
        piece = memoryview(b"")
        for offset, length in runs:
            os.lseek(descriptor, offset, os.SEEK_SET)
            left = length
            while left:
                if not piece:
                    piece = next(pieces)
                written = os.write(descriptor, piece[:left])
                piece = piece[written:]
                left -= written
        os.ftruncate(descriptor, size)

    def _hard_link(self, path: str, entry: Entry) -> None:
        target = clean(entry.link)
        if target == path:
            raise TarError(f"{entry.name!r} is a hard link to itself")
        try:
            self._retried(path, entry, lambda: os.link(target, path, follow_symlinks=False))
        except FileNotFoundError as error:
            raise TarError(f"{entry.name!r} is a hard link to {entry.link!r}, which is not in the archive") from error

    def _device(self, path: str, entry: Entry) -> None:
        kind = _DEVICE_TYPES[entry.kind]
        number = 0 if kind == stat.S_IFIFO else os.makedev(entry.major, entry.minor)
        if kind == stat.S_IFCHR and number == 0 and self._options.layer:
            raise TarError(f"{entry.name!r} is a device 0/0, which means a removed file to overlayfs")
        self._retried(path, entry, lambda: os.mknod(path, kind | 0o600, number))
        self._attributes(path, entry)

    def _whiteout(self, directory: str, name: str) -> None:
        if name == OPAQUE_NAME:
            where = directory or "."
            self._parents(f"{where}/x")
            os.setxattr(where, OPAQUE_XATTR, b"y", follow_symlinks=False)
            return
        if name.startswith(META_PREFIX):
            return  # aufs's own files
        hidden = name[len(WHITEOUT_PREFIX) :]
        if hidden in ("", ".", ".."):
            raise TarError(f"{name!r} removes nothing that can be named")
        path = f"{directory}/{hidden}" if directory else hidden
        self._parents(path)
        try:
            os.mknod(path, stat.S_IFCHR, 0)
        except FileExistsError:
            # The layer puts something there itself. A file hides what lies below anyway.
            if stat.S_ISDIR(os.lstat(path).st_mode):
                os.setxattr(path, OPAQUE_XATTR, b"y", follow_symlinks=False)

    # -- helpers ------------------------------------------------------------------------------------------------

    def _retried(self, path: str, entry: Entry, create: Callable[[], None]) -> None:
        try:
            create()
        except OSError as error:
            if error.errno == errno.ENOENT and entry.kind == tarheader.HARD_LINK and os.path.lexists(_parent(path)):
                raise
            self._make_room(path, entry, error)
            create()

    def _make_room(self, path: str, entry: Entry, error: OSError) -> bool:
        """Make what stopped the creation of a path go away: a missing parent, or what is there already.

        Returns:
            Whether it was a whiteout.

        Raises:
            TarError: It may not be replaced.
            OSError: The error, when it was about something else.
        """
        if error.errno in (errno.ENOENT, errno.ENOTDIR):  # the latter where a whiteout stands for the parent
            self._parents(path)
            return False
        if error.errno != errno.EEXIST:
            raise error
        status = os.lstat(path)
        is_directory = stat.S_ISDIR(status.st_mode)
        if self._options.keep_kinds and is_directory != (entry.kind == tarheader.DIRECTORY):
            if is_directory:
                raise TarError(f"cannot overwrite directory {'/' + path!r} with non-directory {'/' + path!r}")
            raise TarError(f"cannot overwrite non-directory {'/' + path!r} with directory {'/' + path!r}")
        if is_directory:
            shutil.rmtree(path)
        else:
            os.unlink(path)
        return self._options.layer and is_whiteout(status)

    def _parents(self, path: str) -> None:
        """Create the directories above a path that the archive did not mention."""
        parent = _parent(path)
        if parent == "." or os.path.isdir(parent):
            return
        self._parents(parent)
        try:
            os.mkdir(parent, PARENT_MODE)
        except FileExistsError:
            if self._options.layer and is_whiteout(os.lstat(parent)):
                # Removed by a whiteout before, now there are files in it: a new directory over the removed one.
                os.unlink(parent)
                os.mkdir(parent, PARENT_MODE)
                os.setxattr(parent, OPAQUE_XATTR, b"y", follow_symlinks=False)
                return
            raise
        if self._options.owner is not None:
            os.chown(parent, *self._options.owner)

    def _attributes(self, path: str, entry: Entry) -> None:
        """Owner, attributes, mode and times, in the order in which one does not undo the other."""
        uid, gid = self._options.owner or (entry.uid, entry.gid)
        os.chown(path, uid, gid, follow_symlinks=False)
        if entry.xattrs:
            _set_xattrs(path, entry.xattrs)
        if entry.kind != tarheader.SYMLINK:
            os.chmod(path, entry.mode)
        if entry.kind != tarheader.DIRECTORY:
            os.utime(path, ns=_times(entry), follow_symlinks=False)


def is_whiteout(status: os.stat_result) -> bool:
    """Whether a file says to overlayfs that its name is removed."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def clean(name: str) -> str:
    """A name as a relative path without ``.``, ``..`` and doubled slashes; ``.`` for the root.

    ``..`` is resolved by name and stops at the root, as in a chroot. The kernel would stop it there as well; this
    keeps the names comparable.
    """
    if "//" not in name and "./" not in name and "/." not in name and name not in ("", ".", ".."):
        stripped = name.strip("/")
        if stripped and stripped not in (".", ".."):
            return stripped
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            if parts:
                parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts) or "."


def _parent(path: str) -> str:
    return path.rpartition("/")[0] or "."


def _times(entry: Entry) -> tuple[int, int]:
    mtime = entry.mtime_ns
    return (mtime if entry.atime_ns is None else entry.atime_ns, mtime)


def _set_xattrs(target: int | str, xattrs: dict[str, bytes]) -> None:
    for name, value in xattrs.items():
        if name.startswith(OVERLAY_XATTRS):
            raise TarError(f"the attribute {name} is overlayfs's own and cannot come from an archive")
        try:
            if isinstance(target, int):
                os.setxattr(target, name, value)
            else:
                os.setxattr(target, name, value, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _OPTIONAL_XATTR_ERRORS or name == "security.capability":
                raise
