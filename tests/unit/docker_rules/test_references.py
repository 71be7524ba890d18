"""References as Docker reads them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.docker.references import Reference, id_prefix, is_whole_id, parse
from shared.errors import InvalidArgument

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "name", "tag", "digest", "familiar"),
    [
        ("busybox", "docker.io/library/busybox", None, None, "busybox"),
        ("busybox:1.36", "docker.io/library/busybox", "1.36", None, "busybox:1.36"),
        ("docker.io/busybox", "docker.io/library/busybox", None, None, "busybox"),
        ("index.docker.io/library/busybox:x", "docker.io/library/busybox", "x", None, "busybox:x"),
        ("user/app", "docker.io/user/app", None, None, "user/app"),
        ("localhost/app", "localhost/app", None, None, "localhost/app"),
        ("localhost:5000/app:1", "localhost:5000/app", "1", None, "localhost:5000/app:1"),
        ("[::1]:5000/app", "[::1]:5000/app", None, None, "[::1]:5000/app"),
        ("reg.example/a/b__c-d.e", "reg.example/a/b__c-d.e", None, None, "reg.example/a/b__c-d.e"),
        ("REG/app", "REG/app", None, None, "REG/app"),
        (f"app@sha256:{HEX}", "docker.io/library/app", None, f"sha256:{HEX}", f"app@sha256:{HEX}"),
        (f"app:1@sha256:{HEX}", "docker.io/library/app", "1", f"sha256:{HEX}", f"app:1@sha256:{HEX}"),
    ],
)
def test_reads_as_docker_does(text: str, name: str, tag: str | None, digest: str | None, familiar: str) -> None:
    reference = parse(text)
    assert (reference.name, reference.tag, reference.digest) == (name, tag, digest)
    assert reference.familiar == familiar


@pytest.mark.parametrize(
    "text",
    ["", ":", "a:", "a//b", "/a", "a/", "a..b", "-a", "a:-b", "a@sha256:12", "a b", "a:b:c", "a:" + "t" * 129, "a\n"],
)
def test_refuses_what_docker_refuses(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid reference format"):
        parse(text)


def test_says_that_names_are_lower_case() -> None:
    with pytest.raises(InvalidArgument) as failure:
        parse("App")
    assert str(failure.value) == "invalid reference format: repository name (library/App) must be lowercase"


def test_refuses_a_bare_id_as_a_name() -> None:
    with pytest.raises(InvalidArgument, match="cannot specify 64-byte hexadecimal strings"):
        parse(HEX)


def test_limits_the_length_of_names() -> None:
    with pytest.raises(InvalidArgument, match="not be more than 255"):
        parse("a/" + "b" * 255)


def test_ids_may_be_short_and_may_have_their_algorithm() -> None:
    assert id_prefix("abc") == "abc"
    assert id_prefix("sha256:abc") == "abc"
    assert id_prefix("xyz") is None
    assert is_whole_id(HEX)
    assert not is_whole_id(HEX[:-1])


_part = st.from_regex(r"[a-z0-9]+((\.|_|__|-{1,3})[a-z0-9]+){0,2}", fullmatch=True)
_path = st.lists(_part, min_size=1, max_size=3).map("/".join)
_domain = st.one_of(
    st.none(),
    st.just("localhost"),
    st.from_regex(r"[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?\.[a-z]{2,3}(:[0-9]{1,5})?", fullmatch=True),
)
_tag = st.one_of(st.none(), st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True))
_digest = st.one_of(st.none(), st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True))


@given(_domain, _path, _tag, _digest)
def test_what_is_shown_reads_as_the_same(domain: str | None, path: str, tag: str | None, digest: str | None) -> None:
    text = (f"{domain}/" if domain else "") + path + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
    if re.fullmatch("[0-9a-f]{64}", text):
        return
    reference = parse(text)
    assert parse(reference.familiar) == reference
    assert parse(str(reference)) == reference
    assert (reference.tag, reference.digest) == (tag, digest)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        reference = parse(text)
    except InvalidArgument:
        return
    assert isinstance(reference, Reference)
    assert parse(str(reference)) == reference
