"""A record's form: canonical JSON, one line each.

Keys are sorted, there is no white space, numbers are whole: what is signed are the bytes of the line, and everybody who
has the values gets to the same bytes.
"""

from __future__ import annotations

from typing import Any

import orjson

from shared.docker.moments import rfc3339

RECEIVED, COMPLETE, BEGIN, END, ENGINE, EFFECT, GAP = (
    "received",
    "complete",
    "begin",
    "end",
    "engine",
    "effect",
    "gap",
)
KINDS = (RECEIVED, COMPLETE, BEGIN, END, ENGINE, EFFECT, GAP)


def encoded(record: dict[str, Any]) -> bytes:
    """The record's line, without its end."""
    return orjson.dumps(record, option=orjson.OPT_SORT_KEYS)


def decoded(line: bytes) -> dict[str, Any]:
    """Raises ValueError for what is no record."""
    record = orjson.loads(line)
    if not isinstance(record, dict):
        raise ValueError("not an object")
    return record


def moment(time_ns: int) -> str:
    """``2026-11-30T01:02:03.000000004Z``, nanoseconds since the epoch in RFC 3339, all digits always there."""
    return rfc3339(time_ns, 9)
