"""Words for true and false."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.docker.words import FALSE, TRUE, parse_bool, query_flag
from shared.errors import InvalidArgument


def test_what_go_reads() -> None:
    assert all(parse_bool(word) for word in ("1", "t", "T", "TRUE", "true", "True"))
    assert not any(parse_bool(word) for word in ("0", "f", "F", "FALSE", "false", "False"))


@given(st.text(max_size=6).filter(lambda text: text not in TRUE | FALSE))
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"strconv\.ParseBool"):
        parse_bool(text)


@pytest.mark.parametrize("text", ["", "0", "no", "No", "false", "FALSE", "none", " 0 "])
def test_false_of_a_query(text: str) -> None:
    assert not query_flag(text)


@pytest.mark.parametrize("text", ["1", "true", "yes", "t", "2", "off"])
def test_anything_else_of_a_query(text: str) -> None:
    assert query_flag(text)
