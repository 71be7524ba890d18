"""What clients write for a time."""

from __future__ import annotations

import pytest

from shared.docker.moments import duration_ns, moment_ns

S = 10**9
NOW = 1_700_000_000 * S


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1h30m", 5400 * S), ("1.5s", 1_500_000_000), ("-2m", -120 * S), ("10ms5us1ns", 10_005_001), (".5h", 1800 * S),
        ("", None), ("10", None), ("h", None), ("1d", None), ("1h 2m", None),
    ],
)  # fmt: skip
def test_durations(text: str, nanoseconds: int | None) -> None:
    assert duration_ns(text) == nanoseconds


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("24h", NOW - 86400 * S), ("-1h", NOW + 3600 * S), ("12", 12 * S), ("1.000000001", S + 1),
        ("2999-01-01T00:00:00Z", 2**63 - 1), ("32472144000.000000000", 2**63 - 1),
        ("1970-01-02T00:00:00Z", 86400 * S), ("1970-01-01T01:00:00.5+01:00", S // 2),
    ],
)  # fmt: skip
def test_moments(text: str, moment: int) -> None:
    assert moment_ns(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "yesterday", "1970-13-01", "²", "nan", "1e3", "9" * 400, "9" * 400 + "h"])
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        moment_ns(text, NOW)
