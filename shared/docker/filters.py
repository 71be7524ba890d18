"""Docker's filters, of whatever kind: how clients send them, and what labels, moments and truth words in them mean.

Two forms: ``{"label": ["a", "b=c"]}``, and the older ``{"label": {"a": true}}``. In the older one a value is asked for
by being there: Docker looks at its ``true`` only where it compares words as they are, and finds nothing where it is
``false``; here that is refused, since a filter that takes nothing, or is dropped, is never what was meant.

Source: Docker Engine API, `filters`; the reference engine's texts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import orjson

from shared.docker.moments import moment_ns
from shared.errors import InvalidArgument

Filters = dict[str, list[str]]
"""Key -> accepted values."""

# Whose values are compared with what they are about as they are: `false` beside one means nothing that Docker does.
EXACT = frozenset({"all", "dangling", "driver", "exited", "health", "is-task", "isolation", "scope", "status", "type"})
TRUE, FALSE = frozenset({"1", "true"}), frozenset({"0", "false"})


def parse_filters(text: str) -> Filters:
    """The filters of a query parameter. Raises InvalidArgument."""
    try:
        decoded = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidArgument(f"invalid filter: {error}", field="filters") from error
    if decoded is None:
        return {}
    if not isinstance(decoded, dict):
        raise InvalidArgument("invalid filter: not an object", field="filters")
    return {key: _values(key, values) for key, values in decoded.items()}


def _values(key: str, values: Any) -> list[str]:
    if isinstance(values, dict):
        for value, wanted in values.items():
            if not isinstance(wanted, bool):
                raise InvalidArgument(f"invalid filter '{key}': {value} is neither true nor false", field="filters")
            if not wanted and key in EXACT:
                raise InvalidArgument(f"invalid filter '{key}=[{value}]': false selects nothing", field="filters")
        return list(values)
    if values is None:
        return []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InvalidArgument(f"invalid filter '{key}': not a list of strings", field="filters")
    return values


def check_keys(filters: Filters, known: Collection[str]) -> None:
    """Raises InvalidArgument, in Docker's words, for a filter that there is not."""
    for key in filters:
        if key not in known:
            raise InvalidArgument(f"invalid filter '{key}'", field=f"filters.{key}")


def has_label(labels: Mapping[str, str], wanted: str) -> bool:
    """Whether there is a label ``key``, or ``key=value`` as it stands."""
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def has_labels(labels: Mapping[str, str], filters: Filters) -> bool:
    """Whether labels have all of the filter ``label`` and none of ``label!``."""
    return all(has_label(labels, wanted) for wanted in filters.get("label", ())) and not any(
        has_label(labels, wanted) for wanted in filters.get("label!", ())
    )


def truth(filters: Filters, key: str) -> bool | None:
    """A filter that is true or false; None when it is absent. Raises InvalidArgument for both, and for other words."""
    values = set(filters.get(key, ()))
    if not values:
        return None
    if bool(values & TRUE) == bool(values & FALSE):
        raise InvalidArgument(f"invalid filter '{key}=[{' '.join(filters[key])}]'", field=f"filters.{key}")
    return bool(values & TRUE)


def until_ns(filters: Filters, now_ns: int) -> int | None:
    """The moment before which something was made, in nanoseconds since the epoch; None without that filter.

    Raises:
        InvalidArgument: There are several, or it is no moment.
    """
    values: Iterable[str] = filters.get("until", ())
    moments = []
    for value in values:
        try:
            moments.append(moment_ns(value, now_ns))
        except ValueError as error:
            raise InvalidArgument(f"invalid value for until: {value}: {error}", field="filters.until") from error
    if len(moments) > 1:
        raise InvalidArgument("more than one until filter specified", field="filters.until")
    return moments[0] if moments else None
