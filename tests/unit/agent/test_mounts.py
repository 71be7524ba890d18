"""Which mount of the host a path is on."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.executor.agent.configuration import mounts
from services.executor.agent.configuration.mounts import mount_of
from shared.contracts.node import OrderedMount
from shared.errors import InvalidArgument

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


@pytest.mark.parametrize(
    ("propagation", "tags", "refused"),
    [
        ("rshared", [], "path /srv/x is mounted on /srv but it is not a shared mount"),
        ("shared", ["master:3"], "path /srv/x is mounted on /srv but it is not a shared mount"),
        ("rslave", [], "path /srv/x is mounted on /srv but it is not a shared or slave mount"),
        ("rshared", ["shared:1"], None),
        ("slave", ["master:3"], None),
        ("slave", ["shared:1", "master:3"], None),
        ("rprivate", [], None),
        ("", [], None),
    ],
)
def test_only_a_mount_that_propagates_can_be_asked_to(
    monkeypatch: pytest.MonkeyPatch, propagation: str, tags: list[str], refused: str | None
) -> None:
    monkeypatch.setattr(mounts, "mount_of", lambda path: ("/srv", tags))
    mount = OrderedMount(type="bind", source="/srv/x", target="/x", propagation=propagation)
    if refused is None:
        mounts.check_propagation(mount)
        return
    with pytest.raises(InvalidArgument) as caught:
        mounts.check_propagation(mount)
    assert str(caught.value) == refused
