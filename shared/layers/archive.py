"""Writing trees, and the changes of an overlay's upper directory, as tars.

Runs in a confined child only (`shared.layers.child`): the tree is this process's root, so symbolic links that a
container planted lead nowhere else.

Source: moby pkg/archive (what an export contains); OCI image-spec, layer.md, "Whiteouts".
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter

from shared.layers import tarheader
from shared.layers.extract import OPAQUE_NAME, OPAQUE_XATTR, OVERLAY_XATTRS, WHITEOUT_PREFIX, is_whiteout
from shared.layers.tarheader import Entry, TarError

PIECE_BYTES = 1 << 20
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NAME = attrgetter("name")
END_OF_ARCHIVE = bytes(2 * tarheader.BLOCK)

_KINDS = {
    stat.S_IFREG: tarheader.REGULAR,
    stat.S_IFDIR: tarheader.DIRECTORY,
    stat.S_IFLNK: tarheader.SYMLINK,
    stat.S_IFCHR: tarheader.CHAR_DEVICE,
    stat.S_IFBLK: tarheader.BLOCK_DEVICE,
    stat.S_IFIFO: tarheader.FIFO,
}
# What overlayfs keeps when a directory was renamed or only metadata was copied up: such an upper is not a layer.
_REDIRECTS = ("trusted.overlay.redirect", "trusted.overlay.metacopy")
# Security modules' labels belong to the machine.
_LOCAL_XATTRS = (
    *OVERLAY_XATTRS,
    "security.selinux",
    "security.ima",
    "security.evm",
    "security.apparmor",
    "system.nfs4",
)


@dataclass(frozen=True, slots=True)
class Options:
    """What to pack.

    Attributes:
        path: The file or directory, in the root. Links above it are followed, it itself is not.
        name: Its name in the archive; ``/`` lets every name begin with a slash; empty to leave the directory itself
            out and begin with what it contains.
        layer: The root is an overlay's upper directory; write whiteouts as layers spell them.
        exclude: Paths in the root to leave out, without a leading slash, with all below them.
        shallow: Directories, spelled as in `exclude` and ``.`` for the root itself, that are written without what is
            in them.
        one_file_system: Leave out what is mounted below; of a directory that is mounted on, it alone is written.
    """

    path: str = "/"
    name: str = ""
    layer: bool = False
    exclude: frozenset[str] = field(default_factory=frozenset)
    shallow: frozenset[str] = field(default_factory=frozenset)
    one_file_system: bool = False


class Archiver:
    """Writes one tar.

    Args:
        write: Takes the archive's bytes, piece by piece.
        move: Takes some of so many bytes from a descriptor instead, without copying them through this process, and
            says how many; none where that cannot be done.
    """

    def __init__(
        self,
        write: Callable[[bytes], object],
        options: Options,
        move: Callable[[int, int], int] = lambda _descriptor, _size: 0,
    ) -> None:
        self._write = write
        self._move = move
        self._options = options
        self._linked: dict[tuple[int, int], str] = {}
        self._device = 0
        self.entries = 0
        self.size_bytes = 0

    def run(self) -> None:
        """Raises: OSError when the tree cannot be read, TarError when it is no layer."""
        parent, _, base = self._options.path.rstrip("/").rpartition("/")
        os.chdir(parent or "/")
        top = base or "."
        status = os.lstat(top)
        self._device = status.st_dev
        name = self._options.name
        if name:
            self._add(top, name.rstrip("/"), status)
        if stat.S_ISDIR(status.st_mode) and "." not in self._options.shallow:
            os.chdir(top)
            self._tree("", f"{name.rstrip('/')}/" if name else "", "")
        self._write(END_OF_ARCHIVE)

    def _tree(self, where: str, prefix: str, inside: str) -> None:
        """Everything below a directory: `where` from here, with `prefix` in the archive, `inside` the root."""
        options = self._options
        try:
            listing = sorted(os.scandir(where or "."), key=_NAME)
        except FileNotFoundError:
            return  # removed meanwhile
        for item in listing:
            path = f"{inside}/{item.name}" if inside else item.name
            if path in options.exclude:
                continue
            try:
                status = item.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            directory = stat.S_ISDIR(status.st_mode)
            elsewhere = options.one_file_system and status.st_dev != self._device
            if elsewhere and not directory:
                continue
            named = prefix + item.name
            here = f"{where}/{item.name}" if where else item.name
            self._add(here, named, status)
            if directory and not elsewhere and path not in options.shallow:
                self._tree(here, f"{named}/", path)

    def _add(self, path: str, name: str, status: os.stat_result) -> None:
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            return  # sockets have no meaning elsewhere
        if self._options.layer and is_whiteout(status):
            directory, _, base = name.rpartition("/")
            whiteout = WHITEOUT_PREFIX + base
            self._header(Entry(f"{directory}/{whiteout}" if directory else whiteout, mode=0o600))
            return
        xattrs = _xattrs(path)
        if xattrs:
            if self._options.layer:
                _check_redirect(name, xattrs)
        elif kind == tarheader.REGULAR and status.st_nlink == 1:
            self._file(path, name, status, None)
            return
        entry = Entry(name, kind, stat.S_IMODE(status.st_mode))
        entry.uid, entry.gid = status.st_uid, status.st_gid
        entry.mtime_ns = status.st_mtime_ns
        entry.xattrs = {key: value for key, value in xattrs.items() if not key.startswith(_LOCAL_XATTRS)} or None
        if kind == tarheader.DIRECTORY:
            entry.name += "/"
            self._header(entry)
            if self._options.layer and xattrs.get(OPAQUE_XATTR) == b"y":
                self._header(Entry(f"{name}/{OPAQUE_NAME}", mode=0o600))
        elif kind == tarheader.SYMLINK:
            entry.link = os.readlink(path)
            entry.mode = 0o777
            self._header(entry)
        else:
            entry.major, entry.minor = os.major(status.st_rdev), os.minor(status.st_rdev)
            self._maybe_linked(path, entry, status)

    def _maybe_linked(self, path: str, entry: Entry, status: os.stat_result) -> None:
        if status.st_nlink > 1:
            first = self._linked.setdefault((status.st_dev, status.st_ino), entry.name)
            if first != entry.name:
                entry.kind, entry.link = tarheader.HARD_LINK, first
                self._header(entry)
                return
        if entry.kind == tarheader.REGULAR:
            self._file(path, entry.name, status, entry.xattrs)
        else:
            self._header(entry)

    def _file(self, path: str, name: str, seen: os.stat_result, xattrs: dict[str, bytes] | None) -> None:
        """A regular file, with the owner, mode and time that it had when it was listed."""
        try:
            descriptor = os.open(path, _READ)
        except FileNotFoundError:
            return  # removed meanwhile
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return  # replaced meanwhile
            size = status.st_size
            header = _header_of(name, seen, size, xattrs)
            self.entries += 1
            self.size_bytes += size
            if size <= PIECE_BYTES:
                data = _exactly(os.read(descriptor, size), size)
                self._write(b"".join((header, data, tarheader.padding(size))))
                return
            self._write(header)
            self._contents(descriptor, size)
            self._write(tarheader.padding(size))
        finally:
            os.close(descriptor)

    def _contents(self, descriptor: int, size: int) -> None:
        """As many bytes as the header promised: a file that grows is cut, one that shrinks ends in zeros."""
        while size:
            moved = self._move(descriptor, size)
            if not moved:
                break
            size -= moved
        while size:
            piece = os.read(descriptor, min(PIECE_BYTES, size)) or bytes(min(PIECE_BYTES, size))
            size -= len(piece)
            self._write(piece)

    def _header(self, entry: Entry) -> None:
        self.entries += 1
        self._write(tarheader.encode(entry))


def _header_of(name: str, seen: os.stat_result, size: int, xattrs: dict[str, bytes] | None) -> bytes:
    mode = stat.S_IMODE(seen.st_mode)
    if xattrs is None:
        seconds = seen.st_mtime_ns // 1_000_000_000
        header = tarheader.plain(name, tarheader.REGULAR, mode, seen.st_uid, seen.st_gid, size, seconds)
        if header is not None:
            return header
    entry = Entry(name, tarheader.REGULAR, mode)
    entry.uid, entry.gid, entry.mtime_ns = seen.st_uid, seen.st_gid, seen.st_mtime_ns
    entry.size, entry.xattrs = size, xattrs
    return tarheader.encode(entry)


def _exactly(data: bytes, size: int) -> bytes:
    return data if len(data) == size else data[:size].ljust(size, b"\0")


def _xattrs(path: str) -> dict[str, bytes]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENOENT, errno.EPERM):
            return {}
        raise
    found = {}
    for name in names:
        try:
            found[name] = os.getxattr(path, name, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.ENOENT, errno.ENOTSUP, errno.EPERM):
                raise
    return found


def _check_redirect(name: str, xattrs: dict[str, bytes]) -> None:
    for xattr in _REDIRECTS:
        if xattr in xattrs:
            raise TarError(f"{name!r} has {xattr}: the overlay must be mounted with redirect_dir=off,metacopy=off")
