"""Durations, rates, sizes and shares as the lab's file and its commands spell them."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_NUMBER = re.compile(r"(?P<number>\d+(?:\.\d+)?(?:e-?\d+)?)\s*(?P<unit>[a-zA-Z%]*)")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_BITS = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_BYTES = {"": 1, "b": 1, "k": 1 << 10, "kb": 1 << 10, "m": 1 << 20, "mb": 1 << 20, "g": 1 << 30, "gb": 1 << 30}


def _measured(text: Any, units: dict[str, Any], example: str) -> float:
    match = _NUMBER.fullmatch(str(text).strip()) if isinstance(text, str | int | float) else None
    factor = None if match is None else units.get(match["unit"].lower())
    if match is None or factor is None or isinstance(text, bool):
        raise ValueError(f"{text!r} is not of the form {example}")
    return float(match["number"]) * float(factor)


def duration(text: Any) -> float:
    """Seconds of ``20ms``, ``1.5s``, ``2m``. A number that has no unit is refused, but for 0. Raises ValueError."""
    return 0.0 if text in (0, "0") and text is not False else _measured(text, _SECONDS, "20ms, 1.5s or 2m")


def rate(text: Any) -> int:
    """Bits per second of ``10mbit``; 0 for no limit. Raises ValueError."""
    return 0 if text in (0, "0") and text is not False else int(_measured(text, _BITS, "500kbit, 10mbit or 1gbit"))


def percent(text: Any) -> float:
    """0 to 100, of ``10%`` or a number. Raises ValueError."""
    value = _measured(text, {"": 1, "%": 1}, "10% or 0.5%")
    if value > 100:
        raise ValueError(f"{text!r} is more than 100%")
    return value


def size(text: Any) -> int:
    """Bytes of ``512m``, ``2g`` or a number. Raises ValueError."""
    return int(_measured(text, _BYTES, "512m or 2g"))


def _schema(*examples: str | float) -> WithJsonSchema:
    return WithJsonSchema({"type": ["string", "number"], "examples": list(examples)})


Duration = Annotated[
    float,
    BeforeValidator(duration),
    PlainSerializer(lambda seconds: f"{seconds}s", when_used="json"),
    _schema("20ms", "1.5s", "2m"),
]
Rate = Annotated[
    int,
    BeforeValidator(rate),
    PlainSerializer(lambda bits: f"{bits}bit", when_used="json"),
    _schema("500kbit", "10mbit"),
]
Percent = Annotated[float, BeforeValidator(percent), _schema("10%", 0.5)]
Size = Annotated[int, BeforeValidator(size), _schema("512m", "2g")]


def spell_duration(seconds: float) -> str:
    """The duration as a person would write it: ``20ms``, ``1.5s``."""
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= factor or unit == "us":
            return f"{seconds / factor:.6g}{unit}" if seconds else "0s"
    raise AssertionError("not reached")


def spell_rate(bits: int) -> str:
    """The rate as a person would write it: ``10mbit``."""
    for unit in ("gbit", "mbit", "kbit"):
        if bits >= _BITS[unit]:
            return f"{bits / _BITS[unit]:.6g}{unit}"
    return f"{bits}bit"
