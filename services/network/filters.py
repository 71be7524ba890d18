"""Docker's filters for networks. Pure. Source: Docker Engine API 1.50, NetworkList and NetworkPrune."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from services.network.domain import NetworkRecord
from shared.contracts.docker import Filters
from shared.docker.moments import moment_ns
from shared.errors import InvalidArgument

LIST_FILTERS = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type"})
PRUNE_FILTERS = frozenset({"label", "label!", "until"})
TRUE_WORDS, FALSE_WORDS = ("1", "true", "True"), ("0", "false", "False")


def check(filters: Filters, known: frozenset[str]) -> None:
    for key in filters:
        if key not in known:
            raise InvalidArgument(f"Invalid filter '{key}'", field=f"filters.{key}")


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
    if "dangling" in filters and _flag(filters["dangling"]) != (not in_use and not record.predefined):
        return False
    return has_labels(record.labels, filters.get("label", []))


def has_labels(labels: dict[str, str], wanted: Iterable[str]) -> bool:
    """Whether all of ``key`` and ``key=value`` are there."""
    return all(_has_label(labels, text) for text in wanted)


def prunable(record: NetworkRecord, filters: Filters, now: datetime) -> bool:
    if not has_labels(record.labels, filters.get("label", [])):
        return False
    if any(_has_label(record.labels, text) for text in filters.get("label!", [])):
        return False
    limits = [parse_until(text, now) for text in filters.get("until", [])]
    created = datetime.fromisoformat(record.created_at)
    return all(created < limit for limit in limits)


def parse_until(text: str, now: datetime) -> datetime:
    """A point in time: seconds since the epoch, a duration ago (``10m``, ``1h30m``), or RFC 3339.

    Raises:
        InvalidArgument: It is none of them.
    """
    try:
        return datetime.fromtimestamp(moment_ns(text, int(now.timestamp() * 1e9)) / 1e9, UTC)
    except (ValueError, OverflowError) as error:  # no moment, or a year that there is not
        raise InvalidArgument(f'failed to parse value for filter "until": {text}', field="filters.until") from error


def _has_label(labels: dict[str, str], text: str) -> bool:
    key, separator, value = text.partition("=")
    return key in labels and (not separator or labels[key] == value)


def _type_matches(record: NetworkRecord, kinds: Iterable[str]) -> bool:
    for kind in kinds:
        if kind not in ("builtin", "custom"):
            raise InvalidArgument(f"invalid filter: 'type'='{kind}'", field="filters.type")
        if (kind == "builtin") == record.predefined:
            return True
    return False


def _flag(values: list[str]) -> bool:
    for value in values:
        if value not in TRUE_WORDS + FALSE_WORDS:
            raise InvalidArgument(
                'invalid value for filter \'dangling\', must be "true" (or "1"), or "false" (or "0")',
                field="filters.dangling",
            )
    return values[0] in TRUE_WORDS
