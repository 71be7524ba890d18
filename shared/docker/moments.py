"""Moments and durations as Docker's clients write them: Go's durations, seconds since the epoch, RFC 3339.

Source: Docker Engine API 1.50, `since`, `until`; Go's time.ParseDuration.
"""

from __future__ import annotations

import re
from datetime import datetime
from decimal import Decimal

UNIT_NS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
FARTHEST_NS = 2**63 - 1
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h)")
_DURATION = re.compile(f"([+-]?)((?:{_PART.pattern})+)")
_SECONDS = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?")


def duration_ns(text: str) -> int | None:
    """``1h30m``, ``-1.5s``; None for what is no duration."""
    found = _DURATION.fullmatch(text)
    if found is None:
        return None
    total = sum(Decimal(number) * UNIT_NS[unit] for number, unit in _PART.findall(found[2]))
    return int(-total if found[1] == "-" else total)


def moment_ns(text: str, now_ns: int) -> int:
    """Nanoseconds since the epoch of a moment: a duration before now, seconds since the epoch, or RFC 3339.

    Whatever is more than 292 years from the epoch, as 64 bits reach, is that far from it.

    Raises:
        ValueError: It is none of them, there is no such day, or its seconds are too many for 64 bits.
    """
    moment = _moment_ns(text, now_ns)
    if abs(moment) >= 2**63 * 10**9:
        raise ValueError(f"out of range: {text}")
    return max(-FARTHEST_NS, min(moment, FARTHEST_NS))


def _moment_ns(text: str, now_ns: int) -> int:
    if _SECONDS.fullmatch(text):
        return int(Decimal(text) * 10**9)
    duration = duration_ns(text)
    if duration is not None:
        return now_ns - duration
    moment = datetime.fromisoformat(text)
    try:
        return int(moment.timestamp()) * 10**9 + moment.microsecond * 1000
    except OverflowError as error:
        raise ValueError(str(error)) from error
