"""The part of Go's templates that ``--format`` takes: ``{{.Name}} is {{.State}}``, ``{{json .}}``, ``table …``.

Source: pkg.go.dev/text/template; Docker's "Format command and log output".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from shared.errors import InvalidArgument

_ACTION = re.compile(r"{{-?\s*(.*?)\s*-?}}")
_FIELD = re.compile(r"\.(?:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)?")
_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "json": lambda value: json.dumps(value, ensure_ascii=False),
    "upper": lambda value: str(value).upper(),
    "lower": lambda value: str(value).lower(),
    "len": len,
    "println": lambda value: f"{shown(value)}\n",
}


def shown(value: Any) -> str:
    """A value as a template prints it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return ",".join(f"{key}={shown(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ",".join(shown(item) for item in value)
    return "" if value is None else str(value)


def render(template: str, row: Mapping[str, Any]) -> str:
    r"""One row through a template; ``\t`` and ``\n`` in it are a tabulator and a line's end.

    Raises:
        InvalidArgument: It asks for a field that there is not, or for more of Go's templates than this.
    """
    text = template.replace("\\t", "\t").replace("\\n", "\n")
    return _ACTION.sub(lambda found: _evaluated(found[1], row), text)


def fields_of(template: str) -> list[str]:
    """The fields that a template shows, in order: the headings of ``table …``."""
    return [word.rpartition(".")[2] for action in _ACTION.findall(template) for word in action.split()[-1:]]


def _evaluated(action: str, row: Mapping[str, Any]) -> str:
    *functions, field = action.split() or [""]
    if not _FIELD.fullmatch(field) or any(name not in _FUNCTIONS for name in functions):
        known = ", ".join(_FUNCTIONS)
        raise InvalidArgument(f"--format: {{{{{action}}}}} is not understood; there are {{{{.Field}}}} and {known}")
    value = _field(field, row)
    for name in reversed(functions):
        value = _FUNCTIONS[name](value)
    return shown(value)


def _field(path: str, row: Mapping[str, Any]) -> Any:
    value: Any = row
    for name in (part for part in path.split(".") if part):
        if not isinstance(value, Mapping) or name not in value:
            raise InvalidArgument(f"--format: there is no field {path}; there are {', '.join(row)}")
        value = value[name]
    return value
