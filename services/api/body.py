"""Request bodies: JSON as Docker decodes it.

Numbers are not texts and texts are not numbers; null is the zero value; names match without regard to case when they
do not match exactly; unknown fields are ignored; anything after the value is an error.

Source: the reference engine's answers; Go encoding/json, Unmarshal, which clients were written against.
"""

from __future__ import annotations

import types
import typing
from functools import cache
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

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


def decode(data: bytes, model: type[Model]) -> Model:
    """The body as `model`. Raises InvalidArgument with the field that is wrong."""
    data = data.strip()
    if data == b"null":
        return model()
    try:
        return model.model_validate_json(_exact_names(data, model), strict=True)
    except ValidationError as error:
        raise _explain(error) from error


def _explain(error: ValidationError) -> InvalidArgument:
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "json_invalid":
        return InvalidArgument(f"invalid JSON: {first['msg'].removeprefix('Invalid JSON: ')}")
    what = first["msg"][:1].lower() + first["msg"][1:]
    return InvalidArgument(f"invalid JSON: {field or 'body'}: {what}", field=field)


def _exact_names(data: bytes, model: type[BaseModel]) -> bytes:
    """`data` with field names in their exact spelling; unchanged in the usual case."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return data  # the model's own parser says what is wrong, and where
    return orjson.dumps(value) if _respell(value, model) else data


def _respell(value: Any, model: type[BaseModel]) -> bool:
    if isinstance(value, list):
        return sum(_respell(item, model) for item in value) > 0  # every one, unlike any()
    if not isinstance(value, dict):
        return False
    exact, folded = _names_of(model)
    changed = False
    for name in list(value):
        spelled = name
        if name not in exact:
            spelled = folded.get(name.lower(), "")
            if not spelled:
                continue
            if spelled not in value:
                value[spelled] = value.pop(name)
                changed = True
        nested, keyed = exact[spelled]
        if nested is not None:
            inner = value[spelled]
            if keyed and isinstance(inner, dict):
                changed |= sum(_respell(item, nested) for item in inner.values()) > 0
            else:
                changed |= _respell(inner, nested)
    return changed


Nested = tuple[type[BaseModel] | None, bool]


@cache
def _names_of(model: type[BaseModel]) -> tuple[dict[str, Nested], dict[str, str]]:
    """Field names -> (model of the value, whether it is a map of them), and lower-case names -> exact ones."""
    exact = {field.alias or name: _nested(field.annotation) for name, field in model.model_fields.items()}
    return exact, {name.lower(): name for name in exact}


def _nested(annotation: Any) -> Nested:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return (annotation, False) if issubclass(annotation, BaseModel) else (None, False)
    keyed = typing.get_origin(annotation) is dict
    for argument in typing.get_args(annotation):
        nested, deeper = _nested(argument)
        if nested is not None:
            return nested, keyed or deeper
    return None, False
