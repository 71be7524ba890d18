"""Checks a topology, and says of each fault where it stands."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from pydantic import ValidationError

from lab.topology.model import Topology, problems
from shared.errors import InvalidArgument

FieldPath = tuple[str | int, ...]
# What pydantic says in words of its own, said in ours.
_WORDS = {"extra_forbidden": "there is no such field", "missing": "is missing"}


class Lines(Protocol):
    """Where fields stand in a file."""

    def of(self, path: FieldPath) -> int:
        """The line of a field, or of the nearest part around it that is in the file; 1 for the whole."""


class _NoLines:
    def of(self, path: FieldPath) -> int:
        return 1


def checked(values: dict[str, Any], file: str = "topology", lines: Lines | None = None) -> Topology:
    """The topology of such values. Raises InvalidArgument."""
    lines = lines or _NoLines()
    try:
        topology = Topology.model_validate(values)
    except ValidationError as error:
        raise refused(file, lines, map(_located, error.errors())) from error
    found = [(tuple(int(part) if part.isdigit() else part for part in where.split(".")), text)
             for where, text in problems(topology)]  # fmt: skip
    if found:
        raise refused(file, lines, found)
    return topology


def _located(error: Any) -> tuple[FieldPath, str]:
    """Path and problem of one of pydantic's errors; a validator of a whole part names the field before a colon."""
    path = tuple(part for part in error["loc"] if part != "[key]")
    text = str(error["msg"]).removeprefix("Value error, ")
    field, colon, rest = text.partition(": ")
    if error["type"] == "value_error" and colon and field.isidentifier():
        path, text = (*path, field), rest
    return path, _WORDS.get(error["type"], text)


def refused(file: str, lines: Lines, found: Iterable[tuple[FieldPath, str]]) -> InvalidArgument:
    located = sorted((lines.of(path), ".".join(map(str, path)), text) for path, text in found)
    return InvalidArgument(
        "\n".join(f"{file}:{line}: {field}: {text}" for line, field, text in located), field=located[0][1]
    )
