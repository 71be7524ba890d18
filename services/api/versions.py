"""API versions: which are served, and which one a request asks for.

Source: Docker Engine API 1.50, "Versioning".
"""

from __future__ import annotations

import re
from functools import lru_cache

from shared.errors import InvalidArgument

OLDEST = "1.24"
NEWEST = "1.50"
PREFIX = re.compile(r"/v([0-9.]+)(/.*)$")

Version = tuple[int, int]


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
