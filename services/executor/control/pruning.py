"""Which containers a prune takes. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from services.executor.control.domain import Record
from services.executor.control.listing import matches_label
from shared.contracts.docker import Filters
from shared.errors import InvalidArgument

UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")


def matches(record: Record, filters: Filters, until_ns: list[int]) -> bool:
    """Whether a container was created before every limit and has the labels asked for."""
    labels = record.container.config.labels
    return (
        all(record.created_ns < limit for limit in until_ns)
        and all(matches_label(labels, value) for value in filters.get("label", []))
        and not any(matches_label(labels, value) for value in filters.get("label!", []))
    )


def parse_until(text: str, now_ns: int) -> int:
    """A limit as nanoseconds since the epoch.

    Args:
        text: A duration before now (``24h``, ``1h30m``), seconds since the epoch, or RFC 3339.
    """
    try:
        if re.fullmatch(r"\d+(\.\d+)?", text):
            return int(float(text) * 1e9)
        if text and re.fullmatch(f"(?:{_DURATION.pattern})+", text):
            return now_ns - int(sum(float(number) * UNIT_S[unit] for number, unit in _DURATION.findall(text)) * 1e9)
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except (ValueError, OverflowError) as error:
        raise InvalidArgument(f"invalid value for until: {text}", field="filters") from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1e9)
