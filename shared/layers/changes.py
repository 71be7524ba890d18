"""What a container changed: an overlay's upper directory compared with the layers below it.

Source: Docker Engine API, ContainerChanges (kinds 0 modified, 1 added, 2 deleted).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Sequence
from pathlib import Path

from shared.layers.extract import OPAQUE_XATTR, is_whiteout

MODIFIED, ADDED, DELETED = 0, 1, 2


def listed(upper: Path, lowers: Sequence[Path], *, exclude: Collection[str] = ()) -> list[tuple[int, str]]:
    """Kind and path (absolute, as in the container) of every change, parents before what is in them.

    Args:
        upper: The overlay's upper directory.
        lowers: The layers below, topmost first. Links in them are never followed.
        exclude: Paths to leave out, without a leading slash, with all below them.
    """
    found: list[tuple[int, str]] = []
    _compare(str(upper), "", [str(lower) for lower in lowers], frozenset(exclude), found)
    return found


def _compare(upper: str, inside: str, lowers: list[str], exclude: frozenset[str], found: list[tuple[int, str]]) -> None:
    try:
        listing = sorted(os.scandir(f"{upper}/{inside}"), key=lambda item: item.name)
    except FileNotFoundError:
        return  # removed meanwhile
    for item in listing:
        path = f"{inside}/{item.name}" if inside else item.name
        if path in exclude:
            continue
        try:
            status = item.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        below = [lower for lower in lowers if os.path.lexists(f"{lower}/{path}")]
        existed = bool(below) and not is_whiteout(os.lstat(f"{below[0]}/{path}"))
        if is_whiteout(status):
            if existed:
                found.append((DELETED, f"/{path}"))
            continue
        found.append((MODIFIED if existed else ADDED, f"/{path}"))
        if stat.S_ISDIR(status.st_mode):
            opaque = _is_opaque(f"{upper}/{path}")
            _compare(upper, path, [] if opaque else _directories(below, path), exclude, found)
            if opaque and existed:
                found.extend(_removed_from(upper, path, below[0], exclude))


def _directories(lowers: list[str], path: str) -> list[str]:
    """The layers whose directory at a path shows through: down to the first file, whiteout or opaque one."""
    showing = []
    for lower in lowers:
        if not stat.S_ISDIR(os.lstat(f"{lower}/{path}").st_mode):
            break
        showing.append(lower)
        if _is_opaque(f"{lower}/{path}"):
            break
    return showing


def _removed_from(upper: str, path: str, lower: str, exclude: frozenset[str]) -> list[tuple[int, str]]:
    """What a directory that was replaced had and has no more."""
    if not stat.S_ISDIR(os.lstat(f"{lower}/{path}").st_mode):
        return []
    names = sorted(set(os.listdir(f"{lower}/{path}")) - set(os.listdir(f"{upper}/{path}")))
    return [(DELETED, f"/{path}/{name}") for name in names if f"{path}/{name}" not in exclude]


def _is_opaque(directory: str) -> bool:
    try:
        return os.getxattr(directory, OPAQUE_XATTR, follow_symlinks=False) == b"y"
    except OSError:  # not set, or a file system without such attributes
        return False
