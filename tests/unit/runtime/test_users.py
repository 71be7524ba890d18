"""Who a user string means, in Docker's words."""

from __future__ import annotations

import pytest

from services.executor.runtime.errors import UserFailure
from services.executor.runtime.steps import users

PASSWD = [["root", "x", "0", "0", "", "/root", "/bin/sh"], ["web", "x", "33", "34", "", "/srv", ""]]
GROUP = [["root", "x", "0", ""], ["web", "x", "34", ""], ["extra", "x", "50", "other,web"]]


@pytest.mark.parametrize(
    ("wanted", "uid", "gid", "groups", "home"),
    [
        ("web", 33, 34, [50], "/srv"),
        ("33", 33, 34, [50], "/srv"),
        ("web:extra", 33, 50, [], "/srv"),
        ("web:99", 33, 99, [], "/srv"),
        ("1000", 1000, 0, [], None),
        (":extra", 0, 50, [], "/root"),
    ],
)
def test_resolve(wanted: str, uid: int, gid: int, groups: list[int], home: str | None) -> None:
    found = users.resolve(wanted, PASSWD, GROUP)
    assert (found.uid, found.gid, found.groups, found.home) == (uid, gid, groups, home)


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ("ghost", "unable to find user ghost: no matching entries in passwd file"),
        ("web:ghost", "unable to find group ghost: no matching entries in group file"),
        ("2147483648", "uids and gids must be in range 0-2147483647"),
        ("-1", "uids and gids must be in range 0-2147483647"),
    ],
)
def test_refused(wanted: str, text: str) -> None:
    with pytest.raises(UserFailure) as caught:
        users.resolve(wanted, PASSWD, GROUP)
    assert caught.value.message == text


def test_a_database_that_is_no_file_is_empty() -> None:
    assert users.read_database("/dev/zero") == []
    assert users.read_database("/nonexistent") == []
