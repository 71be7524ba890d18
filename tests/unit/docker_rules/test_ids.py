"""Full id before name before the beginning of an id."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shared.docker.ids import meant, short_id

HEX = st.text("0123456789abcdef", min_size=4, max_size=4)
THINGS = st.lists(st.tuples(HEX, HEX | st.sampled_from(("web", "a"))), max_size=8, unique_by=lambda one: one[0])


def names(word: str, *things: tuple[str, str], least_prefix: int = 1) -> list[str]:
    return [one[0] for one in meant(word, things, lambda one: one[0], lambda one: one[1], least_prefix=least_prefix)]


def test_the_order() -> None:
    assert names("aaaa", ("bbbb", "aaaa"), ("aaaa", "x")) == ["aaaa"], "an id, though another has it as its name"
    assert names("aa", ("aaaa", "x"), ("bbbb", "aa")) == ["bbbb"], "a name, though an id begins with it"
    assert names("aa", ("aaaa", "x"), ("bbbb", "y")) == ["aaaa"]
    assert names("aa", ("aaaa", "x"), ("aabb", "y")) == ["aaaa", "aabb"]
    assert names("c", ("aaaa", "x")) == []
    assert names("aa", ("aaaa", "x"), least_prefix=3) == []


@given(THINGS, HEX | st.sampled_from(("w", "web", "a", "0")))
def test_it_is_the_best_there_is(things: list[tuple[str, str]], word: str) -> None:
    found = names(word, *things)
    ids, named = {one[0] for one in things}, [one[0] for one in things if one[1] == word]
    if word in ids:
        assert found == [word]
    elif named:
        assert found == named[:1]
    else:
        assert found == [one[0] for one in things if one[0].startswith(word)]


def test_short_ids() -> None:
    assert short_id("sha256:" + "0123456789ab" * 5) == "0123456789ab"
