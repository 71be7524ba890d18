"""The Dockerfile instructions that ``commit --change`` takes, applied to a configuration. Pure.

Source: Dockerfile reference; Docker's ``commit --change``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from typing import Any

import orjson

from services.executor.control.life.signals import parse_signal
from shared.contracts.docker import ContainerConfig, HealthConfig
from shared.docker.durations import duration_ns
from shared.errors import InvalidArgument


def _refuse(text: str) -> InvalidArgument:
    return InvalidArgument(text, field="changes")


def _words(text: str) -> list[str] | None:
    """The JSON form, if it is that."""
    if not text.startswith("["):
        return None
    try:
        words = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return words if isinstance(words, list) and all(isinstance(word, str) for word in words) else None


def _command(config: ContainerConfig, text: str) -> list[str]:
    """JSON form, or shell form under the configuration's shell."""
    words = _words(text)
    return words if words is not None else [*(config.shell or ["/bin/sh", "-c"]), text]


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise _refuse(f"{text}: {error}") from error


def _pairs(name: str, text: str) -> dict[str, str]:
    """``a=b c="d e"``, or the old form ``a b``."""
    first, _, rest = text.partition(" ")
    if "=" not in first:
        if not rest:
            raise _refuse(f"{name} must have two arguments")
        return {first: rest.strip()}
    pairs = {}
    for word in _split(text):
        key, separator, value = word.partition("=")
        if not separator or not key:
            raise _refuse(f"Syntax error - can't find = in {word!r}. Must be of the form: name=value")
        pairs[key] = value
    return pairs


def _cmd(config: ContainerConfig, text: str) -> None:
    config.cmd = _command(config, text)


def _entrypoint(config: ContainerConfig, text: str) -> None:
    config.entrypoint = _command(config, text) if text else None


def _env(config: ContainerConfig, text: str) -> None:
    new = _pairs("ENV", text)
    config.env = [entry for entry in config.env if entry.partition("=")[0] not in new]
    config.env += [f"{key}={value}" for key, value in new.items()]


def _expose(config: ContainerConfig, text: str) -> None:
    ports: dict[str, Any] = {}
    for word in text.split():
        match = re.fullmatch(r"(\d+)(?:-(\d+))?(?:/(tcp|udp|sctp))?", word)
        if not match:
            raise _refuse(f"Invalid containerPort: {word}")
        for number in range(int(match[1]), int(match[2] or match[1]) + 1):
            ports[f"{number}/{match[3] or 'tcp'}"] = {}
    config.exposed_ports = config.exposed_ports | ports


def _label(config: ContainerConfig, text: str) -> None:
    config.labels = config.labels | _pairs("LABEL", text)


def _on_build(config: ContainerConfig, text: str) -> None:
    config.on_build = [*(config.on_build or []), text]


def _stop_signal(config: ContainerConfig, text: str) -> None:
    parse_signal(text)
    config.stop_signal = text


def _user(config: ContainerConfig, text: str) -> None:
    config.user = text


def _volume(config: ContainerConfig, text: str) -> None:
    paths = _words(text) or text.split()
    config.volumes = config.volumes | {path: {} for path in paths}


def _work_dir(config: ContainerConfig, text: str) -> None:
    config.working_dir = text if text.startswith("/") else f"{(config.working_dir or '/').rstrip('/')}/{text}"


def _duration_ns(text: str) -> int:
    found = duration_ns(text)
    if found is None or not 0 <= found < 2**63:
        raise _refuse(f"invalid duration: {text}")
    return found


def _healthcheck(config: ContainerConfig, text: str) -> None:
    check = HealthConfig()
    while match := re.match(r"--([a-z-]+)=(\S+)\s*", text):
        name, value, text = match[1].replace("-", "_"), match[2], text[match.end() :]
        if name == "retries" and value.isdecimal():
            check.retries = int(value)
        elif name in ("interval", "timeout", "start_period", "start_interval"):
            setattr(check, name, _duration_ns(value))
        else:
            raise _refuse(f"Unknown flag: {match[1]}")
    kind, _, command = text.partition(" ")
    match kind.upper():
        case "NONE":
            check.test = ["NONE"]
        case "CMD" if command.strip():
            words = _words(command.strip())
            check.test = ["CMD", *words] if words is not None else ["CMD-SHELL", command.strip()]
        case _:
            raise _refuse(f"Unknown type {kind!r} in HEALTHCHECK (try CMD)")
    config.healthcheck = check


APPLY: dict[str, Callable[[ContainerConfig, str], None]] = {
    "cmd": _cmd,
    "entrypoint": _entrypoint,
    "env": _env,
    "expose": _expose,
    "healthcheck": _healthcheck,
    "label": _label,
    "onbuild": _on_build,
    "stopsignal": _stop_signal,
    "user": _user,
    "volume": _volume,
    "workdir": _work_dir,
}


def apply_change(config: ContainerConfig, change: str) -> None:
    """One ``--change`` of commit: a Dockerfile instruction on the configuration.

    Raises:
        InvalidArgument: An instruction that commit does not take, or that cannot be read.
    """
    keyword, _, text = change.strip().partition(" ")
    apply = APPLY.get(keyword.lower())
    if apply is None:
        raise _refuse(f"{keyword.lower()} is not a valid change command")
    apply(config, text.strip())
