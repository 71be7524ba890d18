"""What a container finds in its root beside its image's files: mount points, /.dockerenv and /etc/mtab.

It lies in a read-only layer of its own between the image's layers and the container's, which is made once for an image
and shared by its containers: a start has nothing to create for it, and a removal nothing to delete::

    <data>/layers/<top chain id>/furniture

A removed image takes it along. Programs look for /.dockerenv and /etc/mtab; what is missing of the rest would be made
in the container's own layer when something is mounted there.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from pathlib import Path

from services.executor.agent.containers.failures import translated
from services.executor.agent.layers.views import image_view
from services.executor.runtime.kernel.beneath import try_open_beneath

NAME = "furniture"
DIRECTORIES = ("dev", "proc", "sys")
# A file of the network's is mounted over each of them.
FILES = ("etc/hosts", "etc/hostname", "etc/resolv.conf")
DOCKERENV = ".dockerenv"
MTAB, MTAB_LINK = "etc/mtab", "/proc/mounts"


def furniture_of(lower: list[str]) -> str:
    """The layer for an image, made if it is not there yet.

    Args:
        lower: The image's layers, topmost first: directories ``<layers>/<chain id>/fs``.
    """
    place = Path(lower[0]).parent / NAME
    if not place.is_dir():
        _make(place, lower)
    return str(place)


def _make(place: Path, lower: list[str]) -> None:
    """In one step, since others may be at it too, and this process may be killed."""
    staged = place.with_name(f".{NAME}-{secrets.token_hex(4)}")
    staged.mkdir()
    try:
        with image_view(lower) as view, translated():
            _furnish(staged, view)
        os.rename(staged, place)
    except OSError:
        if not place.is_dir():  # somebody else was not faster
            raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _furnish(layer: Path, view: Path) -> None:
    """Make what an image lacks, in directories that are as the image has them: of two, the upper one counts."""
    root = os.open(view, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _make_like(layer, os.fstat(root))
        for name in DIRECTORIES:
            if _missing(root, name):
                _directory(layer / name)
        if _missing(root, DOCKERENV):
            _file(layer / DOCKERENV, 0o755)
        if not _prepared_etc(layer / "etc", root):
            return
        for name in FILES:
            if _missing(root, name):
                _file(layer / name, 0o644)
        if _missing(root, MTAB):
            os.symlink(MTAB_LINK, layer / MTAB)
        _make_like(layer / "etc", _status(root, "etc"))
    finally:
        os.close(root)


def _prepared_etc(etc: Path, root: int) -> bool:
    """Whether the image's /etc can be lain over: it is a directory, or missing; not when it is a link to another."""
    status = _status(root, "etc")
    if status is not None and not stat.S_ISDIR(status.st_mode):
        return False
    if status is None or any(_missing(root, name) for name in (*FILES, MTAB)):
        _directory(etc)
        return True
    return False


def _status(root: int, path: str) -> os.stat_result | None:
    found = try_open_beneath(root, path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    if found is None:
        return None
    try:
        return os.fstat(found)
    finally:
        os.close(found)


def _missing(root: int, path: str) -> bool:
    return _status(root, path) is None


def _directory(path: Path) -> None:
    path.mkdir()
    path.chmod(0o755)  # whatever the umask is


def _file(path: Path, mode: int) -> None:
    path.touch()
    path.chmod(mode)


def _make_like(path: Path, status: os.stat_result | None) -> None:
    if status is not None:
        os.chown(path, status.st_uid, status.st_gid)
        os.chmod(path, stat.S_IMODE(status.st_mode))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
