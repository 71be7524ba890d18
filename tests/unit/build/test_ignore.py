"""Ignore rules, with the cases that the client's own matcher is tested with."""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.image.build.ignore import IgnoreRules, has_wildcards, name_matcher, read_ignore_file
from shared.errors import InvalidArgument


@pytest.mark.parametrize(
    ("pattern", "path", "excluded"),
    [
        ("**", "file", True),
        ("**", "dir/file", True),
        ("**/", "file", True),
        ("**/**", "dir/file", True),
        ("dir/**", "dir/file", True),
        ("dir/**", "dir/dir2/file", True),
        ("dir/**", "other/file", False),
        ("**/dir", "dir", True),
        ("**/dir", "dir/file", True),
        ("**/dir2/*", "dir/dir2/file", True),
        ("**/dir2/*", "dir/dir2/dir2/file", True),
        ("**file", "dir/file", True),
        ("**/file", "dir/dir/file", True),
        ("**/file*txt", "dir/dir/file.txt", True),
        ("**/file*.txt*", "dir/dir/file.txt", True),
        ("**/*.txt", "dir/file.txt.bak", False),
        ("a**/*.txt", "a/file.txt", True),
        ("a**/*.txt", "ab/file.txt", True),
        ("a/*.txt", "a/file.txt", True),
        ("a/*.txt", "a/b/file.txt", False),
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/x/y/b", True),
        ("*", "a/b", True),
        ("a[b-d]e", "ae", False),
        ("a[b-d]e", "ace", True),
        ("a[^b-d]e", "aze", True),
        ("a[^b-d]e", "ace", False),
        ("a[\\]b", "a]b", False),
        ("abc.def", "abcXdef", False),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("a\\*b", "a*b", True),
        ("a\\*b", "axb", False),
        (".*", ".foo", True),
        (".*", "foo", False),
        ("foo", "foo/bar/baz", True),
        ("bar", "foo/bar", False),
        ("a{b}", "a{b}", True),
        ("(a)+$", "(a)+$", True),
        ("/foo", "foo", True),
        ("foo/", "foo/x", True),
        ("./foo/../bar", "bar", True),
        ("#x", "#x", False),
    ],
)
def test_one_pattern(pattern: str, path: str, excluded: bool) -> None:
    try:
        rules = IgnoreRules(read_ignore_file(pattern))
    except InvalidArgument:
        rules = IgnoreRules([])
    assert rules.excludes(path) is excluded


@pytest.mark.parametrize(
    ("patterns", "path", "excluded"),
    [
        (["*", "!keep"], "keep", False),
        (["*", "!keep"], "other", True),
        (["dir", "!dir/keep"], "dir/keep", False),
        (["dir", "!dir/keep"], "dir/x", True),
        (["*.md", "!README*.md", "README-secret.md"], "README-secret.md", True),
        (["*.md", "README-secret.md", "!README*.md"], "README-secret.md", False),
        (["**", "!util/docker/web", "util/docker/web/foo"], "util/docker/web/foo", True),
        (["**", "!util/docker/web", "util/docker/web/foo"], "util/docker/web/bar", False),
        (["!a"], "a", False),
        (["! a", "a"], "a", True),
    ],
)
def test_last_word_wins(patterns: list[str], path: str, excluded: bool) -> None:
    assert IgnoreRules(read_ignore_file("\n".join(patterns))).excludes(path) is excluded


def test_file_format() -> None:
    text = "\ufeff# comment\n  \n *.o \n/abs/\n! /x/../y/ \n#no\n/\n"
    assert read_ignore_file(text) == ["*.o", "abs", "!y", "/"]


def test_a_lone_exclamation_mark_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="illegal exclusion pattern"):
        IgnoreRules(read_ignore_file("!\n"))


name = st.text(st.sampled_from("ab.-"), min_size=1, max_size=4).filter(lambda text: text not in (".", "..", "-"))


@settings(deadline=None)
@given(st.lists(name, min_size=1, max_size=4))
def test_a_path_excludes_itself_and_what_is_below(parts: list[str]) -> None:
    path = "/".join(parts)
    rules = IgnoreRules([path])
    assert rules.excludes(path)
    assert rules.excludes(path + "/below/it")
    assert not rules.excludes(path + "x")


@settings(deadline=None)
@given(st.text(st.sampled_from("ab*?"), min_size=1, max_size=6), name)
def test_names_match_as_in_the_shell(pattern: str, text: str) -> None:
    assert bool(name_matcher(pattern).match(text)) is fnmatch.fnmatchcase(text, pattern)


@pytest.mark.parametrize(
    ("text", "wild"), [("a*", True), ("a?", True), ("[a]", True), ("a\\*", False), ("a\\\\*", True), ("a", False)]
)
def test_wildcards(text: str, wild: bool) -> None:
    assert has_wildcards(text) is wild
