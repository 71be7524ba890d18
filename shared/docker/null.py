"""JSON's null where Go has a value: it is taken as left out, as Go's decoder leaves the zero value there.

Types of models' fields that take null, in themselves, in the elements of lists and in the values of maps.

Source: Go, encoding/json, Unmarshal: "the JSON null value unmarshals into … by setting it to nil", and else no effect.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BeforeValidator


def or_else(zero: Callable[[], Any]) -> BeforeValidator:
    """Takes null as what `zero` makes: for fields of other types than those below."""
    return BeforeValidator(lambda value: zero() if value is None else value)


def _elements(value: Any) -> Any:
    return ["" if one is None else one for one in value] if isinstance(value, list) else value


def _texts(value: Any) -> Any:
    return [] if value is None else _elements(value)


def _map(value: Any) -> Any:
    if value is None:
        return {}
    return {key: "" if one is None else one for key, one in value.items()} if isinstance(value, dict) else value


def _objects(value: Any) -> Any:
    if value is None:
        return []
    return [{} if one is None else one for one in value] if isinstance(value, list) else value


def _object_map(value: Any) -> Any:
    if value is None:
        return {}
    return {key: {} if one is None else one for key, one in value.items()} if isinstance(value, dict) else value


Str = Annotated[str, or_else(str)]
Bool = Annotated[bool, or_else(bool)]
StrList = Annotated[list[str], BeforeValidator(_texts)]
StrMap = Annotated[dict[str, str], BeforeValidator(_map)]
Set = Annotated[dict[str, Any], BeforeValidator(_object_map)]
# Where null itself is another thing than an empty list.
StrListOrNone = Annotated[list[str] | None, BeforeValidator(_elements)]
# Of lists and maps of models, whose null is a model with nothing in it.
OBJECTS = BeforeValidator(_objects)
OBJECT_MAP = BeforeValidator(_object_map)
