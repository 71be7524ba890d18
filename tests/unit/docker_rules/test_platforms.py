"""Platforms as clients write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.docker.platforms import ALIASES, Platform, own_platform, parse_platform
from shared.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("linux/amd64", "linux/amd64"), ("linux/x86_64", "linux/amd64"), ("x86_64", "linux/amd64"),
        ("LINUX/AARCH64", "linux/arm64"), ("linux/arm64/v8", "linux/arm64/v8"), ("linux/arm/7", "linux/arm/v7"),
        ("armhf", "linux/arm/v7"), ("linux/armel", "linux/arm/v6"), ("linux/i686", "linux/386"),
        ("macos/arm64", "darwin/arm64"), ("linux/amd64/v3", "linux/amd64/v3"), ("linux/foobar", "linux/foobar"),
        ('{"os":"linux","architecture":"aarch64","variant":"v8"}', "linux/arm64/v8"),
    ],
)  # fmt: skip
def test_names(text: str, found: str) -> None:
    assert str(parse_platform(text)) == found


def test_a_system_alone_has_this_machines_architecture() -> None:
    own = own_platform()
    assert parse_platform("linux") == own
    assert str(parse_platform("windows")).startswith(f"windows/{own.architecture}")
    assert parse_platform("") is None
    assert parse_platform(None) is None


@pytest.mark.parametrize(
    "text",
    ["foobar", "a/b/c/d", "/", "linux/", "linux//v7", "linux/am d64", "²/x", "{", '{"os":"linux"}',
     '{"os":"linux","architecture":"amd64","more":1}', "[]"],
)  # fmt: skip
def test_what_is_none(text: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse_platform(text)
    assert refused.value.detail["field"] == "platform"


@pytest.mark.parametrize("alias", sorted(ALIASES))
def test_an_image_that_says_it_otherwise_runs_too(alias: str) -> None:
    architecture, variant = ALIASES[alias]
    assert Platform("linux", alias).matches(Platform("linux", architecture))
    assert Platform("linux", architecture, variant).matches(Platform("linux", alias))


def test_variants() -> None:
    arm = [Platform("linux", "arm", variant) for variant in ("", "v6", "v7")]
    assert [one.matches(arm[2]) for one in arm] == [True, False, True]
    assert all(one.matches(arm[0]) for one in arm)
    assert Platform("linux", "arm64", "v8").matches(Platform("linux", "arm64"))


@given(st.text(max_size=12) | st.from_regex(r"\A[a-z0-9_]{1,6}(/[a-z0-9_]{1,6}){0,3}\Z"))
def test_any_text_is_one_or_refused(text: str) -> None:
    try:
        found = parse_platform(text)
    except InvalidArgument:
        return
    assert found is None or found.normalised().matches(found)
