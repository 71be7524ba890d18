"""Which containers a prune takes. Pure."""

from __future__ import annotations

from services.executor.control.domain import Record
from shared.docker.filters import Filters, check_keys, has_labels

KEYS = frozenset({"label", "label!", "until"})


def check(filters: Filters) -> None:
    """Raises InvalidArgument for a filter that there is not."""
    check_keys(filters, KEYS)


def matches(record: Record, filters: Filters, until_ns: int | None) -> bool:
    """Whether a container was created before the limit and has the labels asked for."""
    return (until_ns is None or record.created_ns < until_ns) and has_labels(record.container.config.labels, filters)
