"""Which values are secret, said by the type of the field that holds them; and their place in a record.

A model's field is marked where it is declared: ``env: Annotated[StrList, ENTRIES]``. What is recorded of a request is
made from its models, so that a value without a declared field is not recorded at all, and one with a mark never as it
is. The values that were hidden are remembered for the request, and hidden in its error's text, too, which may quote.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel

HIDDEN = "***"
# Shorter ones are found in every text.
SHORTEST_HIDDEN = 4
LONGEST_TEXT = 4096


class Secret(enum.Enum):
    """What of a field's value is secret."""

    WHOLE = "whole"
    ENTRIES = "entries"  # NAME=value, each
    VALUES = "values"  # of a map
    ADDRESS = "address"  # of a URL: user, password and query


WHOLE, ENTRIES, VALUES, ADDRESS = Secret.WHOLE, Secret.ENTRIES, Secret.VALUES, Secret.ADDRESS


class Masking:
    """What one request asks for, as it may be recorded. Remembers what it hid."""

    def __init__(self) -> None:
        self.hidden: set[str] = set()

    def model(self, value: BaseModel) -> dict[str, Any]:
        """The fields that were given and say more than their absence, under the names of the wire."""
        given = value.model_fields_set
        described: dict[str, Any] = {}
        for name, wire, secret, default in _fields(type(value)):
            if name in given and (field := getattr(value, name)) != default and field is not None:
                described[wire] = self.masked(field, secret) if secret else self.plain(field)
        return described

    def plain(self, value: Any) -> Any:
        """A value without a mark of its own; models in it have theirs."""
        match value:
            case BaseModel():
                return self.model(value)
            case Mapping():
                return {str(key): self.plain(item) for key, item in value.items()}
            case list() | tuple() | set() | frozenset():
                return [self.plain(item) for item in value]
            case str():
                return value if len(value) <= LONGEST_TEXT else value[:LONGEST_TEXT] + "…"
            case int() if not -(2**63) <= value < 2**64:
                return str(value)
            case bool() | int() | None:
                return value
            case _:
                return str(value)

    def masked(self, value: Any, secret: Secret) -> Any:
        """A value, of which that is secret."""
        match secret, value:
            case Secret.ENTRIES, list():
                return [self._entry(item) for item in value]
            case Secret.ENTRIES | Secret.VALUES, Mapping():
                return {str(key): self._hide(item) for key, item in value.items()}
            case Secret.ADDRESS, str():
                return self._address(value)
            case _:
                return self._hide(value)

    def text(self, text: str) -> str:
        """A text that may quote what was hidden."""
        for value in sorted(self.hidden, key=len, reverse=True):
            text = text.replace(value, HIDDEN)
        return text[:LONGEST_TEXT]

    def _entry(self, item: Any) -> str:
        name, separator, value = str(item).partition("=")
        if not separator:
            return name
        return f"{name}={self._hide(value)}"

    def _hide(self, value: Any) -> str | None:
        if value is None:
            return None
        self._remember(value)
        return HIDDEN

    def _remember(self, value: Any) -> None:
        match value:
            case BaseModel():
                for name in value.model_fields_set:
                    self._remember(getattr(value, name))
            case Mapping():
                for item in value.values():
                    self._remember(item)
            case list() | tuple():
                for item in value:
                    self._remember(item)
            case str() if len(value) >= SHORTEST_HIDDEN:
                self.hidden.add(value)

    def _address(self, text: str) -> str:
        try:
            parts = urlsplit(text)
        except ValueError:
            return str(self._hide(text))
        _, at, host = parts.netloc.rpartition("@")
        for secret in (parts.password, parts.query, parts.netloc.rpartition("@")[0]):
            self._remember(secret)
        query = HIDDEN if parts.query else ""
        return urlunsplit((parts.scheme, f"{HIDDEN}@{host}" if at else host, parts.path, query, parts.fragment))


@functools.cache
def _fields(model: type[BaseModel]) -> tuple[tuple[str, str, Secret | None, Any], ...]:
    """A model's fields: attribute, name on the wire, what is secret of it, what it is when it is not given."""
    found = []
    for name, field in model.model_fields.items():
        wire = field.serialization_alias or field.alias or name
        secret = next((mark for mark in field.metadata if isinstance(mark, Secret)), None)
        found.append((name, wire, secret, field.get_default(call_default_factory=True, validated_data={})))
    return tuple(found)
