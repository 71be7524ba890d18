"""Instructions that change an image's configuration and no file: no container is needed for them.

Each is a function from instruction and state to the text that history keeps.

Source: Dockerfile reference, one section per instruction; history texts of the classic builder.
"""

from __future__ import annotations

import json
import posixpath
import re
import signal
from collections.abc import Callable, Sequence
from typing import cast

from services.image.build.dockerfile.health import Healthcheck
from services.image.build.dockerfile.instructions import Arg, Command, Env, Health, Instruction, Label, Text, Words
from services.image.build.state import StageState
from shared.contracts.docker import HealthConfig
from shared.docker.durations import duration_text
from shared.errors import InvalidArgument

MAX_PORT = 65535
_CHARACTERS = {7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r", 39: "\\'", 92: "\\\\"}
_PORT = re.compile(r"^(?:(?P<host>.*):)?(?P<first>\d+)(?:-(?P<last>\d+))?(?:/(?P<protocol>\w+))?$")


def apply(instruction: Instruction, state: StageState) -> str:
    """Change the state's configuration as the instruction says; the text for history.

    Raises:
        InvalidArgument: A value that cannot be.
        SyntaxProblem: A variable that cannot be replaced.
    """
    return _APPLY[instruction.keyword](instruction, state)


def _arg(instruction: Instruction, state: StageState) -> str:
    texts = []
    for written, default in cast(Arg, instruction).arguments:
        word = state.expander()  # anew each time: an argument may use the one before it
        name, value = word(written), None if default is None else word(default)
        state.arguments.declare(name, value)
        texts.append(name if value is None else f"{name}={value}")
    return "ARG " + " ".join(texts)


def _env(instruction: Instruction, state: StageState) -> str:
    word = state.expander()
    pairs = [(word(name), word(value)) for name, value in cast(Env, instruction).pairs]
    for name, value in pairs:
        if not name:
            raise InvalidArgument("ENV names can not be blank")
        items = [item for item in state.config.env if item.partition("=")[0] == name]
        new = f"{name}={value}"
        if items:
            state.config.env = [new if item in items else item for item in state.config.env]
        else:
            state.config.env = [*state.config.env, new]
    return "ENV " + " ".join(f"{name}={value}" for name, value in pairs)


def _label(instruction: Instruction, state: StageState) -> str:
    label = cast(Label, instruction)
    word: Callable[[str], str] = str if label.literal else state.expander()
    pairs = [(word(name), word(value)) for name, value in label.pairs]
    state.config.labels = state.config.labels | dict(pairs)
    return "LABEL " + " ".join(f"{name}={value}" for name, value in pairs)


def _maintainer(instruction: Instruction, state: StageState) -> str:
    state.author = cast(Text, instruction).text
    return f"MAINTAINER {state.author}"


def _cmd(instruction: Instruction, state: StageState) -> str:
    words = _command_words(cast(Command, instruction), state)
    state.config.cmd = words
    state.command_set = True
    return f"CMD {_quoted(words)}"


def _entrypoint(instruction: Instruction, state: StageState) -> str:
    words = _command_words(cast(Command, instruction), state)
    state.config.entrypoint = words or None
    if not state.command_set:
        state.config.cmd = None  # a command of the base was meant for the entry point of the base
    return f"ENTRYPOINT {_quoted(words)}"


def _command_words(command: Command, state: StageState) -> list[str]:
    return [*state.shell, *command.words] if command.shell and command.words else list(command.words)


def _healthcheck(instruction: Instruction, state: StageState) -> str:
    check = cast(Health, instruction).check
    state.config.healthcheck = HealthConfig(
        test=list(check.test),
        interval=check.interval_ns,
        timeout=check.timeout_ns,
        start_period=check.start_period_ns,
        start_interval=check.start_interval_ns,
        retries=check.retries,
    )
    return f"HEALTHCHECK {health_text(check)}"


def health_text(check: Healthcheck, *, start_interval: bool = False) -> str:
    """A check as histories show it. start_interval: also where it has none of its own."""
    durations = [check.interval_ns, check.timeout_ns, check.start_period_ns]
    if check.start_interval_ns or start_interval:
        durations.append(check.start_interval_ns)
    texts = " ".join(f'"{duration_text(value)}"' for value in durations)
    # Docker prints the number as a character literal; users compare histories, so it stays.
    retries = _CHARACTERS.get(check.retries) or (
        chr(check.retries) if check.retries > 31 else f"\\x{check.retries:02x}"
    )
    return f"&{{{_quoted(check.test)} {texts} '{retries}'}}"


def _expose(instruction: Instruction, state: StageState) -> str:
    ports = sorted(
        {port for text in cast(Words, instruction).words for word in state.words(text) for port in _ports(word)}
    )
    state.config.exposed_ports = state.config.exposed_ports | {port: {} for port in ports}
    return "EXPOSE " + " ".join(sorted(cast(Words, instruction).words))


def _ports(text: str) -> list[str]:
    match = _PORT.match(text)
    first = int(match["first"]) if match else -1
    last = int(match["last"] or first) if match else -1
    if not match or not 0 < first <= last <= MAX_PORT:
        raise InvalidArgument(f"Invalid containerPort: {text.partition('/')[0]}", field="EXPOSE")
    protocol = (match["protocol"] or "tcp").lower()
    if protocol not in ("tcp", "udp", "sctp"):
        raise InvalidArgument(f"Invalid proto: {match['protocol']}", field="EXPOSE")
    return [f"{port}/{protocol}" for port in range(first, last + 1)]


def _volume(instruction: Instruction, state: StageState) -> str:
    word = state.expander()
    paths = [word(path).strip() for path in cast(Words, instruction).words]
    if not all(paths):
        raise InvalidArgument("VOLUME specified can not be an empty string", field="VOLUME")
    state.config.volumes = state.config.volumes | {path: {} for path in paths}
    return f"VOLUME [{' '.join(paths)}]"


def _user(instruction: Instruction, state: StageState) -> str:
    state.config.user = state.word(cast(Text, instruction).text)
    return f"USER {state.config.user}"


def workdir_of(instruction: Instruction, state: StageState) -> str:
    """The absolute directory that a WORKDIR names. Raises InvalidArgument when it names none."""
    text = state.word(cast(Text, instruction).text)
    if not text:
        raise InvalidArgument("cannot normalize nothing", field="WORKDIR")
    return "/" + posixpath.normpath(posixpath.join("/", state.config.working_dir or "/", text)).lstrip("/")


def _stop_signal(instruction: Instruction, state: StageState) -> str:
    text = state.word(cast(Text, instruction).text)
    if not _is_signal(text):
        raise InvalidArgument(f"Invalid signal: {text}", field="STOPSIGNAL")
    state.config.stop_signal = text
    return f"STOPSIGNAL {text}"


def _is_signal(text: str) -> bool:
    if text.isdecimal():
        return 0 < int(text) <= signal.SIGRTMAX
    name = text.upper().removeprefix("SIG")
    return f"SIG{name}" in signal.Signals.__members__ or bool(re.fullmatch(r"RTM(IN(\+\d+)?|AX(-\d+)?)", name))


def _shell(instruction: Instruction, state: StageState) -> str:
    words = cast(Words, instruction).words
    state.config.shell = list(words)
    return f"SHELL [{' '.join(words)}]"


def _onbuild(instruction: Instruction, state: StageState) -> str:
    text = cast(Text, instruction).text
    state.config.on_build = [*(state.config.on_build or []), text]
    return f"ONBUILD {text}"


def _quoted(words: Sequence[str]) -> str:
    return f"[{' '.join(json.dumps(word, ensure_ascii=False) for word in words)}]"


_APPLY: dict[str, Callable[[Instruction, StageState], str]] = {
    "ARG": _arg,
    "ENV": _env,
    "LABEL": _label,
    "MAINTAINER": _maintainer,
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "HEALTHCHECK": _healthcheck,
    "EXPOSE": _expose,
    "VOLUME": _volume,
    "USER": _user,
    "STOPSIGNAL": _stop_signal,
    "SHELL": _shell,
    "ONBUILD": _onbuild,
}
