"""Moments as Docker's clients write and read them: RFC 3339, seconds since the epoch, durations before now.

Moments are nanoseconds since the epoch. Docker shows them in UTC, with as many decimals as there are (`rfc3339`).

Source: RFC 3339; Docker Engine API, `since`, `until`; Go, time.RFC3339Nano.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache

from shared.docker.durations import duration_ns

SECOND_NS = 10**9
FARTHEST_NS = 2**63 - 1
_SECONDS = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?")
_DATE = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:T([0-9]{2}:[0-9]{2})(:[0-9]{2}(?:\.([0-9]+))?)?)?(Z|[+-][0-9]{2}:[0-9]{2})?"
)


def rfc3339(moment_ns: int, digits: int | None = None) -> str:
    """A moment in UTC.

    Args:
        digits: How many decimals the second has, 0 to 9; None for as many as are not zero at the end.
    """
    seconds, fraction = divmod(moment_ns, SECOND_NS)
    text = _second(seconds)
    decimals = f"{fraction:09d}"
    decimals = decimals.rstrip("0") if digits is None else decimals[:digits]
    return f"{text}.{decimals}Z" if decimals else f"{text}Z"


@lru_cache(maxsize=64)  # most moments that are written are of this second
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")


def rfc3339_of(moment: datetime, digits: int | None = None) -> str:
    """`rfc3339` of an aware datetime."""
    return rfc3339(datetime_ns(moment), digits)


def rfc3339_now(digits: int | None = None) -> str:
    return rfc3339(time.time_ns(), digits)


def datetime_ns(moment: datetime) -> int:
    """Nanoseconds since the epoch of a datetime; without a zone it is local time."""
    return int(moment.replace(microsecond=0).timestamp()) * SECOND_NS + moment.microsecond * 1000


def parse_rfc3339_ns(text: str) -> int:
    """Nanoseconds since the epoch of RFC 3339, exactly.

    A day alone will do, and so will no seconds; without a zone it is local time.

    Raises:
        ValueError: It is no such text, or there is no such moment.
    """
    found = _DATE.fullmatch(text)
    if found is None:
        raise ValueError(f"parsing time {text!r}: not of the form 2006-01-02T15:04:05.999999999Z")
    day, minute, second, fraction, zone = found.groups()
    whole = f"{day}T{minute or '00:00'}{(second or ':00')[:3]}{zone or ''}"
    try:
        seconds = int(datetime.fromisoformat(whole).timestamp())
    except OverflowError as error:
        raise ValueError(str(error)) from error
    return seconds * SECOND_NS + int((fraction or "0").ljust(9, "0")[:9])


def with_nine_digits(text: str) -> str:
    """An RFC 3339 moment of UTC with exactly nine decimals, as Docker prints times of logs."""
    head, _, fraction = text.rstrip("Z").partition(".")
    return f"{head}.{fraction.ljust(9, '0')}Z"


def moment_ns(text: str, now_ns: int) -> int:
    """Nanoseconds since the epoch of a moment: a duration before now, seconds since the epoch, or RFC 3339.

    Whatever is more than 292 years from the epoch, as 64 bits reach, is that far from it.

    Raises:
        ValueError: It is none of them, there is no such day, or its seconds are too many for 64 bits.
    """
    moment = _moment_ns(text, now_ns)
    if abs(moment) >= 2**63 * SECOND_NS:
        raise ValueError(f"out of range: {text}")
    return max(-FARTHEST_NS, min(moment, FARTHEST_NS))


def _moment_ns(text: str, now_ns: int) -> int:
    if _SECONDS.fullmatch(text):
        return int(Decimal(text) * SECOND_NS)
    duration = duration_ns(text)
    return parse_rfc3339_ns(text) if duration is None else now_ns - duration
