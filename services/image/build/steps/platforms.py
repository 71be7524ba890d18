"""The arguments that tell a Dockerfile about platforms.

Source: Dockerfile reference, "Automatic platform ARGs in the global scope".
"""

from __future__ import annotations

from shared.docker.platforms import own_platform, parse_platform


def machine_platform() -> tuple[str, str, str]:
    """This machine's os, architecture and variant."""
    own = own_platform().normalised()
    return own.os, own.architecture, own.variant


def check_platform(text: str) -> tuple[str, str, str]:
    """The os, architecture and variant of a platform; the machine's own for an empty text.

    Raises:
        InvalidArgument: It cannot be one.
    """
    found = parse_platform(text)
    return machine_platform() if found is None else (found.os, found.architecture, found.variant)


def platform_arguments(target: str) -> dict[str, str]:
    """``TARGETPLATFORM``, ``BUILDARCH`` and so on."""
    found: dict[str, str] = {}
    for prefix, parts in (("BUILD", machine_platform()), ("TARGET", check_platform(target))):
        found[f"{prefix}PLATFORM"] = "/".join(part for part in parts if part)
        found |= {f"{prefix}{name}": part for name, part in zip(("OS", "ARCH", "VARIANT"), parts, strict=True)}
    return found
