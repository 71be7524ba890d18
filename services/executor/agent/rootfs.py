"""A container's files as seen from the agent, running or not.

Running: through ``/proc/<pid>/root``, so with every mount it has. Otherwise: its overlay as a detached mount, which
has no place in any mount tree and is gone when its descriptor is closed; a path below one of its volumes or binds is
then looked for in that.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from services.executor.agent.failures import translated
from services.executor.agent.records import NodeRecord, NodeRecords
from services.executor.runtime.beneath import try_open_beneath
from services.executor.runtime.rootfs import Overlay
from shared.contracts.node import OrderedMount
from shared.errors import NotFound
from shared.layers.changes import ADDED, MODIFIED

GENERATED = ("etc/hosts", "etc/hostname", "etc/resolv.conf", ".dockerenv")
READ_ONLY_ROOT = "container rootfs is marked read-only"
READ_ONLY_MOUNT = "mounted volume is marked read-only"
DOCKERENV = ".dockerenv"
MTAB, MTAB_LINK = "etc/mtab", "/proc/mounts"
# Made for the container rather than by it, as changes of an image that lacks them.
SCAFFOLD = frozenset({"/dev", "/dev/pts", "/dev/shm", "/proc", "/sys", "/etc"})


def furnish(upper: Path, lower: list[str]) -> None:
    """Put into a new container's writable layer what programs look for: /.dockerenv, and /etc/mtab if there is none.

    Args:
        lower: The image's layers, topmost first.
    """
    marker = upper / DOCKERENV
    if os.path.lexists(marker):
        return
    directory = next((f"{one}/etc" for one in lower if os.path.lexists(f"{one}/etc")), None)
    if not any(os.path.lexists(f"{one}/{MTAB}") for one in (upper, *lower)):
        _make_like(upper / "etc", directory)
        os.symlink(MTAB_LINK, upper / MTAB)
    marker.touch(mode=0o755)


def _make_like(path: Path, other: str | None) -> None:
    """A directory over another, which keeps the owner, mode and time that it had."""
    if path.is_dir():
        return
    path.mkdir(mode=0o755)
    if other is not None:
        status = os.lstat(other)
        os.chown(path, status.st_uid, status.st_gid)
        os.chmod(path, stat.S_IMODE(status.st_mode))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def generated(upper: Path) -> tuple[str, ...]:
    """Paths of a writable layer that are not the container's changes."""
    try:
        ours = os.readlink(upper / MTAB) == MTAB_LINK
    except OSError:
        ours = False
    return (*GENERATED, MTAB) if ours else GENERATED


def changes_of_the_container(found: list[tuple[int, str]], upper: Path, lower: list[Path]) -> list[tuple[int, str]]:
    """Changes without the directories that were made, or written to, for the container rather than by it."""
    kept = [(kind, path) for kind, path in found if path not in SCAFFOLD]
    holding = {path for path in SCAFFOLD if any(other.startswith(f"{path}/") for _, other in kept)}
    return [
        (MODIFIED if kind == ADDED and path in SCAFFOLD else kind, path)
        for kind, path in found
        if path not in SCAFFOLD or path in holding or (kind != ADDED and not _alike(path, upper, lower))
    ]


def _alike(path: str, upper: Path, lower: list[Path]) -> bool:
    """Whether a directory has the owner and mode that the image gave it."""
    below = next((one for one in lower if os.path.lexists(f"{one}{path}")), None)
    try:
        one, other = os.lstat(f"{upper}{path}"), os.lstat(f"{below}{path}")
    except FileNotFoundError:
        return False
    return (one.st_mode, one.st_uid, one.st_gid) == (other.st_mode, other.st_uid, other.st_gid)


@dataclass(frozen=True, slots=True)
class Place:
    """A path in a root directory that `Path` can be opened while the context lasts.

    Attributes:
        path: Absolute, as seen inside `root`.
        read_only: Why the container may not write there, in Docker's words; empty when it may.
    """

    root: Path
    path: str
    read_only: str = ""


