"""Paths of `docker cp` and the archive endpoints, as Docker reads them.

::

    /link        the link itself
    /link/       what it leads to, called "link"; an error for what is no directory
    /link/.      the same, called "."; only what is in it is meant
    /            entries begin with a slash

Source: the reference engine's answers; moby, container archive, PreserveTrailingDotOrSeparator.
"""

from __future__ import annotations

import posixpath
from collections import deque
from collections.abc import Callable

from shared.errors import InvalidArgument

MOST_LINKS = 255
LONGEST_PATH_BYTES = 4096
LONGEST_NAME_BYTES = 255


def clean(asked: str) -> str:
    """The absolute path without ``.``, ``..`` and doubled slashes, which are understood before links are.

    Raises:
        InvalidArgument: There can be no such path.
    """
    path = posixpath.normpath("/" + asked.lstrip("/"))
    names = [len(name.encode("utf-8", "surrogateescape")) for name in path.split("/")]
    if sum(names) + len(names) > LONGEST_PATH_BYTES or max(names) > LONGEST_NAME_BYTES:
        raise InvalidArgument(f"{path[:LONGEST_NAME_BYTES]}…: file name too long", field="path")
    if "\0" in path:
        raise InvalidArgument(f"{path!r}: invalid argument", field="path")
    return path


def means_directory(asked: str) -> bool:
    """Whether a path ends in a slash or a dot: then a link at its end is followed, and a directory must be there."""
    return asked.endswith("/") or _ends_in_dot(asked)


def _ends_in_dot(asked: str) -> bool:
    return posixpath.basename(asked.rstrip("/")) == "."


def name_of(asked: str) -> str:
    """What an archive calls what is at a path: ``.`` for what is in a directory, ``/`` for the root."""
    if _ends_in_dot(asked):
        return "."
    return posixpath.basename(posixpath.normpath("/" + asked.lstrip("/"))) or "/"


def resolved(path: str, readlink: Callable[[str], str | None], *, follow: bool) -> str:
    """A path without links above its end, or, with `follow`, without any; it need not exist.

    Args:
        readlink: Where the link at a path that has none above its end leads; None when there is no link.

    Raises:
        InvalidArgument: The links lead in a circle.
    """
    waiting = deque(name for name in path.split("/") if name)
    done: list[str] = []
    links = 0
    while waiting:
        name = waiting.popleft()
        if name == "..":
            del done[-1:]
            continue
        here = "/" + "/".join([*done, name])
        target = readlink(here) if waiting or follow else None
        if target is None:
            done.append(name)
            continue
        links += 1
        if links > MOST_LINKS:
            raise InvalidArgument(f"too many links in {path}", field="path")
        if target.startswith("/"):
            done = []
        waiting.extendleft(reversed([part for part in target.split("/") if part not in ("", ".")]))
    return "/" + "/".join(done)
