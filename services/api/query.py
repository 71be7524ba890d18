"""Query strings, read as Docker reads them.

Source: Docker Engine API 1.50; the reference engine's answers for what the description leaves open.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs

import orjson

from shared.docker.filters import Filters, parse_filters
from shared.docker.moments import moment_ns
from shared.docker.words import query_flag
from shared.errors import InvalidArgument

BAD_ESCAPE = re.compile(r"%(?![0-9a-fA-F]{2}).{0,2}")


class Query:
    """The parameters of one request. A name given twice has its first value, except through `all`."""

    __slots__ = ("_values",)

    def __init__(self, raw: bytes) -> None:
        text = raw.decode("latin-1")
        if "%" in text and (wrong := BAD_ESCAPE.search(text)):
            raise InvalidArgument(f'invalid URL escape "{wrong[0]}"')
        self._values: dict[str, list[str]] = parse_qs(text, keep_blank_values=True) if text else {}

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def text(self, name: str, default: str = "") -> str:
        values = self._values.get(name)
        return values[0] if values else default

    def all(self, name: str) -> list[str]:
        return self._values.get(name, [])

    def flag(self, name: str, default: bool = False) -> bool:
        """True for anything but an empty value, 0, no, false and none; `default` when absent."""
        values = self._values.get(name)
        return default if values is None else query_flag(values[0])

    def integer(self, name: str, default: int = 0) -> int:
        """Raises InvalidArgument for anything but a decimal number; `default` when absent or empty."""
        text = self.text(name)
        return default if not text else parse_integer(name, text)

    def required_integer(self, name: str) -> int:
        return parse_integer(name, self.text(name))

    def filters(self, name: str = "filters") -> Filters:
        """``{"label": ["a"]}``, and the older ``{"label": {"a": true}}``, as key -> values."""
        text = self.text(name)
        return parse_filters(text) if text else {}

    def json(self, name: str, default: Any) -> Any:
        """A value that is itself JSON."""
        text = self.text(name)
        if not text:
            return default
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise InvalidArgument(f"invalid value for {name}: {error}", field=name) from error
        return default if value is None else value

    def time_ns(self, name: str, now_ns: int) -> int:
        """A moment in nanoseconds since the epoch; 0 when absent."""
        text = self.text(name)
        return parse_time_ns(name, text, now_ns) if text else 0


def parse_integer(name: str, text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise InvalidArgument(f'invalid value for {name}: parsing "{text}": invalid syntax', field=name)
    value = int(text)
    if not -(2**63) <= value < 2**63:
        raise InvalidArgument(f'invalid value for {name}: parsing "{text}": value out of range', field=name)
    return value


def parse_time_ns(name: str, text: str, now_ns: int) -> int:
    """Seconds since the epoch with up to nine decimals, RFC 3339, or a duration before now (``1h30m``)."""
    try:
        return moment_ns(text, now_ns)
    except ValueError as error:
        raise InvalidArgument(f'invalid value for {name}: parsing "{text}": invalid syntax', field=name) from error
