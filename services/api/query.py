"""Query strings, read as Docker reads them.

Source: Docker Engine API 1.50; the reference engine's answers for what the description leaves open.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs

import orjson

from shared.docker.moments import moment_ns
from shared.errors import InvalidArgument

BAD_ESCAPE = re.compile(r"%(?![0-9a-fA-F]{2}).{0,2}")
INT64_LOWEST, INT64_HIGHEST = -(2**63), 2**63 - 1


class Query:
    """The parameters of one request, as texts."""

    __slots__ = ("_values",)

    def __init__(self, raw: bytes) -> None:
        text = raw.decode("latin-1")
        if "%" in text and (wrong := BAD_ESCAPE.search(text)):
            raise InvalidArgument(f'invalid URL escape "{wrong[0]}"')
        self._values: dict[str, list[str]] = parse_qs(text, keep_blank_values=True) if text else {}

    def all(self, name: str) -> list[str]:
        """The values of a name, in their order; none when it is absent."""
        return self._values.get(name, [])


def parse_integer(name: str, text: str, *, lowest: int = INT64_LOWEST, highest: int = INT64_HIGHEST) -> int:
    """Raises InvalidArgument for anything but a decimal number in that range."""
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise InvalidArgument(f'invalid value for {name}: parsing "{text}": invalid syntax', field=name)
    # The interpreter refuses to read thousands of digits, with words of its own.
    value = int(text) if len(text) <= 64 else highest + 1
    if not lowest <= value <= highest:
        raise InvalidArgument(f'invalid value for {name}: parsing "{text}": value out of range', field=name)
    return value


def parse_json(name: str, text: str) -> Any:
    """A value that is itself JSON."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidArgument(f"invalid value for {name}: {error}", field=name) from error


def parse_time_ns(name: str, text: str, now_ns: int) -> int:
    """Seconds since the epoch with up to nine decimals, RFC 3339, or a duration before now (``1h30m``)."""
    try:
        return moment_ns(text, now_ns)
    except ValueError as error:
        raise InvalidArgument(f'invalid value for {name}: parsing "{text}": invalid syntax', field=name) from error
