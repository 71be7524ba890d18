"""Platforms: checking how they are written, and the arguments that tell a Dockerfile about them.

Source: Dockerfile reference, "Automatic platform ARGs in the global scope"; containerd platforms, formats and
normalisation.
"""

from __future__ import annotations

import os
import re

from shared.errors import InvalidArgument

_PART = re.compile(r"^[A-Za-z0-9_-]+$")
_ARCHITECTURES = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "armhf": "arm",
    "i386": "386",
    "i686": "386",
}
_VARIANTS = {"armv7l": "v7", "armhf": "v7"}


def machine_platform() -> tuple[str, str, str]:
    """This machine's os, architecture and variant."""
    machine = os.uname().machine
    return "linux", _ARCHITECTURES.get(machine, machine), _VARIANTS.get(machine, "")


def check_platform(text: str) -> tuple[str, str, str]:
    """The os, architecture and variant of ``os[/architecture[/variant]]``; the machine's own for an empty text.

    Raises:
        InvalidArgument: It cannot be one.
    """
    os_name, architecture, variant = machine_platform()
    if not text:
        return os_name, architecture, variant
    parts = text.split("/")
    if len(parts) > 3 or not all(map(_PART.match, parts)):
        raise InvalidArgument(
            f'failed to parse platform {text}: "{text}": cannot parse platform specifier: invalid argument',
            field="platform",
        )
    if len(parts) == 1:
        name = parts[0].lower()
        if name in ("linux", "windows", "darwin", "freebsd"):
            return name, architecture, variant
        return os_name, _ARCHITECTURES.get(name, name), _VARIANTS.get(name, "")
    name = parts[1].lower()
    return parts[0].lower(), _ARCHITECTURES.get(name, name), parts[2] if len(parts) > 2 else _VARIANTS.get(name, "")


def platform_arguments(target: str) -> dict[str, str]:
    """``TARGETPLATFORM``, ``BUILDARCH`` and so on."""
    found: dict[str, str] = {}
    for prefix, parts in (("BUILD", machine_platform()), ("TARGET", check_platform(target))):
        found[f"{prefix}PLATFORM"] = "/".join(part for part in parts if part)
        found |= {f"{prefix}{name}": part for name, part in zip(("OS", "ARCH", "VARIANT"), parts, strict=True)}
    return found
