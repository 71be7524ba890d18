"""Docker's filters for networks. Pure. Source: Docker Engine API 1.50, NetworkList and NetworkPrune."""

from __future__ import annotations

from collections.abc import Iterable

from services.network.domain import NetworkRecord
from shared.docker.filters import Filters, has_labels, truth, until_ns
from shared.docker.moments import parse_rfc3339_ns
from shared.errors import InvalidArgument

LIST_FILTERS = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type"})
PRUNE_FILTERS = frozenset({"label", "label!", "until"})


def matches(record: NetworkRecord, filters: Filters, *, in_use: bool) -> bool:
    """Whether a network passes `filters` of a list request, which were checked."""
    if "driver" in filters and record.driver not in filters["driver"]:
        return False
    if "name" in filters and not any(text in record.name for text in filters["name"]):
        return False
    if "id" in filters and not any(text in record.id for text in filters["id"]):
        return False
    if "scope" in filters and "local" not in filters["scope"]:
        return False
    if "type" in filters and not _type_matches(record, filters["type"]):
        return False
    dangling = truth(filters, "dangling")
    if dangling is not None and dangling != (not in_use and not record.predefined):
        return False
    return has_labels(record.labels, filters)


def prunable(record: NetworkRecord, filters: Filters, now_ns: int) -> bool:
    """Whether an unused network goes. Raises InvalidArgument for several limits, or one that is no moment."""
    limit_ns = until_ns(filters, now_ns)
    if limit_ns is not None and parse_rfc3339_ns(record.created_at) >= limit_ns:
        return False
    return has_labels(record.labels, filters)


def _type_matches(record: NetworkRecord, kinds: Iterable[str]) -> bool:
    for kind in kinds:
        if kind not in ("builtin", "custom"):
            raise InvalidArgument(f"invalid filter: 'type'='{kind}'", field="filters.type")
        if (kind == "builtin") == record.predefined:
            return True
    return False
