"""JSON's null where Go has a value: it is taken as left out, as Go's decoder leaves the zero value there.

Types of models' fields that take null, in themselves, in the elements of lists and in the values of maps.

Source: Go, encoding/json, Unmarshal: "the JSON null value unmarshals into … by setting it to nil", and else no effect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import core_schema


@dataclass(frozen=True, slots=True)
class TakesNull:
    """Makes a field take null.

    Attributes:
        change: What null becomes, and what else is to be changed before the value is looked at.
        shown: Whether null is also shown there, as Go shows a list or a map without anything in it; the API's
            description says so.
    """

    change: Callable[[Any], Any]
    shown: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(self.change, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        described: dict[str, Any] = handler(schema)
        return {"anyOf": [described, {"type": "null"}]} if self.shown else described


def or_else(zero: Callable[[], Any]) -> TakesNull:
    """Takes null as what `zero` makes: for fields of other types than those below."""
    return TakesNull(lambda value: zero() if value is None else value, shown=zero in (list, dict))


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
StrList = Annotated[list[str], TakesNull(_texts, shown=True)]
StrMap = Annotated[dict[str, str], TakesNull(_map, shown=True)]
Set = Annotated[dict[str, Any], TakesNull(_object_map, shown=True)]
# Where null itself is another thing than an empty list.
StrListOrNone = Annotated[list[str] | None, TakesNull(_elements)]
# Of lists and maps of models, whose null is a model with nothing in it.
OBJECTS = TakesNull(_objects, shown=True)
OBJECT_MAP = TakesNull(_object_map, shown=True)
