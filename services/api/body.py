"""Request bodies: JSON as Docker decodes it.

Numbers are not texts and texts are not numbers; null is left out, and among the items of a list or a map the zero
value; names match without regard to case when they
do not match exactly; unknown fields are ignored; anything after the value is an error.

Source: the reference engine's answers; Go encoding/json, Unmarshal, which clients were written against.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from services.api.auditing.request import parsed
from services.api.versions import Since, Until, Version, exists
from shared.errors import InvalidArgument

Model = TypeVar("Model", bound=BaseModel)

LIMIT_BYTES = 32 * 1024 * 1024
EOF_TEXT = "invalid JSON: got EOF while reading request body"


def check_content_type(content_type: str | None, has_body: bool) -> None:
    """Raises InvalidArgument for a body that is not declared to be JSON."""
    if not content_type:
        if has_body:
            raise InvalidArgument("malformed Content-Type header (): mime: no media type")
        return
    if content_type.split(";", 1)[0].strip().lower() != "application/json":
        raise InvalidArgument(f"unsupported Content-Type header ({content_type}): must be 'application/json'")


def decode(data: bytes, model: type[Model], version: Version) -> Model:
    """The body as `model`. Raises InvalidArgument with the field that is wrong."""
    data = data.strip()
    if data == b"null":
        data = b"{}"
    try:
        decoded = model.model_validate_json(_tidied(data, model, version), strict=True)
    except ValidationError as error:
        raise _explain(error) from error
    parsed(decoded)  # what is recorded is what is carried out
    return decoded


def _explain(error: ValidationError) -> InvalidArgument:
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "json_invalid":
        return InvalidArgument(f"invalid JSON: {first['msg'].removeprefix('Invalid JSON: ')}")
    what = first["msg"][:1].lower() + first["msg"][1:]
    return InvalidArgument(f"invalid JSON: {field or 'body'}: {what}", field=field)


def _tidied(data: bytes, model: type[BaseModel], version: Version) -> bytes:
    """`data` with field names in their exact spelling, without nulls and what that version lacks; mostly unchanged."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return data  # the model's own parser says what is wrong, and where
    return orjson.dumps(value) if _tidy(value, _shape(model), version) else data


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a value is made of, as far as null and the names of fields matter.

    Attributes:
        fields: Of an object with fields: exact name -> shape and marks.
        folded: Lower-case name -> exact name.
        item: Of a list, or of an object that is a map.
        zero: What null stands for among a list's or a map's items; None where null is a value.
    """

    fields: dict[str, tuple[_Shape, tuple[Any, ...]]] | None = None
    folded: dict[str, str] = field(default_factory=dict)
    item: _Shape | None = None
    zero: Callable[[], Any] | None = None


def _tidy(value: Any, shape: _Shape, version: Version) -> bool:
    """Change a value in place; whether there was anything to change."""
    if shape.fields is not None and isinstance(value, dict):
        return _tidy_object(value, shape, shape.fields, version)
    if shape.item is None:
        return False
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    changed = False
    for key, item in list(items):
        if item is None and shape.item.zero is not None:
            value[key] = shape.item.zero()
            changed = True
        else:
            changed |= _tidy(item, shape.item, version)
    return changed


def _tidy_object(
    value: dict[str, Any], shape: _Shape, fields: dict[str, tuple[_Shape, tuple[Any, ...]]], version: Version
) -> bool:
    changed = False
    for name in list(value):
        exact = name if name in fields else shape.folded.get(name.lower())
        if exact is None:
            continue
        inner, marks = fields[exact]
        item = value[name]
        if item is None or (marks and not exists(marks, version)):
            del value[name]
            changed = True
            continue
        if exact != name and exact not in value:
            value[exact] = value.pop(name)
            changed = True
        changed |= _tidy(item, inner, version)
    return changed


@cache
def _shape(model: type[BaseModel]) -> _Shape:
    fields = {}
    for name, info in model.model_fields.items():
        marks = tuple(marker for marker in info.metadata if isinstance(marker, Since | Until))
        fields[info.alias or name] = (_shape_of(info.annotation), marks)
    return _Shape(fields, {name.lower(): name for name in fields}, zero=dict)


ZEROS: dict[Any, Callable[[], Any]] = {str: str, int: int, bool: bool}


def _shape_of(annotation: Any) -> _Shape:
    while typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (list, dict):
        return _Shape(item=_shape_of(arguments[-1]), zero=origin)
    if origin in (types.UnionType, typing.Union):
        kinds = [item for item in arguments if item is not types.NoneType]
        return _shape_of(kinds[0]) if len(kinds) == 1 else _Shape()
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _shape(annotation)
    return _Shape(zero=ZEROS.get(annotation))
