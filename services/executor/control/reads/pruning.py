"""Which containers a prune takes. Pure."""

from __future__ import annotations

from services.executor.control.domain import Record
from services.executor.control.reads.listing import matches_label
from shared.contracts.docker import Filters
from shared.docker.moments import moment_ns
from shared.errors import InvalidArgument


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
        return moment_ns(text, now_ns)
    except ValueError as error:
        raise InvalidArgument(f"invalid value for until: {text}", field="filters") from error
