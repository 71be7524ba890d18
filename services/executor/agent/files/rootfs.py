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
from dataclasses import dataclass, replace
from pathlib import Path

from services.executor.agent.containers.failures import translate, translated
from services.executor.agent.containers.records import NodeRecord, NodeRecords
from services.executor.agent.files import paths
from services.executor.agent.files.furniture import DOCKERENV, FILES, furniture_of
from services.executor.runtime.errors import KernelFailure
from services.executor.runtime.kernel.beneath import open_beneath, try_open_beneath
from services.executor.runtime.steps.rootfs import Overlay
from shared.contracts.node import OrderedMount
from shared.errors import InvalidArgument, NotFound

# In no image that is made of a container, whoever put them into its layer.
GENERATED = (*FILES, DOCKERENV)
READ_ONLY_ROOT = "container rootfs is marked read-only"
READ_ONLY_MOUNT = "mounted volume is marked read-only"


@dataclass(frozen=True, slots=True)
class Place:
    """A path in a root directory that `Path` can be opened while the context lasts.

    Attributes:
        path: Absolute, as seen inside `root`.
        read_only: Why the container may not write there, in Docker's words; empty when it may.
        target: Where the path leads when a link at its end is followed, in the container.
    """

    root: Path
    path: str
    read_only: str = ""
    target: str = ""


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

    def beneath(self, record: NodeRecord) -> list[Path]:
        """All that the container's own layer lies on, topmost first."""
        lower = self.lower(record)
        return [Path(furniture_of([str(one) for one in lower])), *lower] if lower else []

    @contextmanager
    def root(self, record: NodeRecord) -> Iterator[Path]:
        """The container's root directory."""
        live = live_root(record)
        if live is not None:
            try:
                yield Path(f"/proc/self/fd/{live}")
            finally:
                os.close(live)
            return
        paths = self._records.paths(record.id)
        paths.upper.mkdir(mode=0o755, parents=True, exist_ok=True)
        paths.work.mkdir(mode=0o700, exist_ok=True)
        with translated():
            lower = [str(one) for one in self.beneath(record)]
            mounted = Overlay({"lower": lower, "upper": str(paths.upper), "work": str(paths.work)}).detached()
        try:
            yield Path(f"/proc/self/fd/{mounted}")
        finally:
            os.close(mounted)

    @contextmanager
    def place(self, record: NodeRecord, path: str, *, follow: bool = False) -> Iterator[Place]:
        """Where a container's path is, links above its end followed.

        Args:
            follow: Follow a link at its end as well.

        Raises:
            InvalidArgument: There can be no such path.
        """
        clean = paths.clean(path)
        alive = runs(record)
        with self.root(record) as root:

            def located(inside: str) -> Place:
                return Place(root, inside) if alive else self._behind_mounts(record, root, inside)

            target = paths.resolved(clean, lambda inside: link_at(located(inside)), follow=True)
            real = target if follow else paths.resolved(clean, lambda inside: link_at(located(inside)), follow=False)
            yield replace(located(real), read_only=self._protection(record, real), target=target)

    def _behind_mounts(self, record: NodeRecord, root: Path, path: str) -> Place:
        """Where a path of a container without mounts is: in the source of what would be mounted there."""
        mount = self._mount_of(record, path)
        if mount is None or mount.type not in ("bind", "volume"):
            return Place(root, path)
        source = Path(self._mount_source(mount))
        if not source.is_dir():
            return Place(source.parent, f"/{source.name}")
        return Place(source, posixpath.normpath("/" + posixpath.relpath(path, mount.target)))

    def _protection(self, record: NodeRecord, path: str) -> str:
        mount = self._mount_of(record, path)
        if mount is not None:
            return READ_ONLY_MOUNT if mount.read_only else ""
        return READ_ONLY_ROOT if record.order.host_config.readonly_rootfs else ""

    def _mount_of(self, record: NodeRecord, path: str) -> OrderedMount | None:
        """The deepest mount a path is in."""
        found = [one for one in record.order.mounts if path == one.target or path.startswith(one.target + "/")]
        return max(found, key=lambda one: len(one.target), default=None)


def runs(record: NodeRecord) -> bool:
    """Whether the container has a process, and therefore mounts."""
    live = live_root(record)
    if live is not None:
        os.close(live)
    return live is not None


def live_root(record: NodeRecord) -> int | None:
    """A descriptor of the root of the container's process; None when there is no such process (any more).

    The end of a process is known a moment after its id may have become another's, whose root must not be shown: whoever
    is not in the container's control group is another.
    """
    if record.status not in ("running", "paused") or not record.pid:
        return None
    try:
        root = os.open(f"/proc/{record.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return None
    try:
        groups = Path(f"/proc/{record.pid}/cgroup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        groups = ""
    if record.id in groups:
        return root
    os.close(root)
    return None


def kernels(record: NodeRecord, path: str) -> list[str]:
    """Which directories below a path of a container that runs are the kernel's, as `Options.shallow` spells them.

    An archive has them without what is in them, as Docker's has, which sees what lies below these mounts.
    """
    if not runs(record):
        return []
    found = {"/proc", "/sys", "/dev"} - {mount.target for mount in record.order.mounts}
    return sorted(posixpath.relpath(one, path) for one in found if path in ("/", one))


@dataclass(frozen=True, slots=True)
class Found:
    """A file in a container: its status, where a link leads in the end, and its real path without links above it."""

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
            link = place.target if stat.S_ISLNK(status.st_mode) else ""
            return Found(status, link, _real_path(root, descriptor, place.path))
        finally:
            os.close(descriptor)
    finally:
        os.close(root)


def link_at(place: Place) -> str | None:
    """Where a link leads; None when there is none, or nothing at all.

    Raises:
        InvalidArgument: What is above it is no directory.
    """
    root = os.open(place.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor = open_beneath(root, place.path, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW)
    except KernelFailure as failure:
        if failure.errno == errno.ENOENT:
            return None
        if failure.errno == errno.ENOTDIR:
            raise InvalidArgument(f"{place.path}: not a directory", field="path") from failure
        raise translate(failure) from failure
    finally:
        os.close(root)
    try:
        return os.readlink("", dir_fd=descriptor)
    except OSError:  # no link
        return None
    finally:
        os.close(descriptor)


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
