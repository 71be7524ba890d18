"""Platforms: how they are written, what their parts are called, and which image runs where.

::

    os[/architecture[/variant]]     or an operating system or architecture alone, or JSON as API 1.48 has it

Architectures have Go's names; those of kernels and packages (``x86_64``, ``aarch64``, ``armhf``) mean the same.

Source: containerd, package platforms: Parse, Normalize.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from shared.errors import InvalidArgument

# Other names of architectures -> (Go's, variant).
ALIASES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armv7l": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv6l": ("arm", "v6"),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "x86": ("386", ""),
}
SYSTEMS = frozenset(
    {"aix", "android", "darwin", "dragonfly", "freebsd", "illumos", "ios", "js", "linux", "netbsd", "openbsd", "plan9"}
    | {"solaris", "wasip1", "windows"}
)
ARCHITECTURES = frozenset(
    {"386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le", "riscv64"}
    | {"s390x", "wasm"}
)
_PART = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_JSON_KEYS = frozenset({"os", "architecture", "variant", "os.version", "os.features"})


@dataclass(frozen=True, slots=True)
class Platform:
    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    @classmethod
    def parse(cls, text: str) -> Platform:
        """What `str` made of one."""
        system, _, rest = text.partition("/")
        architecture, _, variant = rest.partition("/")
        return cls(system, architecture, variant)

    def normalised(self) -> Platform:
        """The same in Go's names; a variant that goes without saying is left out."""
        system = {"macos": "darwin"}.get(self.os.lower(), self.os.lower())
        architecture, implied = ALIASES.get(self.architecture.lower(), (self.architecture.lower(), ""))
        variant = self.variant.lower() or implied
        if variant.isdigit() and architecture in ("arm", "arm64"):
            variant = f"v{variant}"
        if (architecture, variant) in (("arm64", "v8"), ("amd64", "v1")):
            variant = ""
        return Platform(system, architecture, variant)

    def matches(self, wanted: Platform) -> bool:
        """Whether an image for this platform runs where `wanted` is asked for. No variant asks for any."""
        own, other = self.normalised(), wanted.normalised()
        if (own.os, own.architecture) != (other.os, other.architecture):
            return False
        return not other.variant or own.variant == other.variant or not own.variant


def own_platform() -> Platform:
    """What this machine runs."""
    machine = os.uname().machine
    architecture, variant = ALIASES.get(machine, (machine, ""))
    return Platform("linux", architecture, "v8" if architecture == "arm64" else variant)


def parse_platforms(texts: Iterable[str]) -> list[Platform]:
    """Each as `parse_platform`, without empty ones."""
    return [platform for text in texts if (platform := parse_platform(text)) is not None]


def parse_platform(text: str | None) -> Platform | None:
    """A platform that a client asks for, in Go's names; None for nothing.

    Raises:
        InvalidArgument: In Docker's words.
    """
    if not text:
        return None
    if text.lstrip().startswith("{"):
        return _of_json(text)
    parts = text.split("/")
    if len(parts) > 3:
        raise _refused(text, "cannot parse platform specifier")
    for part in parts:
        if not _PART.fullmatch(part):
            raise InvalidArgument(
                f'"{part}" is an invalid component of "{text}": platform specifier component must match '
                f'"^[A-Za-z0-9_-]+$": invalid argument',
                field="platform",
            )
    if len(parts) == 1:
        return _alone(text)
    return _written(Platform(*parts))


def _written(platform: Platform) -> Platform:
    """In Go's names, with the variant of arm64 if it was given: images that are made for it say so."""
    found = platform.normalised()
    given = platform.variant and not found.variant and found.architecture == "arm64"
    return Platform(found.os, found.architecture, "v8") if given else found


def _alone(text: str) -> Platform:
    own = own_platform()
    system = Platform(text, "").normalised().os
    if system in SYSTEMS:
        return Platform(system, own.architecture, own.variant)
    found = Platform("linux", text).normalised()
    if found.architecture in ARCHITECTURES:
        return found
    raise _refused(text, "unknown operating system or architecture")


def _of_json(text: str) -> Platform:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidArgument(f"invalid platform: {error}", field="platform") from error
    system, architecture = (value.get("os"), value.get("architecture")) if isinstance(value, dict) else (None, None)
    if not isinstance(system, str) or not isinstance(architecture, str) or not system or not architecture:
        raise InvalidArgument(f"invalid platform: {text}", field="platform")
    if value.keys() - _JSON_KEYS:
        raise InvalidArgument(f"invalid platform: {text}", field="platform")
    return _written(Platform(system, architecture, str(value.get("variant") or "")))


def _refused(text: str, why: str) -> InvalidArgument:
    return InvalidArgument(f'"{text}": {why}: invalid argument', field="platform")
