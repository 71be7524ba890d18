"""The parameters of query strings, declared as fields of models.

A field's type says how Docker reads it: `Flag`, `Text`, `Texts`, `Integer`, `Moment`, `FilterMap`, `Json`. What a
request does not say has the field's default; a field without one is required.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticUndefined

from services.api.query import Query, parse_integer, parse_json, parse_time_ns
from services.api.versions import Since, Until, Version, exists
from shared.docker.filters import Filters, parse_filters
from shared.docker.words import query_flag


class _Absent:
    """What a reader gives for a value that counts as none."""


ABSENT = _Absent()


@dataclass(frozen=True, slots=True)
class Reading:
    """Makes a field's value of the texts that a request gives for its name."""

    read: Callable[[str, list[str]], Any]


def _text(name: str, values: list[str]) -> str:
    return values[0]


def _integer(name: str, values: list[str]) -> int | _Absent:
    return parse_integer(name, values[0]) if values[0] else ABSENT


def _size(name: str, values: list[str]) -> int:
    return parse_integer(name, values[0], lowest=0, highest=MAX_TERMINAL_SIZE)


def _moment(name: str, values: list[str]) -> int | _Absent:
    return parse_time_ns(name, values[0], time.time_ns()) if values[0] else ABSENT


def _filters(name: str, values: list[str]) -> Filters | _Absent:
    return parse_filters(values[0]) if values[0] else ABSENT


def _json(name: str, values: list[str]) -> Any:
    value = parse_json(name, values[0]) if values[0] else None
    return ABSENT if value is None else value


MAX_TERMINAL_SIZE = 2**16 - 1  # ioctl_tty(2), struct winsize
INT64 = {"type": "integer", "format": "int64"}
FILTERS = {
    "type": "string",
    "contentMediaType": "application/json",
    "description": "A JSON object of lists of texts: what is listed has one of the values of each key.",
}
MOMENT = {
    "type": "string",
    "description": "Seconds since the epoch with up to nine decimals, RFC 3339, or a duration before now.",
}

Flag = Annotated[bool, Reading(lambda _, values: query_flag(values[0]))]
Text = Annotated[str, Reading(_text)]
Texts = Annotated[list[str], Reading(lambda _, values: values)]
Integer = Annotated[int, Reading(_integer), WithJsonSchema(INT64)]
OptionalInteger = Annotated[int | None, Reading(_integer), WithJsonSchema(INT64)]
TerminalSize = Annotated[int, Reading(_size), Field(ge=0, le=MAX_TERMINAL_SIZE)]
# Nanoseconds since the epoch.
Moment = Annotated[int, Reading(_moment), WithJsonSchema(MOMENT)]
FilterMap = Annotated[Filters, Reading(_filters), WithJsonSchema(FILTERS)]
# A text that is itself JSON; what it must be, the route says.
Json = Annotated[Any, Reading(_json), WithJsonSchema({"type": "string", "contentMediaType": "application/json"})]


class QueryModel(BaseModel):
    """Base of the declared queries."""

    model_config = ConfigDict(arbitrary_types_allowed=True)


Declared = TypeVar("Declared", bound=QueryModel)


def read(model: type[Declared], query: Query, version: Version) -> Declared:
    """What a request's query says.

    Raises:
        InvalidArgument: A value is none of its kind, or one that is required is missing.
    """
    values: dict[str, Any] = {}
    for field in _fields_of(model):
        given = query.all(field.name)
        value: Any = ABSENT
        if given:
            if not field.markers or exists(field.markers, version):
                value = field.read(field.name, given)
        elif field.required:
            value = field.read(field.name, [""])
        values[field.attribute] = field.default() if value is ABSENT else value
    return _made(model, values)


def _made(model: type[Declared], values: dict[str, Any]) -> Declared:
    """A model of values that are right: what its own constructor would look at once more takes ten times as long."""
    made = model.__new__(model)
    object.__setattr__(made, "__dict__", values)
    object.__setattr__(made, "__pydantic_fields_set__", set(values))
    object.__setattr__(made, "__pydantic_extra__", None)
    object.__setattr__(made, "__pydantic_private__", None)
    return made


@dataclass(frozen=True, slots=True)
class _Field:
    attribute: str
    name: str
    read: Callable[[str, list[str]], Any]
    required: bool
    default: Callable[[], Any]
    markers: tuple[Any, ...]


@cache
def _fields_of(model: type[QueryModel]) -> tuple[_Field, ...]:
    found = []
    for attribute, info in model.model_fields.items():
        readings = [marker for marker in info.metadata if isinstance(marker, Reading)]
        if not readings:
            raise TypeError(f"{model.__name__}.{attribute}: how is it read?")
        markers = tuple(marker for marker in info.metadata if isinstance(marker, Since | Until))
        required = info.default is PydanticUndefined and info.default_factory is None
        default = partial(info.get_default, call_default_factory=True)
        found.append(_Field(attribute, info.alias or attribute, readings[-1].read, required, default, markers))
    return tuple(found)
