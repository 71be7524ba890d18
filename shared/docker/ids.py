"""Which object a word of a client means: full id before name before the beginning of an id.

Source: the reference engine's order, for containers, networks and images alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")

SHORT_ID = 12


def meant(
    word: str, known: Iterable[T], id_of: Callable[[T], str], name_of: Callable[[T], str], *, least_prefix: int = 1
) -> Sequence[T]:
    """What a word means: nothing, one object, or several whose ids begin with it, among which it does not decide.

    Args:
        least_prefix: How many characters the beginning of an id has at least.
    """
    by_name: T | None = None
    beginning: list[T] = []
    for one in known:
        if id_of(one) == word:
            return [one]
        if by_name is None and name_of(one) == word:
            by_name = one
        elif len(word) >= least_prefix and id_of(one).startswith(word):
            beginning.append(one)
    return beginning if by_name is None else [by_name]


def short_id(identifier: str) -> str:
    """The twelve digits that people see, without the algorithm."""
    return identifier.removeprefix("sha256:")[:SHORT_ID]
