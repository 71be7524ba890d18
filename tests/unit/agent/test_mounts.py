"""Which mount of the host a path is on."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.executor.agent.mounts import mount_of

LINES = (
    b"1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/a rw\n"
    b"2 1 8:2 / /d\xc3\xa4ta\\040one rw shared:7 master:3 - ext4 /dev/b rw\n"
    b"3 1 8:3 / /raw\xff rw - ext4 /dev/c rw\n"
)


@pytest.mark.parametrize(
    ("path", "place", "tags"),
    [
        ("/srv", "/", ["shared:1"]),
        ("/däta one/sub", "/däta one", ["shared:7", "master:3"]),
        ("/däta one more", "/", ["shared:1"]),
        ("/raw\udcff", "/raw\udcff", []),
    ],
)
def test_names_that_are_not_plain(tmp_path: Path, path: str, place: str, tags: list[str]) -> None:
    (tmp_path / "mountinfo").write_bytes(LINES)
    assert mount_of(path, str(tmp_path / "mountinfo")) == (place, tags)
