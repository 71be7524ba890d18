"""Integers with the widths of the API's description: Go's decoders, and what stores or shows them, know no wider.

Null is taken as left out (`shared.docker.null`).

Source: Docker Engine API, `format`; moby's api/types for what it leaves open.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, WithJsonSchema

from shared.docker.null import or_else

_INT64 = Field(ge=-(2**63), le=2**63 - 1)
# Limits of 64 bits cannot be written in the floating-point numbers of JSON schemas; the format says them.
_SAY_INT64 = WithJsonSchema({"type": "integer", "format": "int64"})

Int64 = Annotated[int, _INT64, or_else(int), _SAY_INT64]
UInt64 = Annotated[
    int,
    Field(ge=0, le=2**64 - 1),
    or_else(int),
    WithJsonSchema({"type": "integer", "format": "uint64", "minimum": 0}),
]
UInt32 = Annotated[int, Field(ge=0, le=2**32 - 1, json_schema_extra={"format": "uint32"}), or_else(int)]
UInt16 = Annotated[int, Field(ge=0, le=2**16 - 1, json_schema_extra={"format": "uint16"}), or_else(int)]
OptionalInt64 = Annotated[int, _INT64, _SAY_INT64] | None
# Rows and columns. A terminal has 16 bits for each: ioctl_tty(2), struct winsize.
TerminalSizes = Annotated[list[UInt16], or_else(list)]
