"""Dockerfiles of any text: understood, or refused in words."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from services.image.build.dockerfile.errors import SyntaxProblem
from services.image.build.dockerfile.expand import expand_word, expand_words
from services.image.build.dockerfile.lines import read_lines
from services.image.build.dockerfile.stages import parse_dockerfile
from services.image.build.steps.changes import VALID, changed_config
from shared.contracts.docker import ContainerConfig
from shared.errors import InvalidArgument

KEYWORDS = ("FROM", "RUN", "COPY", "ADD", "ARG", "ONBUILD", "SHELL", "MAINTAINER", *sorted(VALID))
PIECES = st.sampled_from(
    ("$A", "${A:-b}", "${A", "\\", "\\\n", '"', "'", "[", '["a"', '["a", 1]', "<<E", "E", "\n", "# ", "--from=0", "--",
     "=", "a=b", "=b", " ", "\t", "80/tcp", "1-0", "/x/..", "AS b", "\ufeff", "²", "\x00", "\ud800")
)  # fmt: skip
LINES = st.tuples(st.sampled_from(KEYWORDS), st.lists(PIECES | st.text(max_size=4), max_size=6)).map(
    lambda line: f"{line[0]} {' '.join(line[1])}"
)
FILES = st.lists(LINES, max_size=5).map(lambda lines: "\n".join(["FROM a", *lines])) | st.text(max_size=60)


@settings(deadline=None, max_examples=300)
@given(FILES)
def test_any_file(text: str) -> None:
    try:
        file = parse_dockerfile(text)
    except InvalidArgument:
        return
    assert file.stages
    assert all(node.keyword for node in read_lines(text).nodes)


@settings(deadline=None, max_examples=300)
@given(st.lists(LINES, min_size=1, max_size=3))
def test_any_changes(changes: list[str]) -> None:
    before = ContainerConfig(env=["A=1"], cmd=["x"], working_dir="/w")
    try:
        after = changed_config(before, changes)
    except InvalidArgument:
        return
    assert after.working_dir.startswith("/")
    assert all("=" in entry for entry in after.env)


@settings(deadline=None)
@given(st.lists(PIECES | st.text(max_size=4), max_size=6).map("".join))
def test_any_word(text: str) -> None:
    for expand in (expand_word, expand_words):
        with suppress(SyntaxProblem):
            expand(text, {"A": "1 2"}, escape="\\")


@settings(deadline=None)
@given(st.text("abc/._-", max_size=12), st.text("ab c", max_size=8))
def test_words_without_signs_stay_as_they_are(word: str, value: str) -> None:
    assert expand_word(word, {"A": value}, escape="\\") == word
    assert expand_word("$A", {"A": value}, escape="\\") == value
