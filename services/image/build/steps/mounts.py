"""``RUN --mount``: what each says, checked, and what it becomes on the node that runs the command.

Source: Dockerfile reference, "RUN --mount".
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from dataclasses import dataclass

from shared.docker.sizes import binary_bytes
from shared.docker.words import parse_bool
from shared.errors import InvalidArgument

KINDS = ("bind", "cache", "tmpfs", "secret", "ssh")
_COMMON = {"type", "target", "dst", "destination"}
_OPTIONS = {
    "bind": _COMMON | {"source", "src", "from", "rw", "readwrite", "ro", "readonly"},
    "cache": _COMMON
    | {"id", "source", "src", "from", "rw", "readwrite", "ro", "readonly", "sharing", "mode", "uid", "gid"},
    "tmpfs": _COMMON | {"size"},
    "ssh": _COMMON | {"id", "required", "mode", "uid", "gid"},
    "secret": _COMMON | {"id", "source", "src", "required", "mode", "uid", "gid", "env"},
}
_MODES = {"secret": 0o400, "ssh": 0o600}
DEFAULT_AGENT, AGENTS = "default", "/run/buildkit/ssh_agent"
_SWITCHES = {"rw", "readwrite", "ro", "readonly", "required"}


@dataclass(frozen=True, slots=True)
class RunMount:
    """One ``--mount``.

    Attributes:
        origin: Stage or image to take `source` from; empty for the build context.
        identifier: Of a cache, a secret or an agent.
        mode: Of a cache's directory, a secret's file or an agent's socket.
        size_bytes: Of a tmpfs; 0 is no limit.
        environment: Name of the variable that carries a secret, instead of or beside a file.
    """

    kind: str
    target: str
    source: str = ""
    origin: str = ""
    identifier: str = ""
    read_only: bool = False
    sharing: str = "shared"
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    size_bytes: int = 0
    required: bool = False
    environment: str = ""


def parse_mount(text: str, working_dir: str, expand: Callable[[str], str] = str) -> RunMount:
    """Understand one ``--mount`` value.

    Args:
        working_dir: What a relative target starts from.
        expand: Replaces variables in values.

    Raises:
        InvalidArgument: An option that is unknown, missing or malformed.
    """
    options: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if not equals and name.lower() not in _SWITCHES:
            raise InvalidArgument(f"invalid field '{part}' must be a key=value pair", field="--mount")
        options[name.lower()] = expand(value)
    kind = options.get("type", "bind").lower()
    if kind not in KINDS:
        raise InvalidArgument(f'unsupported mount type "{kind}"', field="--mount")
    for name in options:
        if name not in _OPTIONS[kind]:
            raise InvalidArgument(f"unexpected key '{name}' in '{text}' for a {kind} mount", field="--mount")
    return _checked(kind, options, working_dir)


def _checked(kind: str, options: dict[str, str], working_dir: str) -> RunMount:
    target = _first(options, "target", "dst", "destination")
    source = _first(options, "source", "src")
    identifier = options.get("id", "")
    if kind == "secret":
        identifier = identifier or source or posixpath.basename(target)
        if not identifier:
            raise InvalidArgument("invalid secret mount: one of source, target or id is required", field="--mount")
        if not target and "env" not in options:
            target = f"/run/secrets/{identifier}"
    elif kind == "ssh":
        identifier = identifier or DEFAULT_AGENT
        target = target or f"{AGENTS}/{identifier}"
    elif not target:
        raise InvalidArgument(f"invalid mount target: {kind} needs a target", field="--mount")
    target = posixpath.normpath(posixpath.join("/", working_dir or "/", target)) if target else ""
    if target == "/":
        raise InvalidArgument("invalid mount target: a mount cannot be on /", field="--mount")
    sharing = options.get("sharing", "shared")
    if sharing not in ("shared", "private", "locked"):
        raise InvalidArgument(f'unsupported sharing value "{sharing}"', field="--mount")
    return RunMount(
        kind,
        target,
        source="" if kind == "secret" else source,
        origin=options.get("from", ""),
        identifier=identifier or target,
        read_only=_read_only(kind, options),
        sharing=sharing,
        mode=_number(options, "mode", _MODES.get(kind, 0o755), base=8),
        uid=_number(options, "uid", 0),
        gid=_number(options, "gid", 0),
        size_bytes=_size(options.get("size", "")),
        required=_switch(options, "required", False),
        environment=options.get("env", ""),
    )


def _first(options: dict[str, str], *names: str) -> str:
    return next((options[name] for name in names if name in options), "")


def _read_only(kind: str, options: dict[str, str]) -> bool:
    writable = kind != "bind"
    for name in ("rw", "readwrite"):
        writable = _switch(options, name, writable)
    for name in ("ro", "readonly"):
        writable = not _switch(options, name, not writable)
    return not writable


def _switch(options: dict[str, str], name: str, default: bool) -> bool:
    if name not in options:
        return default
    try:
        return options[name] == "" or parse_bool(options[name])
    except InvalidArgument as error:
        raise InvalidArgument(f"invalid value for {name}: {options[name]}", field="--mount") from error


def _number(options: dict[str, str], name: str, default: int, *, base: int = 10) -> int:
    text = options.get(name)
    if text is None:
        return default
    try:
        return int(text, base)
    except ValueError as error:
        raise InvalidArgument(f"invalid value {text} for {name}", field="--mount") from error


def _size(text: str) -> int:
    try:
        return binary_bytes(text) if text else 0
    except InvalidArgument as error:
        raise InvalidArgument(f"invalid value {text} for size", field="--mount") from error
