"""Users and groups by name, looked up in the container's own files.

The words of the errors are Docker's; clients show them. Source: passwd(5), group(5).
"""

from __future__ import annotations

import os
import stat

from services.executor.runtime.errors import UserFailure

_MAX_ID = 2**31 - 1
_MAX_FILE_BYTES = 8 << 20


class Identity:
    """Who a process runs as. `home` is None when the passwd file does not say."""

    __slots__ = ("gid", "groups", "home", "uid")

    def __init__(self, uid: int, gid: int, groups: list[int], home: str | None) -> None:
        self.uid = uid
        self.gid = gid
        self.groups = groups
        self.home = home


def read_database(path: str) -> list[list[str]]:
    """The records of a passwd or group file, split at the colons; none when there is no such regular file.

    The file is the container's: a fifo or a device in its place must not hang or harm the runtime.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return []
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return []
        with open(fd, "rb", closefd=False) as file:
            text = file.read(_MAX_FILE_BYTES).decode(errors="replace")
    finally:
        os.close(fd)
    return [line.split(":") for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _number(text: str) -> int | None:
    """An id in digits; None when it is a name.

    Raises:
        UserFailure: digits, but no id.
    """
    if not (text.isascii() and text.lstrip("-").isdigit()):
        return None
    value = int(text)
    if not 0 <= value <= _MAX_ID:
        raise UserFailure(f"uids and gids must be in range 0-{_MAX_ID}", step="user", field="process.user")
    return value


def _field(record: list[str], index: int) -> str:
    return record[index] if index < len(record) else ""


def home_of(uid: int, passwd: list[list[str]]) -> str | None:
    """The home directory of the first user with this id."""
    for record in passwd:
        if _field(record, 2) == str(uid):
            return _field(record, 5) or None
    return None


def resolve(wanted: str, passwd: list[list[str]], group: list[list[str]]) -> Identity:
    """Who "name", "uid", "name:group", "uid:gid" is.

    Without a group, the user's own primary group and every group that lists the user; a number that is in no file is
    taken as it is, with group 0.

    Raises:
        UserFailure: an unknown name, a number out of range.
    """
    user, _, group_name = wanted.partition(":")
    uid, name, gid, home = _user(user, passwd)
    groups: list[int] = []
    if group_name:
        gid = resolve_group(group_name, group)
    elif name:
        groups = [int(_field(r, 2) or 0) for r in group if name in _field(r, 3).split(",")]
    return Identity(uid, gid, groups, home)


def _user(user: str, passwd: list[list[str]]) -> tuple[int, str, int, str | None]:
    number = _number(user) if user else 0
    for record in passwd:
        matches = _field(record, 0) == user if number is None else _field(record, 2) == str(number)
        if matches:
            return int(_field(record, 2) or 0), record[0], int(_field(record, 3) or 0), _field(record, 5) or None
    if number is None:
        raise UserFailure(
            f"unable to find user {user}: no matching entries in passwd file", step="user", field="process.user"
        )
    return number, "", 0, None


def resolve_group(wanted: str, group: list[list[str]]) -> int:
    """The id of a group given by name or number."""
    number = _number(wanted)
    for record in group:
        if _field(record, 0) == wanted if number is None else _field(record, 2) == str(number):
            return int(_field(record, 2) or 0)
    if number is None:
        raise UserFailure(
            f"unable to find group {wanted}: no matching entries in group file", step="user", field="process.user"
        )
    return number
