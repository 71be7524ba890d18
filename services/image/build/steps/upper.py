"""What a container changed, read from its overlay's upper directory and written as a layer.

Source: Linux Documentation/filesystems/overlayfs.rst; OCI image-spec, layer.md, "Whiteouts".
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

from services.image.build.context.directories import DirectoryTree, is_opaque, is_whiteout
from services.image.build.context.tree import Entry, walk
from services.image.build.steps.layer import LayerTarget, LayerWriter, WrittenLayer

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"


def write_upper(
    upper: Path, target: LayerTarget, *, omit: frozenset[str] = frozenset(), take: bool = False
) -> WrittenLayer | None:
    """Write the changes in an upper directory as a layer; None when there are none. Blocks.

    Args:
        omit: Paths that were made only to mount something there: left out as long as nothing is in them.
        take: Make the directory itself the layer's files; its container is not started again.
    """
    tree = DirectoryTree([upper])
    everything = dict(walk(tree, ""))
    entries = _without_empty(everything, omit)
    whiteouts = list(_whiteouts(upper, [path for path, entry in entries.items() if entry.kind == "dir"]))
    if not entries and not whiteouts:
        return None
    writer = LayerWriter(target)
    for name in sorted([*entries, *whiteouts], key=lambda path: path.split("/")):
        entry = entries.get(name)
        if entry is None:
            writer.add(name, Entry("file", 0o644))
        elif entry.kind == "file":
            writer.add(name, entry, partial(tree.open, name), tree=tree)
        else:
            writer.add(name, replace(entry, identity=None))
    written = writer.finish()
    files = target.files
    if not take or files is None:
        return written
    _take(upper, files, everything.keys() - entries.keys(), everything)
    return replace(written, has_files=True)


def _take(upper: Path, files: Path, omitted: set[str], entries: dict[str, Entry]) -> None:
    """Move the directory to where layers are; a rename, since both are below the data root."""
    for path in sorted(omitted, key=lambda path: -path.count("/")):
        if entries[path].kind == "dir":
            (upper / path).rmdir()
        else:
            (upper / path).unlink()
    for path, entry in entries.items():
        if entry.kind == "dir" and path not in omitted:
            os.utime(upper / path, ns=(entry.mtime_ns, entry.mtime_ns))
    os.rename(upper, files)
    upper.mkdir(mode=0o755)


def _without_empty(entries: dict[str, Entry], omit: frozenset[str]) -> dict[str, Entry]:
    """Without what `omit` names and is empty, deepest first, so that a directory emptied by it goes too."""
    kept = dict(entries)
    for path in sorted(omit & kept.keys(), key=lambda path: -path.count("/")):
        entry = kept[path]
        has_children = any(other.startswith(path + "/") for other in kept)
        if (entry.kind == "dir" and not has_children) or (entry.kind == "file" and entry.size == 0):
            del kept[path]
    return kept


def _whiteouts(upper: Path, directories: list[str]) -> list[str]:
    """Names of the marker files: one for each hidden name, one for each directory that hides what is below it."""
    found = []
    for directory in ["", *directories]:
        full = os.path.join(upper, directory)
        prefix = directory + "/" if directory else ""
        if directory and is_opaque(full):
            found.append(prefix + OPAQUE)
        with os.scandir(full) as listing:
            found.extend(
                prefix + WHITEOUT + item.name for item in listing if is_whiteout(item.stat(follow_symlinks=False))
            )
    return found
