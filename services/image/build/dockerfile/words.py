"""The ways in which instructions write their arguments: flags, plain words, JSON arrays, name=value pairs.

Source: Dockerfile reference, "Shell and exec form", and the classic builder's behaviour for malformed input.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from services.image.build.dockerfile.errors import SyntaxProblem
from shared.docker.words import parse_bool
from shared.errors import InvalidArgument


@dataclass(slots=True)
class Flags:
    """The `--name=value` words before an instruction's arguments, checked against what the instruction knows."""

    texts: dict[str, str] = field(default_factory=dict)
    lists: dict[str, tuple[str, ...]] = field(default_factory=dict)
    switches: dict[str, bool] = field(default_factory=dict)

    def text(self, name: str) -> str:
        return self.texts.get(name, "")

    def values(self, name: str) -> tuple[str, ...]:
        return self.lists.get(name, ())

    def switch(self, name: str) -> bool:
        return self.switches.get(name, False)


def parse_flags(words: list[str], known: Mapping[str, str]) -> Flags:
    """Sort flag words by name.

    Args:
        known: Flag name to its kind: ``text``, ``list`` (may be repeated) or ``switch``.
    """
    flags = Flags()
    for word in words:
        name, has_value, value = word.removeprefix("--").partition("=")
        kind = known.get(name)
        if kind is None:
            raise SyntaxProblem(f"Unknown flag: {name}")
        if kind != "list" and (name in flags.texts or name in flags.switches):
            raise SyntaxProblem(f"Duplicate flag specified: {name}")
        if kind == "switch":
            flags.switches[name] = _boolean(name, value)
            continue
        if not has_value:
            raise SyntaxProblem(f"Missing a value on flag: {name}")
        if kind == "list":
            flags.lists[name] = (*flags.lists.get(name, ()), value)
        else:
            flags.texts[name] = value
    return flags


def _boolean(name: str, value: str) -> bool:
    try:
        return value == "" or parse_bool(value)
    except InvalidArgument as error:
        raise SyntaxProblem(f"Expecting boolean value for flag {name}, not: {value}") from error


def cut_flags(text: str) -> tuple[list[str], str]:
    """The flag words at the start of a text, unquoted, and the rest of the text. A bare ``--`` ends the flags."""
    words: list[str] = []
    at = 0
    while True:
        at += len(text[at:]) - len(text[at:].lstrip())
        if not text.startswith("--", at):
            return words, text[at:]
        word, at = _flag_word(text, at)
        if word == "--":
            return words, text[at:].lstrip()
        words.append(word)


def _flag_word(text: str, at: int) -> tuple[str, int]:
    out: list[str] = []
    quote = ""
    while at < len(text):
        char = text[at]
        if quote and char == quote:
            quote = ""
        elif not quote and char.isspace():
            break
        elif not quote and char in "'\"":
            quote = char
        elif char == "\\":
            at += 1
            out.append(text[at : at + 1])
        else:
            out.append(char)
        at += 1
    return "".join(out), at


def json_array(text: str) -> list[str] | None:
    """The strings of a JSON array; None when the text is no JSON array, which makes it a plain text.

    Raises:
        SyntaxProblem: It is an array, and not of strings only.
    """
    if not text.startswith("["):
        return None
    try:
        value = json.loads(text, strict=False)
    except ValueError:
        return None
    if not all(isinstance(item, str) for item in value):
        raise SyntaxProblem("when using JSON array syntax, arrays must be comprised of strings only")
    return list(value)


def array_or_words(text: str) -> list[str]:
    """The strings of a JSON array, or else the words between white space."""
    array = json_array(text)
    return text.split() if array is None else array


def raw_words(text: str, *, escape: str) -> list[str]:
    """Words between white space; quotes and escapes hold a word together and stay in it, to be expanded later."""
    words: list[str] = []
    word, quote, at = "", "", 0
    while at < len(text):
        char = text[at]
        if char == escape:
            word += text[at : at + 2]
            at += 2
            continue
        if not quote and char.isspace():
            if word:
                words.append(word)
            word = ""
        else:
            if char in "'\"" and quote in ("", char):
                quote = "" if quote else char
            word += char
        at += 1
    return [*words, word] if word else words


def name_values(keyword: str, text: str, *, escape: str) -> list[tuple[str, str]]:
    """Pairs of ``name=value …``, or of the old form ``name value``, where the value is the rest of the line."""
    words = raw_words(text, escape=escape)
    if not words:
        raise SyntaxProblem(f"{keyword} requires at least one argument")
    if "=" not in words[0]:
        parts = re.split(r"\s+", text, maxsplit=1)
        if len(parts) < 2:
            raise SyntaxProblem(f"{keyword} must have two arguments")
        return [(parts[0], parts[1])]
    return [_pair(keyword, word) for word in words]


def _pair(keyword: str, word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals:
        raise SyntaxProblem(f'Syntax error - can\'t find = in "{word}". Must be of the form: name=value')
    if not name:
        raise SyntaxProblem(f"{keyword} names can not be blank")
    return name, value
