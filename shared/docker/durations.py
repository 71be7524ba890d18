"""Durations as Go writes and reads them: ``1h30m``, ``-1.5s``, ``300ms``.

Source: Go, package time: ParseDuration and Duration.String.
"""

from __future__ import annotations

import re
from decimal import Decimal

UNIT_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # U+00B5, the micro sign
    "μs": 1_000,  # U+03BC, the Greek letter
    "ms": 1_000_000,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
LONGEST_NS = 2**63 - 1
_NUMBER = r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+"
_PART = re.compile(f"({_NUMBER})(ns|us|µs|μs|ms|s|m|h)")
_DURATION = re.compile(f"([+-]?)((?:(?:{_NUMBER})(?:ns|us|µs|μs|ms|s|m|h))+)")


def parse_duration_ns(text: str) -> int:
    """Nanoseconds. Raises ValueError with Go's words."""
    if text in ("0", "+0", "-0"):
        return 0
    found = _DURATION.fullmatch(text)
    if found is None:
        kind = "missing unit in" if re.fullmatch(f"[+-]?(?:{_NUMBER})", text) else "invalid"
        raise ValueError(f'time: {kind} duration "{text}"')
    total = sum(int(Decimal(number) * UNIT_NS[unit]) for number, unit in _PART.findall(found[2]))
    if total > LONGEST_NS:
        raise ValueError(f'time: invalid duration "{text}"')
    return -total if found[1] == "-" else total


def duration_ns(text: str) -> int | None:
    """Nanoseconds; None for what is no duration."""
    try:
        return parse_duration_ns(text)
    except ValueError:
        return None


def duration_text(value_ns: int) -> str:
    """A duration as Go prints it: ``1h0m0s``, ``1.5s``, ``300ms``, ``0s``."""
    if value_ns < 0:
        return "-" + duration_text(-value_ns)
    for unit in ("ns", "µs", "ms"):
        if 0 < value_ns < UNIT_NS[unit] * 1000:
            return _decimal(value_ns, UNIT_NS[unit]) + unit
    minutes, rest = divmod(value_ns, UNIT_NS["m"])
    hours, minutes = divmod(minutes, 60)
    text = f"{hours}h" if hours else ""
    text += f"{minutes}m" if hours or minutes else ""
    return text + _decimal(rest, UNIT_NS["s"]) + "s"


def _decimal(value: int, unit: int) -> str:
    whole, fraction = divmod(value, unit)
    digits = f"{fraction:0{len(str(unit)) - 1}d}".rstrip("0") if fraction else ""
    return f"{whole}.{digits}" if digits else str(whole)
