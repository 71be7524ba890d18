"""Users and groups as an image knows them, for ``--chown``, and modes for ``--chmod``.

Source: Dockerfile reference, "COPY --chown --chmod"; passwd(5), group(5); chmod(1) for symbolic modes.
"""

from __future__ import annotations

import re
from contextlib import closing

from services.image.build.context.tree import Tree, resolve
from shared.errors import InvalidArgument

MAX_FILE_BYTES = 10 << 20
_CLAUSE = re.compile(r"^([ugoa]*)((?:[-+=][rwxXst]*)+)$")


def find_owner(text: str, root: Tree) -> tuple[int, int]:
    """The uid and gid of ``user``, ``user:group``, ``uid:gid``; a user alone stands for the group of the same number.

    Raises:
        InvalidArgument: The image has no such user or group.
    """
    user, colon, group = text.partition(":")
    group = group if colon and group else user
    return _find(user, root, "etc/passwd", "user", "uid"), _find(group, root, "etc/group", "group", "gid")


def _find(name: str, root: Tree, path: str, what: str, number: str) -> int:
    if name.isdecimal():
        return int(name)
    for line in _read_lines(root, path):
        fields = line.split(":")
        if len(fields) > 2 and fields[0] == name and fields[2].isdecimal():
            return int(fields[2])
    raise InvalidArgument(
        f"unable to convert uid/gid chown string to host mapping: can't find {number} for {what} {name}: "
        f"no such {what}: {name}",
        field="--chown",
    )


def _read_lines(root: Tree, path: str) -> list[str]:
    real, entry = resolve(root, path)
    if entry is None or entry.kind != "file":
        return []
    with closing(root.open(real)) as stream:
        return stream.read(MAX_FILE_BYTES).decode("utf-8", "replace").splitlines()


class Mode:
    """A ``--chmod``: octal, or symbolic as in ``u=rwX,go-w``. Raises InvalidArgument for anything else."""

    def __init__(self, text: str) -> None:
        self._octal: int | None = None
        self._clauses: list[tuple[str, str]] = []
        if re.fullmatch(r"[0-7]{1,5}", text) and int(text, 8) <= 0o7777:
            self._octal = int(text, 8)
            return
        for part in text.split(","):
            match = _CLAUSE.match(part)
            if not match:
                raise InvalidArgument(f"invalid chmod parameter: '{text}'. it should be octal string", field="--chmod")
            self._clauses.append((match.group(1) or "a", match.group(2)))

    def apply(self, mode: int, *, directory: bool) -> int:
        if self._octal is not None:
            return self._octal
        for who, operations in self._clauses:
            for operator, letters in re.findall(r"([-+=])([rwxXst]*)", operations):
                mode = _change(mode, who, operator, letters, directory=directory)
        return mode


def _change(mode: int, who: str, operator: str, letters: str, *, directory: bool) -> int:
    who = "ugo" if "a" in who else who
    bits = mask = 0
    for person, shift, special in (("u", 6, 0o4000), ("g", 3, 0o2000), ("o", 0, 0)):
        if person not in who:
            continue
        mask |= 0o7 << shift | special
        for letter in letters:
            if letter in "rwx":
                bits |= {"r": 4, "w": 2, "x": 1}[letter] << shift
            elif letter == "X" and (directory or mode & 0o111):
                bits |= 1 << shift
            elif letter == "s":
                bits |= special
    if "t" in letters:
        bits |= 0o1000
        mask |= 0o1000
    if operator == "=":
        return (mode & ~mask) | bits
    return mode | bits if operator == "+" else mode & ~bits
