"""Docker's filters of images. Source: Docker Engine API 1.50, ImageList and ImagePrune."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from services.image.catalog.domain import Name
from services.image.catalog.references import Reference
from shared.contracts.docker import Filters
from shared.contracts.images import Image
from shared.docker.moments import moment_ns
from shared.errors import InvalidArgument

LIST_KEYS = ("dangling", "label", "label!", "before", "since", "reference", "until")
PRUNE_KEYS = ("dangling", "label", "label!", "until")
_TRUE = ("1", "true", "True", "TRUE", "t", "T")
_FALSE = ("0", "false", "False", "FALSE", "f", "F")


@dataclass(frozen=True, slots=True)
class ImageFilter:
    """Filters understood. Images must satisfy every kind; within one kind of names, any.

    Attributes:
        before, since: References; the caller looks them up.
        until_unix: Created before this time; None for no limit.
    """

    dangling: bool | None = None
    labels: list[tuple[str, str | None]] = field(default_factory=list)
    without_labels: list[tuple[str, str | None]] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    since: list[str] = field(default_factory=list)
    patterns: list[str] = field(default_factory=list)
    until_unix: float | None = None

    @classmethod
    def parse(cls, filters: Filters, keys: Iterable[str]) -> ImageFilter:
        """Raises InvalidArgument, in Docker's words, for filters that are unknown or have impossible values."""
        for key in filters:
            if key not in keys:
                raise InvalidArgument(f"invalid filter '{key}'", field="filters")
        return cls(
            _boolean(filters, "dangling"),
            [_label(text) for text in filters.get("label", [])],
            [_label(text) for text in filters.get("label!", [])],
            filters.get("before", []),
            filters.get("since", []),
            filters.get("reference", []),
            _until(filters.get("until", [])),
        )

    def accepts(self, image: Image) -> bool:
        """Whether labels and time fit."""
        labels = image.config.labels
        if self.until_unix is not None and image.created_unix >= self.until_unix:
            return False
        if not all(_has(labels, label) for label in self.labels):
            return False
        return not any(_has(labels, label) for label in self.without_labels)

    def names(self, names: list[Name]) -> list[Name]:
        """The names that the reference patterns select."""
        matchers = [_matcher(pattern) for pattern in self.patterns]
        return [name for name in names if any(matches(name.reference) for matches in matchers)]


def _boolean(filters: Filters, key: str) -> bool | None:
    values = filters.get(key, [])
    if not values:
        return None
    if any(value not in _TRUE + _FALSE for value in values) or len(set(values)) > 1:
        raise InvalidArgument(f"invalid filter '{key}=[{' '.join(values)}]'", field="filters")
    return values[0] in _TRUE


def _label(text: str) -> tuple[str, str | None]:
    name, equals, value = text.partition("=")
    return name, value if equals else None


def _has(labels: dict[str, str], wanted: tuple[str, str | None]) -> bool:
    name, value = wanted
    return name in labels and (value is None or labels[name] == value)


def _until(values: list[str]) -> float | None:
    if not values:
        return None
    if len(values) > 1:
        raise InvalidArgument("more than one until filter specified", field="filters")
    try:
        return moment_ns(values[0], time.time_ns()) / 1e9
    except ValueError as error:
        raise InvalidArgument(f'failed to parse until value "{values[0]}"', field="filters") from error


def _matcher(pattern: str) -> Callable[[Reference], bool]:
    compiled = glob(pattern)

    def matches(reference: Reference) -> bool:
        return bool(compiled.fullmatch(reference.familiar) or compiled.fullmatch(reference.familiar_name))

    return matches


def glob(pattern: str) -> re.Pattern[str]:
    """Go's path.Match: ``*`` and ``?`` stop at slashes. Raises InvalidArgument for a class that does not end."""
    out = []
    at = 0
    while at < len(pattern):
        character = pattern[at]
        if character == "*":
            out.append("[^/]*")
        elif character == "?":
            out.append("[^/]")
        elif character == "[":
            end = pattern.find("]", at + 2)
            if end < 0:
                raise InvalidArgument(f"syntax error in pattern {pattern!r}", field="filters")
            inner = pattern[at + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            out.append(f"[{inner}]")
            at = end
        elif character == "\\" and at + 1 < len(pattern):
            at += 1
            out.append(re.escape(pattern[at]))
        else:
            out.append(re.escape(character))
        at += 1
    try:
        return re.compile("".join(out))
    except re.error as error:
        raise InvalidArgument(f"syntax error in pattern {pattern!r}: {error}", field="filters") from error
