"""What clients write for a time, and how times are shown."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.docker.durations import UNIT_NS, duration_ns, duration_text, parse_duration_ns
from shared.docker.moments import (
    datetime_ns,
    moment_ns,
    parse_rfc3339_ns,
    rfc3339,
    rfc3339_of,
    with_nine_digits,
)

S = 10**9
NOW = 1_700_000_000 * S
MOMENTS = st.integers(-(2**63), 2**63 - 1)


@pytest.fixture
def berlin() -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = "CET-1"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1h30m", 5400 * S), ("1.5s", 1_500_000_000), ("-2m", -120 * S), ("10ms5us1ns", 10_005_001), (".5h", 1800 * S),
        ("0", 0), ("-0", 0), ("1µs", 1000), ("1μs", 1000), ("+1s", S), ("1h2m3.5s", 3723 * S + S // 2),
        ("", None), ("10", None), ("h", None), ("1d", None), ("1h 2m", None), ("1s\n", None), ("9999999h", None),
    ],
)  # fmt: skip
def test_durations(text: str, nanoseconds: int | None) -> None:
    assert duration_ns(text) == nanoseconds


@pytest.mark.parametrize(
    ("text", "words"), [("5", 'missing unit in duration "5"'), ("x", 'invalid duration "x"'), ("", 'duration ""')]
)
def test_what_go_says_of_other_texts(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_duration_ns(text)


@pytest.mark.parametrize(
    ("value_ns", "text"),
    [
        (0, "0s"), (1, "1ns"), (1500, "1.5µs"), (300_000_000, "300ms"), (S, "1s"), (90 * S, "1m30s"),
        (3600 * S, "1h0m0s"), (3723 * S + S // 2, "1h2m3.5s"), (-S, "-1s"), (1_234_567_891, "1.234567891s"),
    ],
)  # fmt: skip
def test_how_go_prints_them(value_ns: int, text: str) -> None:
    assert duration_text(value_ns) == text


@given(st.integers(-(2**63) + 1, 2**63 - 1))
def test_durations_survive_being_printed(value_ns: int) -> None:
    assert parse_duration_ns(duration_text(value_ns)) == value_ns


@given(st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(sorted(UNIT_NS))), min_size=1, max_size=4))
def test_parts_add_up(parts: list[tuple[int, str]]) -> None:
    text = "".join(f"{number}{unit}" for number, unit in parts)
    total = sum(number * UNIT_NS[unit] for number, unit in parts)
    assert duration_ns(text) == (total if total < 2**63 else None)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("24h", NOW - 86400 * S), ("-1h", NOW + 3600 * S), ("12", 12 * S), ("1.000000001", S + 1), ("0", 0),
        ("2999-01-01T00:00:00Z", 2**63 - 1), ("32472144000.000000000", 2**63 - 1),
        ("1970-01-02T00:00:00Z", 86400 * S), ("1970-01-01T01:00:00.5+01:00", S // 2),
        ("1970-01-01T00:00:01.123456789Z", S + 123_456_789), ("1970-01-02Z", 86400 * S),
        ("1970-01-01T00:01Z", 60 * S),
    ],
)  # fmt: skip
def test_moments(text: str, moment: int) -> None:
    assert moment_ns(text, NOW) == moment


@pytest.mark.usefixtures("berlin")
def test_without_a_zone_it_is_local_time() -> None:
    assert moment_ns("1970-01-01T01:00:00", NOW) == 0
    assert moment_ns("1970-01-02", NOW) == 23 * 3600 * S


@pytest.mark.parametrize(
    "text", ["", "yesterday", "1970-13-01", "²", "nan", "1e3", "9" * 400, "9" * 400 + "h", "1970-01-01 00:00:00"]
)
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        moment_ns(text, NOW)


@given(st.text(max_size=40))
def test_any_text_is_a_moment_or_refused(text: str) -> None:
    try:
        found = moment_ns(text, NOW)
    except ValueError:
        return
    assert abs(found) < 2**63


@given(MOMENTS)
def test_nothing_is_lost_in_a_text(moment: int) -> None:
    text = rfc3339(moment)
    assert parse_rfc3339_ns(text) == moment
    assert not text.endswith("0Z") or "." not in text
    assert parse_rfc3339_ns(with_nine_digits(text)) == moment
    assert with_nine_digits(text) == rfc3339(moment, digits=9)


@given(
    st.datetimes(
        datetime(1700, 1, 1),  # noqa: DTZ001 (hypothesis adds zones)
        datetime(2250, 1, 1),  # noqa: DTZ001
        timezones=st.just(UTC) | st.just(timezone(timedelta(hours=-5))),
    )
)
def test_datetimes(moment: datetime) -> None:
    assert parse_rfc3339_ns(rfc3339_of(moment)) == datetime_ns(moment)
    assert datetime.fromisoformat(rfc3339_of(moment, digits=6)) == moment


def test_a_chosen_number_of_decimals() -> None:
    assert [rfc3339(1_500_000_000, digits) for digits in (0, 3, 9)] == [
        "1970-01-01T00:00:01Z", "1970-01-01T00:00:01.500Z", "1970-01-01T00:00:01.500000000Z",
    ]  # fmt: skip
