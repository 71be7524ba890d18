"""Writes a part of a tree to a directory of this machine, for bind mounts."""

from __future__ import annotations

import os
import posixpath
from contextlib import closing
from pathlib import Path

from services.image.build.context.tree import CHUNK_BYTES, Entry, Tree, walk


def materialise(tree: Tree, path: str, entry: Entry, target: Path) -> None:
    """Write a file, or a directory with all below it, as `target`, which must not exist. Blocks; raises OSError.

    Nothing is followed and nothing existing is opened: the target is new, and parents come before children.
    """
    _write(tree, path, entry, target)
    if entry.kind != "dir":
        return
    directories = [(target, entry)]
    for relative, child in walk(tree, path):
        place = target / relative
        _write(tree, posixpath.join(path, relative), child, place)
        if child.kind == "dir":
            directories.append((place, child))
    for place, child in reversed(directories):
        os.utime(place, ns=(child.mtime_ns, child.mtime_ns))


def _write(tree: Tree, path: str, entry: Entry, target: Path) -> None:
    if entry.kind == "dir":
        target.mkdir()
    elif entry.kind == "symlink":
        target.symlink_to(entry.link)
    elif entry.kind == "file":
        with target.open("xb") as out, closing(tree.open(path)) as content:
            while chunk := content.read(CHUNK_BYTES):
                out.write(chunk)
    elif entry.kind == "fifo":
        os.mkfifo(target)
    else:
        return  # devices of a context or an image are not made on this machine
    os.chown(target, entry.uid, entry.gid, follow_symlinks=False)
    if entry.kind != "symlink":
        os.chmod(target, entry.mode)
        os.utime(target, ns=(entry.mtime_ns, entry.mtime_ns))
