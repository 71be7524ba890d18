"""What confines a container's processes: `--security-opt`, and the seccomp program, compiled once per profile.

Source: Docker Engine API 1.50, HostConfig.SecurityOpt; OCI runtime-spec 1.2, config-linux.md, "Seccomp".
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import orjson

from services.executor.runtime.seccomp import compiler
from services.executor.runtime.seccomp import default as seccomp_default
from services.executor.runtime.seccomp.profile import resolve_profile
from shared.docker import words
from shared.errors import InvalidArgument


@dataclass(slots=True)
class SecurityOptions:
    """HostConfig.SecurityOpt, parsed. `profile`: "" is the default one, "unconfined" none, else a JSON text."""

    no_new_privileges: bool = False
    profile: str = ""
    unconfined_paths: bool = False
    labels: list[str] = field(default_factory=list)


def security_options(options: Iterable[str]) -> SecurityOptions:
    """Raises InvalidArgument for an option that is unknown or cannot be honoured here."""
    result = SecurityOptions()
    for option in options:
        key, separator, value = option.partition("=")
        if not separator:
            key, separator, value = option.partition(":")
        match key:
            case "no-new-privileges":
                result.no_new_privileges = value == "" or value in words.TRUE
            case "seccomp":
                result.profile = "" if value == "builtin" else value
            case "systempaths" if value == "unconfined":
                result.unconfined_paths = True
            case "apparmor" if value in ("unconfined", ""):
                continue
            case "label" if value == "disable":
                continue
            case _:
                raise InvalidArgument(f"invalid --security-opt 2: {option!r}", field="HostConfig.SecurityOpt")
    return result


@lru_cache(maxsize=64)
def _compiled(profile: str, caps: tuple[str, ...]) -> str:
    rules = seccomp_default.default_profile() if not profile else orjson.loads(profile)
    return base64.b64encode(compiler.compile_profile(rules, caps).program).decode()


def seccomp_rules(options: SecurityOptions, privileged: bool, caps: list[str]) -> dict[str, Any] | None:
    """linux.seccomp, for a runtime that compiles it itself; None without a filter. Raises as `seccomp_filter`."""
    if options.profile == "unconfined" or (privileged and not options.profile):
        return None
    try:
        rules = orjson.loads(options.profile) if options.profile else seccomp_default.default_profile()
    except orjson.JSONDecodeError as error:
        raise InvalidArgument(f"Decoding seccomp profile failed: {error}", field="HostConfig.SecurityOpt") from error
    return resolve_profile(rules, caps, os.uname().release, os.uname().machine)


def seccomp_filter(options: SecurityOptions, privileged: bool, caps: list[str]) -> str:
    """The compiled filter in base64. Raises InvalidArgument for a profile that cannot be read."""
    if options.profile == "unconfined" or (privileged and not options.profile):
        return ""
    try:
        return _compiled(options.profile, tuple(sorted(caps)))
    except orjson.JSONDecodeError as error:
        raise InvalidArgument(f"Decoding seccomp profile failed: {error}", field="HostConfig.SecurityOpt") from error
