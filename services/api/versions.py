"""API versions: which are served, which one a request asks for, and what belongs to some of them only.

Source: Docker Engine API 1.50, "Versioning".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from shared.errors import InvalidArgument

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler
    from pydantic_core import CoreSchema

OLDEST = "1.24"
NEWEST = "1.56"
PREFIX = re.compile(r"/v([0-9.]+)(/.*)$")

Version = tuple[int, int]

# Keys of the description that say so; `services.api.description` acts on them.
SINCE, UNTIL = "x-since", "x-until"


@dataclass(frozen=True, slots=True)
class Since:
    """Marks a parameter, or a field of a body or an answer, that does not exist in earlier versions of the API."""

    major: int
    minor: int

    @property
    def version(self) -> Version:
        return self.major, self.minor

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return handler(schema) | {SINCE: f"{self.major}.{self.minor}"}


@dataclass(frozen=True, slots=True)
class Until:
    """Marks what does not exist any more from this version of the API on."""

    major: int
    minor: int

    @property
    def version(self) -> Version:
        return self.major, self.minor

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return handler(schema) | {UNTIL: f"{self.major}.{self.minor}"}


def exists(markers: tuple[Any, ...], version: Version) -> bool:
    """Whether something with these markers is a part of that version."""
    for marker in markers:
        if isinstance(marker, Since) and version < marker.version:
            return False
        if isinstance(marker, Until) and version >= marker.version:
            return False
    return True


def parse(text: str) -> tuple[int, ...]:
    """``"1.41"`` -> ``(1, 41)``; a number that is missing counts as zero. At least two."""
    parts = tuple(int(part) if part else 0 for part in text.split("."))
    return parts if len(parts) > 1 else (*parts, 0)


@lru_cache(maxsize=64)
def accept(text: str) -> Version:
    """The version a client asks for.

    Raises:
        InvalidArgument: Too old or too new, in the words clients negotiate by.
    """
    version = parse(text)
    if version < parse(OLDEST):
        raise InvalidArgument(
            f"client version {text} is too old. Minimum supported API version is {OLDEST}, "
            "please upgrade your client to a newer version"
        )
    if version > parse(NEWEST):
        raise InvalidArgument(f"client version {text} is too new. Maximum supported API version is {NEWEST}")
    return version[0], version[1]


def split(path: str) -> tuple[str, str]:
    """A request path as (version text, path without it); the newest version when it names none."""
    match = PREFIX.match(path)
    return (match[1], match[2]) if match else (NEWEST, path)