class RootFilesystems:
    """Gives access to the files of this node's containers."""

    def __init__(self, data_root: Path, records: NodeRecords, mount_source: Callable[[OrderedMount], str]) -> None:
        self._layers = data_root / "layers"
        self._records = records
        self._mount_source = mount_source

    def lower(self, record: NodeRecord) -> list[Path]:
        """The image's layers, topmost first."""
        return self.directories(record.order.layers)

    def directories(self, layers: list[str]) -> list[Path]:
        """Where layers, given lowest first, are on this node; topmost first."""
        return [self._layers / chain.removeprefix("sha256:") / "fs" for chain in reversed(layers)]

    @contextmanager
    def root(self, record: NodeRecord) -> Iterator[Path]:
        """The container's root directory."""
        if runs(record) and record.pid:
            yield Path(f"/proc/{record.pid}/root")
            return
        paths = self._records.paths(record.id)
        paths.upper.mkdir(mode=0o755, parents=True, exist_ok=True)
        paths.work.mkdir(mode=0o700, exist_ok=True)
        with translated():
            mounted = Overlay(
                {"lower": [str(one) for one in self.lower(record)], "upper": str(paths.upper), "work": str(paths.work)}
            ).detached()
        try:
            yield Path(f"/proc/self/fd/{mounted}")
        finally:
            os.close(mounted)

    @contextmanager
    def place(self, record: NodeRecord, path: str) -> Iterator[Place]:
        """Where a container's path is."""
        clean = posixpath.normpath("/" + path.lstrip("/"))
        mount = self._mount_of(record, clean)
        if mount is not None:
            read_only = READ_ONLY_MOUNT if mount.read_only else ""
        else:
            read_only = READ_ONLY_ROOT if record.order.host_config.readonly_rootfs else ""
        if mount is not None and mount.type in ("bind", "volume") and not runs(record):
            inside = "/" + posixpath.relpath(clean, mount.target)
            yield Place(Path(self._mount_source(mount)), posixpath.normpath(inside), read_only)
            return
        with self.root(record) as root:
            yield Place(root, clean, read_only)

    def _mount_of(self, record: NodeRecord, path: str) -> OrderedMount | None:
        """The deepest mount a path is in."""
        found = [one for one in record.order.mounts if path == one.target or path.startswith(one.target + "/")]
        return max(found, key=lambda one: len(one.target), default=None)


def runs(record: NodeRecord) -> bool:
    """Whether the container has a process, and therefore mounts."""
    return record.status in ("running", "paused")


def kernels(record: NodeRecord, path: str) -> list[str]:
    """Which directories below a path of a container that runs are the kernel's, as `Options.shallow` spells them.

    An archive has them without what is in them, as Docker's has, which sees what lies below these mounts.
    """
    if not runs(record):
        return []
    found = {"/proc", "/sys", "/dev"} - {mount.target for mount in record.order.mounts}
    return sorted(posixpath.relpath(one, path) for one in found if path in ("/", one))


@contextmanager
def image_view(lower: list[str]) -> Iterator[Path]:
    """An image's layers together, topmost first, read-only."""
    if len(lower) == 1:
        yield Path(lower[0])
        return
    with translated():
        mounted = Overlay({"lower": lower}).detached()
    try:
        yield Path(f"/proc/self/fd/{mounted}")
    finally:
        os.close(mounted)


@dataclass(frozen=True, slots=True)
class Found:
    """A file in a container: its status, where a link points, and its real path with links above it resolved."""

    status: os.stat_result
    link: str
    path: str


def look(place: Place, *, follow: bool = False) -> Found:
    """The object at a place; links above it are followed inside the root.

    Raises:
        NotFound: There is none.
    """
    root = os.open(place.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
        with translated():
            descriptor = try_open_beneath(root, place.path, flags)
        if descriptor is None:
            raise NotFound(f"Could not find the file {place.path} in container")
        try:
            status = os.fstat(descriptor)
            link = os.readlink("", dir_fd=descriptor) if stat.S_ISLNK(status.st_mode) else ""
            return Found(status, link, _real_path(root, descriptor, place.path))
        finally:
            os.close(descriptor)
    finally:
        os.close(root)


def _real_path(root: int, descriptor: int, asked: str) -> str:
    """The path inside the root that leads to a descriptor without links above the last part."""
    base, full = os.readlink(f"/proc/self/fd/{root}"), os.readlink(f"/proc/self/fd/{descriptor}")
    if base == "/":
        return full
    return full[len(base) :] or "/" if full.startswith(base.rstrip("/") + "/") or full == base else asked


def go_mode(mode: int) -> int:
    """Go's os.FileMode of a st_mode. Source: package io/fs, FileMode."""
    result = stat.S_IMODE(mode) & 0o777
    for test, bit in (
        (stat.S_ISDIR, 31),
        (stat.S_ISLNK, 27),
        (stat.S_ISFIFO, 25),
        (stat.S_ISSOCK, 24),
        (stat.S_ISBLK, 26),
    ):
        if test(mode):
            result |= 1 << bit
    if stat.S_ISCHR(mode):
        result |= 1 << 26 | 1 << 21
    for flag, bit in ((stat.S_ISUID, 23), (stat.S_ISGID, 22), (stat.S_ISVTX, 20)):
        if mode & flag:
            result |= 1 << bit
    return result


def tree_bytes(root: Path) -> int:
    """Bytes of the files below a directory, hard links counted once; what vanishes meanwhile counts nothing."""
    total = 0
    seen: set[tuple[int, int]] = set()
    stack = [str(root)]
    while stack:
        directory = stack.pop()
        try:
            entries = list(os.scandir(directory))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                continue
            raise
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(status.st_mode):
                stack.append(entry.path)
            elif (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                total += status.st_size
    return total


def own_bytes(upper: Path) -> int:
    """Bytes of what a container wrote itself."""
    return tree_bytes(upper) - (len(MTAB_LINK) if MTAB in generated(upper) else 0)
