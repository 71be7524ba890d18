"""What a new container's writable layer gets, and which changes are not the container's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from services.executor.agent.rootfs import GENERATED, changes_of_the_container, furnish, generated


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    path = tmp_path / "upper"
    path.mkdir()
    return path


def layer(tmp_path: Path, name: str, *files: str) -> str:
    root = tmp_path / name
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return str(root)


def test_a_bare_image_gets_mtab_below_an_etc_like_its_own(tmp_path: Path, upper: Path) -> None:
    lower = layer(tmp_path, "one", "etc/passwd")
    os.chmod(f"{lower}/etc", 0o750)
    os.utime(f"{lower}/etc", ns=(5_000_000_000, 5_000_000_000))
    furnish(upper, [lower])
    assert (upper / ".dockerenv").is_file()
    assert os.readlink(upper / "etc/mtab") == "/proc/mounts"
    assert (upper / "etc").stat().st_mode & 0o777 == 0o750
    assert generated(upper) == (*GENERATED, "etc/mtab")


def test_an_mtab_of_the_image_stays(tmp_path: Path, upper: Path) -> None:
    furnish(upper, [layer(tmp_path, "two", "bin/sh"), layer(tmp_path, "one", "etc/mtab")])
    assert not (upper / "etc").exists()
    assert generated(upper) == GENERATED


def test_what_the_container_did_is_not_undone_at_its_next_start(tmp_path: Path, upper: Path) -> None:
    lower = [layer(tmp_path, "one", "bin/sh")]
    furnish(upper, lower)
    (upper / "etc/mtab").unlink()
    furnish(upper, lower)
    assert not os.path.lexists(upper / "etc/mtab")
    (upper / "etc/mtab").write_text("mine")
    assert generated(upper) == GENERATED


def test_directories_made_for_mounts_are_no_changes_unless_something_is_in_them(tmp_path: Path, upper: Path) -> None:
    lower = tmp_path / "lower"
    for name in ("sys", "dev"):
        (lower / name).mkdir(parents=True)
        (upper / name).mkdir()
    (upper / "sys").chmod(0o700)
    found = [(0, "/dev"), (1, "/etc"), (1, "/etc/own"), (1, "/proc"), (0, "/sys"), (1, "/vol"), (2, "/var")]
    assert changes_of_the_container(found, upper, [lower]) == [
        (0, "/etc"),
        (1, "/etc/own"),
        (0, "/sys"),
        (1, "/vol"),
        (2, "/var"),
    ]
