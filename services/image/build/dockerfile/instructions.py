"""One typed record per instruction, made from a logical line.

Values are as written: variables are replaced when the instruction is carried out, because what they stand for depends
on the instructions before it.

Source: Dockerfile reference, one section per instruction.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypedDict

from services.image.build.dockerfile.errors import SyntaxProblem, at_line
from services.image.build.dockerfile.health import Healthcheck, parse_healthcheck
from services.image.build.dockerfile.lines import Heredoc, Node, as_heredoc
from services.image.build.dockerfile.words import (
    Flags,
    array_or_words,
    cut_flags,
    json_array,
    name_values,
    parse_flags,
    raw_words,
)

_STAGE_NAME = re.compile(r"^[a-z][a-z0-9\-_.]*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """Attributes: source: the line as written, for progress output. line, end_line: where it stands, from 1."""

    keyword: str = ""
    source: str = ""
    line: int = 0
    end_line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class From(Instruction):
    base: str
    name: str = ""
    platform: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arg(Instruction):
    """Build arguments and their defaults; None for one without."""

    arguments: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Env(Instruction):
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Label(Instruction):
    """literal: values stand for themselves (labels that came with the request)."""

    pairs: tuple[tuple[str, str], ...]
    literal: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(Instruction):
    """COPY and ADD: `keyword` says which.

    Attributes:
        heredocs: Sources that are here-documents, by the word that stands for them in `sources`.
        origin: ``--from``: a stage's name or number, or an image; empty for the build context.
        checksum: Of the one remote source.
        unpack: Whether to extract archives; None is the instruction's own habit.
    """

    sources: tuple[str, ...]
    destination: str
    heredocs: dict[str, Heredoc] = field(default_factory=dict)
    origin: str = ""
    chown: str = ""
    chmod: str = ""
    parents: bool = False
    exclude: tuple[str, ...] = ()
    link: bool = False
    checksum: str = ""
    keep_git_dir: bool = False
    unpack: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Instruction):
    """Attributes: words: the command; a single text when `shell`. mounts: `--mount` values as written."""

    words: tuple[str, ...]
    shell: bool = True
    heredocs: tuple[Heredoc, ...] = ()
    mounts: tuple[str, ...] = ()
    network: str = ""
    security: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command(Instruction):
    """CMD and ENTRYPOINT: `keyword` says which."""

    words: tuple[str, ...]
    shell: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Health(Instruction):
    check: Healthcheck


@dataclass(frozen=True, slots=True, kw_only=True)
class Words(Instruction):
    """EXPOSE, VOLUME and SHELL: `keyword` says which."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Text(Instruction):
    """USER, WORKDIR, STOPSIGNAL, MAINTAINER and ONBUILD: `keyword` says which."""

    text: str


class _Place(TypedDict):
    keyword: str
    source: str
    line: int
    end_line: int


@dataclass(frozen=True, slots=True)
class _Line:
    """An instruction's arguments while they are being understood."""

    keyword: str
    text: str
    flags: Flags
    node: Node
    escape: str

    @property
    def place(self) -> _Place:
        node = self.node
        return {"keyword": self.keyword, "source": node.source, "line": node.line, "end_line": node.end_line}


def parse_instruction(node: Node, *, escape: str = "\\") -> Instruction:
    """The instruction a logical line holds.

    Raises:
        DockerfileError: With the line and Docker's words for what is wrong.
    """
    known = _INSTRUCTIONS.get(node.keyword)
    if known is None:
        raise at_line(node.line, f"unknown instruction: {node.keyword}")
    flags, make = known
    try:
        words, text = cut_flags(node.rest)
        return make(_Line(node.keyword, text, parse_flags(words, flags), node, escape))
    except SyntaxProblem as error:
        raise at_line(node.line, str(error)) from error


def _from(line: _Line) -> Instruction:
    words = line.text.split()
    name = ""
    if len(words) == 3 and words[1].lower() == "as":
        name = words[2].lower()
        if not _STAGE_NAME.match(name):
            raise SyntaxProblem(
                f'invalid name for build stage: "{words[2]}", name can\'t start with a number or contain symbols'
            )
    elif len(words) != 1:
        raise SyntaxProblem("FROM requires either one or three arguments")
    return From(base=words[0], name=name, platform=line.flags.text("platform"), **line.place)


def _arg(line: _Line) -> Instruction:
    words = raw_words(line.text, escape=line.escape)
    if not words:
        raise SyntaxProblem("ARG requires at least one argument")
    arguments: list[tuple[str, str | None]] = []
    for word in words:
        name, equals, value = word.partition("=")
        if not name:
            raise SyntaxProblem("ARG names can not be blank")
        arguments.append((name, value if equals else None))
    return Arg(arguments=tuple(arguments), **line.place)


def _env(line: _Line) -> Instruction:
    return Env(pairs=tuple(name_values("ENV", line.text, escape=line.escape)), **line.place)


def _label(line: _Line) -> Instruction:
    pairs = name_values("LABEL", line.text, escape=line.escape)
    return Label(pairs=tuple(pairs), **line.place)


