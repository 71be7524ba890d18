"""Paths as `docker cp` reads them, and links compared with what the kernel makes of them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.executor.agent.files.paths import clean, means_directory, name_of, resolved
from shared.errors import InvalidArgument


@pytest.mark.parametrize(
    ("asked", "path", "directory", "name"),
    [
        ("/d", "/d", False, "d"), ("/d/", "/d", True, "d"), ("/d/.", "/d", True, "."), ("d", "/d", False, "d"),
        (".", "/", True, "."), ("/", "/", True, "/"), ("..", "/", False, "/"), ("/d/sub/..", "/d", False, "d"),
        ("/d/sub/../", "/d", True, "d"), ("//d//", "/d", True, "d"), ("/d/./", "/d", True, "."), ("/.", "/", True, "."),
        ("/...", "/...", False, "..."), ("/d/x.", "/d/x.", False, "x."),
    ],
)  # fmt: skip
def test_readings(asked: str, path: str, directory: bool, name: str) -> None:
    assert (clean(asked), means_directory(asked), name_of(asked)) == (path, directory, name)


@pytest.mark.parametrize("asked", ["/" + "a" * 256, "/" + "a/" * 2500, "/a\0b", "/" + "ä" * 128])
def test_paths_that_there_cannot_be(asked: str) -> None:
    with pytest.raises(InvalidArgument, match=r"too long|invalid argument") as refused:
        clean(asked)
    assert refused.value.detail["field"] == "path"


NAMES = st.sampled_from(("a", "b", "c"))
TARGETS = st.lists(NAMES | st.sampled_from(("..", ".")), min_size=1, max_size=3).map("/".join)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(NAMES, NAMES), max_size=4, unique=True),
    st.dictionaries(NAMES, TARGETS | TARGETS.map(lambda target: "/" + target), max_size=3),
    st.lists(NAMES, min_size=1, max_size=3),
    st.booleans(),
)
def test_links_lead_where_the_kernel_says(
    directories: list[tuple[str, str]], links: dict[str, str], path: list[str], follow: bool
) -> None:
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        for name, target in links.items():
            (root / name).symlink_to(target)
        for one, two in directories:
            if one not in links:
                (root / one / two).mkdir(parents=True, exist_ok=True)

        def readlink(inside: str) -> str | None:
            try:
                return os.readlink(f"{root}{inside}")
            except OSError:
                return None

        asked = "/" + "/".join(path)
        try:
            found = resolved(asked, readlink, follow=follow)
        except InvalidArgument:
            found = None
        assert found == in_a_chroot(root, asked, follow)


def in_a_chroot(root: Path, path: str, follow: bool) -> str | None:
    """The same by following one link at a time, written another way; None for a circle."""
    for _ in range(300):
        parts = path.strip("/").split("/") if path.strip("/") else []
        for end in range(1, len(parts) + 1):
            here = root.joinpath(*parts[:end])
            if parts[end - 1] == "..":
                path = "/" + "/".join([*parts[: max(0, end - 2)], *parts[end:]])
                break
            if parts[end - 1] == ".":
                path = "/" + "/".join([*parts[: end - 1], *parts[end:]])
                break
            if here.is_symlink() and (follow or end < len(parts)):
                target = os.readlink(here)
                above = [] if target.startswith("/") else parts[: end - 1]
                path = "/" + "/".join([*above, *target.strip("/").split("/"), *parts[end:]])
                break
        else:
            return "/" + "/".join(parts)
    return None
