"""Filters: their two forms, and what is the same in all kinds of them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.docker.filters import check_keys, has_label, has_labels, parse_filters, truth, until_ns
from shared.errors import InvalidArgument

NOW = 1_700_000_000 * 10**9
WORDS = st.text(max_size=5)


def test_both_forms() -> None:
    assert parse_filters('{"label":["a","b=c"]}') == parse_filters('{"label":{"a":true,"b=c":true}}')
    assert parse_filters("null") == {}
    assert parse_filters('{"label":null}') == {"label": []}


def test_a_value_counts_by_being_there() -> None:
    """A prune with a filter that was dropped would take everything."""
    assert parse_filters('{"label":{"a":false}}') == {"label": ["a"]}
    with pytest.raises(InvalidArgument, match=r"invalid filter 'status=\[running\]': false selects nothing"):
        parse_filters('{"status":{"running":false}}')


@pytest.mark.parametrize("text", ["", "x", "[]", "1", '{"a":1}', '{"a":"b"}', '{"a":[1]}', '{"a":{"b":1}}'])
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid filter") as refused:
        parse_filters(text)
    assert refused.value.detail["field"] == "filters"


@given(st.dictionaries(WORDS, st.lists(WORDS, max_size=3), max_size=3))
def test_values_arrive_as_they_are(filters: dict[str, list[str]]) -> None:
    assert parse_filters(json.dumps(filters)) == filters


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | WORDS, lambda x: st.lists(x) | st.dictionaries(WORDS, x))
)
def test_any_json_is_understood_or_refused(value: object) -> None:
    try:
        found = parse_filters(json.dumps(value))
    except InvalidArgument:
        return
    assert all(isinstance(one, str) for values in found.values() for one in values)


def test_unknown_ones_are_refused_by_name() -> None:
    check_keys({"label": ["x"]}, ("label",))
    with pytest.raises(InvalidArgument, match="invalid filter 'zzz'") as refused:
        check_keys({"zzz": []}, ("label",))
    assert refused.value.detail["field"] == "filters.zzz"


@given(st.dictionaries(WORDS.filter(lambda word: "=" not in word), WORDS, max_size=3), WORDS, WORDS)
def test_labels(labels: dict[str, str], key: str, value: str) -> None:
    assert all(has_label(labels, name) and has_label(labels, f"{name}={text}") for name, text in labels.items())
    wanted = f"{key}={value}"
    name, _, rest = wanted.partition("=")
    assert has_label(labels, wanted) == (labels.get(name) == rest)
    assert has_labels(labels, {"label!": [wanted]}) != has_labels(labels, {"label": [wanted]})


def test_all_labels_and_none_of_the_others() -> None:
    labels = {"a": "1", "b": ""}
    assert has_labels(labels, {"label": ["a", "a=1", "b="], "label!": ["c", "a=2"]})
    assert not has_labels(labels, {"label": ["a", "c"]})
    assert not has_labels(labels, {"label!": ["c", "a"]})
    assert has_labels(labels, {})


@pytest.mark.parametrize(
    ("values", "found"), [(["1"], True), (["true"], True), (["0"], False), (["false", "0"], False), ([], None)]
)
def test_truth(values: list[str], found: bool | None) -> None:
    assert truth({"dangling": values}, "dangling") is found


@pytest.mark.parametrize("values", [["x"], ["T"], ["True"], [""], ["true", "false"], ["1", "0"]])
def test_what_is_neither_true_nor_false(values: list[str]) -> None:
    with pytest.raises(InvalidArgument, match="invalid filter 'dangling="):
        truth({"dangling": values}, "dangling")


def test_limits() -> None:
    assert truth({}, "dangling") is None
    assert until_ns({}, NOW) is None
    assert until_ns({"until": ["1h"]}, NOW) == NOW - 3600 * 10**9
    assert until_ns({"until": ["2023-11-14T22:13:20Z"]}, 0) == NOW
    with pytest.raises(InvalidArgument, match="more than one until filter specified"):
        until_ns({"until": ["1h", "2h"]}, NOW)
    for text in ("", "soon", "5x", "9" * 400, "9" * 400 + "h"):
        with pytest.raises(InvalidArgument, match="invalid value for until"):
            until_ns({"until": [text]}, NOW)