def _copy(line: _Line) -> Instruction:
    words = array_or_words(line.text)
    if len(words) < 2:
        raise SyntaxProblem(
            f"{line.keyword} requires at least two arguments, but only one was provided. "
            "Destination could not be determined"
        )
    docs = iter(line.node.heredocs)
    heredocs = {word: doc for word in words if as_heredoc(word) and (doc := next(docs, None))}
    if words[-1] in heredocs:
        raise SyntaxProblem(f"{line.keyword} cannot accept a heredoc as a destination")
    flags = line.flags
    return Copy(
        sources=tuple(words[:-1]),
        destination=words[-1],
        heredocs=heredocs,
        origin=flags.text("from"),
        chown=flags.text("chown"),
        chmod=flags.text("chmod"),
        parents=flags.switch("parents"),
        exclude=flags.values("exclude"),
        link=flags.switch("link"),
        checksum=flags.text("checksum"),
        keep_git_dir=flags.switch("keep-git-dir"),
        unpack=flags.switches.get("unpack"),
        **line.place,
    )


def _run(line: _Line) -> Instruction:
    array = json_array(line.text)
    if array is not None and line.node.heredocs:
        raise SyntaxProblem("RUN in exec form cannot have a heredoc")
    network = line.flags.text("network")
    if network not in ("", "default", "none", "host"):
        raise SyntaxProblem(f'invalid network mode "{network}" in RUN: use default, none or host')
    security = line.flags.text("security")
    if security not in ("", "sandbox", "insecure"):
        raise SyntaxProblem(f'security "{security}" is not valid')
    return Run(
        words=tuple(array) if array is not None else (line.text,) if line.text else (),
        shell=array is None,
        heredocs=line.node.heredocs,
        mounts=line.flags.values("mount"),
        network=network,
        security="" if security == "sandbox" else security,
        **line.place,
    )


def _command(line: _Line) -> Instruction:
    array = json_array(line.text)
    if array is None:
        return Command(words=(line.text,) if line.text else (), **line.place)
    return Command(words=tuple(array), shell=False, **line.place)


def _health(line: _Line) -> Instruction:
    return Health(check=parse_healthcheck(line.text, line.flags), **line.place)


def _expose(line: _Line) -> Instruction:
    if not line.text:
        raise SyntaxProblem("EXPOSE requires at least one argument")
    return Words(words=tuple(line.text.split()), **line.place)


def _volume(line: _Line) -> Instruction:
    words = array_or_words(line.text)
    if not words:
        raise SyntaxProblem("VOLUME requires at least one argument")
    if not all(word.strip() for word in words):
        raise SyntaxProblem("VOLUME specified can not be an empty string")
    return Words(words=tuple(words), **line.place)


def _shell(line: _Line) -> Instruction:
    array = json_array(line.text)
    if not line.text or array == []:
        raise SyntaxProblem("SHELL requires at least one argument")
    if array is None:
        raise SyntaxProblem("SHELL requires the arguments to be in JSON form")
    return Words(words=tuple(array), **line.place)


def _text(line: _Line) -> Instruction:
    if not line.text:
        raise SyntaxProblem(f"{line.keyword} requires exactly one argument")
    return Text(text=line.text, **line.place)


def _onbuild(line: _Line) -> Instruction:
    if not line.text:
        raise SyntaxProblem("ONBUILD requires at least one argument")
    trigger = line.text.split()[0].upper()
    if trigger == "ONBUILD":
        raise SyntaxProblem("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("MAINTAINER", "FROM"):
        raise SyntaxProblem(f"{trigger} isn't allowed as an ONBUILD trigger")
    # What is stored is parsed again in another build, so its here-documents go along.
    inner = line.node.full_source()[len(line.node.source) - len(line.text) :]
    return Text(text=inner, **line.place)


_COPY_FLAGS = {
    "from": "text",
    "chown": "text",
    "chmod": "text",
    "parents": "switch",
    "exclude": "list",
    "link": "switch",
}
_ADD_FLAGS = {
    "chown": "text",
    "chmod": "text",
    "exclude": "list",
    "link": "switch",
    "checksum": "text",
    "keep-git-dir": "switch",
    "unpack": "switch",
}
_HEALTH_FLAGS = dict.fromkeys(("interval", "timeout", "start-period", "start-interval", "retries"), "text")

_INSTRUCTIONS: dict[str, tuple[dict[str, str], Callable[[_Line], Instruction]]] = {
    "FROM": ({"platform": "text"}, _from),
    "ARG": ({}, _arg),
    "ENV": ({}, _env),
    "LABEL": ({}, _label),
    "COPY": (_COPY_FLAGS, _copy),
    "ADD": (_ADD_FLAGS, _copy),
    "RUN": ({"mount": "list", "network": "text", "security": "text"}, _run),
    "CMD": ({}, _command),
    "ENTRYPOINT": ({}, _command),
    "HEALTHCHECK": (_HEALTH_FLAGS, _health),
    "EXPOSE": ({}, _expose),
    "VOLUME": ({}, _volume),
    "SHELL": ({}, _shell),
    "USER": ({}, _text),
    "WORKDIR": ({}, _text),
    "STOPSIGNAL": ({}, _text),
    "MAINTAINER": ({}, _text),
    "ONBUILD": ({}, _onbuild),
}
