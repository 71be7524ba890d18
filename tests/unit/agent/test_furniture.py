"""What lies between an image and its containers."""

from __future__ import annotations

import os
from pathlib import Path

from services.executor.agent.files.furniture import furniture_of


def image(tmp_path: Path, *files: str) -> str:
    """A layer with these files; those that end in ``/`` are directories."""
    root = tmp_path / "chain" / "fs"
    root.mkdir(parents=True)
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if file.endswith("/"):
            path.mkdir(exist_ok=True)
        else:
            path.touch()
    return str(root)


def listing(directory: str) -> set[str]:
    return {str(path.relative_to(directory)) for path in Path(directory).rglob("*")}


def test_a_bare_image_gets_all_of_it_below_an_etc_like_its_own(tmp_path: Path) -> None:
    lower = image(tmp_path, "etc/passwd")
    os.chmod(lower, 0o711)
    os.chmod(f"{lower}/etc", 0o750)
    os.utime(f"{lower}/etc", ns=(5_000_000_000, 5_000_000_000))
    found = furniture_of([lower])
    assert listing(found) == {
        ".dockerenv",
        "dev",
        "proc",
        "sys",
        "etc",
        "etc/hosts",
        "etc/hostname",
        "etc/resolv.conf",
        "etc/mtab",
    }
    assert os.readlink(f"{found}/etc/mtab") == "/proc/mounts"
    etc = os.stat(f"{found}/etc")
    assert (etc.st_mode & 0o777, etc.st_mtime_ns) == (0o750, 5_000_000_000)
    assert os.stat(found).st_mode & 0o777 == 0o711


def test_what_the_image_has_stays(tmp_path: Path) -> None:
    lower = image(tmp_path, "etc/mtab", "etc/hosts", "etc/hostname", "etc/resolv.conf", "dev/", "proc/", "sys/", "bin/")
    assert listing(furniture_of([lower])) == {".dockerenv"}


def test_an_etc_that_is_a_link_is_left_alone(tmp_path: Path) -> None:
    lower = image(tmp_path, "usr/etc/passwd", "dev/", "proc/", "sys/")
    os.symlink("usr/etc", f"{lower}/etc")
    assert listing(furniture_of([lower])) == {".dockerenv"}


def test_an_image_without_etc_gets_one(tmp_path: Path) -> None:
    found = furniture_of([image(tmp_path, "true")])
    assert os.stat(f"{found}/etc").st_mode & 0o777 == 0o755


def test_it_is_made_once(tmp_path: Path) -> None:
    lower = image(tmp_path, "etc/passwd")
    first = furniture_of([lower])
    Path(first, "etc/hosts").unlink()
    assert furniture_of([lower]) == first
    assert "etc/hosts" not in listing(first)
    assert {path.name for path in Path(lower).parent.iterdir()} == {"fs", "furniture"}
