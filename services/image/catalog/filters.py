"""Docker's filters of images. Source: Docker Engine API 1.50, ImageList and ImagePrune."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from services.image.catalog.domain import Name
from shared.contracts.images import Image
from shared.docker.filters import Filters, check_keys, has_labels, truth, until_ns
from shared.docker.references import Reference
from shared.errors import InvalidArgument

LIST_KEYS = ("dangling", "label", "label!", "before", "since", "reference", "until")
PRUNE_KEYS = ("dangling", "label", "label!", "until")


@dataclass(frozen=True, slots=True)
class ImageFilter:
    """Filters understood. Images must satisfy every kind; within one kind of names, any.

    Attributes:
        before, since: References; the caller looks them up.
        labels: The filters ``label`` and ``label!``.
        until_ns: Created before this time; None for no limit.
    """

    dangling: bool | None = None
    labels: Filters = field(default_factory=dict)
    before: list[str] = field(default_factory=list)
    since: list[str] = field(default_factory=list)
    patterns: list[str] = field(default_factory=list)
    until_ns: int | None = None

    @classmethod
    def parse(cls, filters: Filters, keys: Collection[str]) -> ImageFilter:
        """Raises InvalidArgument, in Docker's words, for filters that are unknown or have impossible values."""
        check_keys(filters, keys)
        return cls(
            truth(filters, "dangling"),
            {key: filters[key] for key in ("label", "label!") if key in filters},
            filters.get("before", []),
            filters.get("since", []),
            filters.get("reference", []),
            until_ns(filters, time.time_ns()),
        )

    def accepts(self, image: Image) -> bool:
        """Whether labels and time fit."""
        if self.until_ns is not None and image.created_unix * 10**9 >= self.until_ns:
            return False
        return has_labels(image.config.labels, self.labels)

    def names(self, names: list[Name]) -> list[Name]:
        """The names that the reference patterns select."""
        matchers = [_matcher(pattern) for pattern in self.patterns]
        return [name for name in names if any(matches(name.reference) for matches in matchers)]


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
