"""JSON for processes that must stay small: the interpreter's C reader and writer, without the modules around them.

`json` pulls in `re` and `enum`, which cost a fresh interpreter more than the rest of a container's start. Where the C
parts are missing, `json` itself is used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class _Rules:
    """What the C reader asks its owner for."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}  # noqa: RUF012  (the reader clears it after every document)


try:
    import _json

    _read = _json.make_scanner(_Rules())  # type: ignore[arg-type]
    _quote = _json.encode_basestring_ascii
    _quote_unicode = _json.encode_basestring
except (ImportError, AttributeError):  # another interpreter
    _read = None  # type: ignore[assignment]


class InvalidJson(ValueError):
    """The text is not one JSON document."""


def loads(text: str | bytes) -> Any:
    """The value of one JSON document.

    Raises:
        InvalidJson: it is something else, or there is more after it.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError as error:
            raise InvalidJson(str(error)) from error
    if _read is None:
        import json

        try:
            return json.loads(text)
        except ValueError as error:
            raise InvalidJson(str(error)) from error
    start = len(text) - len(text.lstrip(" \t\n\r"))
    try:
        value, end = _read(text, start)
    except StopIteration as error:
        raise InvalidJson(f"expected a value at character {error.value}") from None
    except SystemError:
        # the C reader wants to raise an error of the module `json`, which is not there
        raise InvalidJson(_reason(text)) from None
    except ValueError as error:
        raise InvalidJson(str(error)) from error
    if text[end:].strip(" \t\n\r"):
        raise InvalidJson(f"unexpected text after the document at character {end}")
    return value


def _reason(text: str) -> str:
    import json

    try:
        json.loads(text)
    except ValueError as error:
        return str(error)
    return "not a JSON document"


def dumps(value: Any, *, indent: str = "") -> str:
    """One JSON document; keys keep their order. With `indent`, on several lines.

    Raises:
        TypeError, ValueError: there is something in it that JSON cannot say.
    """
    if _read is None:
        import json

        return json.dumps(value, allow_nan=False, indent=indent or None, separators=(",", ": " if indent else ":"))
    out: list[str] = []
    _write(value, out, indent, "\n" if indent else "")
    return "".join(out)


def _write(value: Any, out: list[str], indent: str, line: str) -> None:
    if isinstance(value, str):
        out.append(_quote(value))
    elif value is True:
        out.append("true")
    elif value is False:
        out.append("false")
    elif value is None:
        out.append("null")
    elif isinstance(value, int):
        out.append(int.__repr__(value))  # not an enum's own
    elif isinstance(value, float):
        if value - value != 0:  # infinite, or not a number
            raise ValueError(f"{value} has no JSON form")
        out.append(float.__repr__(value))
    elif isinstance(value, dict):
        _write_all(
            out,
            "{}",
            [(_quote(str(key)) + (": " if indent else ":"), item) for key, item in value.items()],
            indent,
            line,
        )
    elif isinstance(value, list | tuple):
        _write_all(out, "[]", [("", item) for item in value], indent, line)
    else:
        raise TypeError(f"{type(value).__name__} has no JSON form")


def _write_all(out: list[str], ends: str, items: list[tuple[str, Any]], indent: str, line: str) -> None:
    inner = line + indent
    out.append(ends[0])
    for i, (key, item) in enumerate(items):
        out.append(("," if i else "") + inner + key)
        _write(item, out, indent, inner)
    if items:
        out.append(line)
    out.append(ends[1])


def _quote_slowly(text: str) -> str:
    import json

    return json.dumps(text, ensure_ascii=False)


#: a JSON string that keeps what is not ASCII as it is
quote: Callable[[str], str] = _quote_slowly if _read is None else _quote_unicode
