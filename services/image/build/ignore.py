"""Which files of a context a list of patterns leaves out: ``.dockerignore`` and ``--exclude``.

A pattern is matched against a path and each of its parents; the last pattern that says something wins. ``!`` brings
back; ``**`` is any number of directories; ``*``, ``?`` and ``[a-z]`` stay within one name.

Source: Dockerfile reference, ".dockerignore files"; the matching rules are those of the library that Docker's own
client uses (patternmatcher), because client and engine must agree on what was sent.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass

from shared.errors import InvalidArgument

_REGEX_ONLY = frozenset(".+()|{}$")


def read_ignore_file(text: str) -> list[str]:
    """The patterns of a ``.dockerignore`` file, normalised: comments gone, paths relative to the context."""
    patterns = []
    for line in text.removeprefix("\ufeff").splitlines():
        if line.startswith("#"):
            continue
        pattern = line.strip()
        inverted = pattern.startswith("!")
        if inverted:
            pattern = pattern[1:].strip()
        elif not pattern:
            continue
        if pattern:
            pattern = posixpath.normpath(pattern)
            pattern = "/" + pattern.lstrip("/") if pattern.startswith("/") else pattern
            if len(pattern) > 1 and pattern.startswith("/"):
                pattern = pattern[1:]
        patterns.append("!" + pattern if inverted else pattern)
    return patterns


@dataclass(frozen=True, slots=True)
class _Pattern:
    regex: re.Pattern[str]
    brings_back: bool


class IgnoreRules:
    """An ordered list of patterns.

    Raises:
        InvalidArgument: A pattern that cannot be one.
    """

    def __init__(self, patterns: list[str]) -> None:
        self._patterns = [_compile(pattern) for pattern in patterns if pattern.strip()]

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def excludes(self, path: str) -> bool:
        """Whether a path (relative, with slashes) is left out, by itself or with a directory it is in."""
        parts = path.split("/")
        prefixes = ["/".join(parts[: end + 1]) for end in range(len(parts))]
        out = False
        for pattern in self._patterns:
            # Only a pattern that would change the outcome is worth a look.
            if pattern.brings_back == out and any(map(pattern.regex.match, reversed(prefixes))):
                out = not pattern.brings_back
        return out


def _compile(text: str) -> _Pattern:
    pattern = posixpath.normpath(text.strip())
    brings_back = pattern.startswith("!")
    if brings_back:
        pattern = pattern[1:]
        if not pattern:
            raise InvalidArgument('illegal exclusion pattern: "!"', field=".dockerignore")
    try:
        return _Pattern(re.compile(_to_regex(pattern), re.DOTALL), brings_back)
    except re.error as error:
        raise InvalidArgument(
            f"error checking context: syntax error in pattern {text!r}", field=".dockerignore"
        ) from error


def _to_regex(pattern: str) -> str:
    out: list[str] = []
    at = 0
    in_class = False
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if in_class:
            in_class = char != "]"
            out.append("\\[" if char == "[" else char)
        elif char == "*" and pattern.startswith("*", at):
            at += 1
            if pattern.startswith("/", at):  # "**/" also matches no directory at all
                at += 1
            out.append(".*" if at == len(pattern) else "(.*/)?")
        elif char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "\\":
            out.append(re.escape(pattern[at : at + 1]) or r"\\")
            at += 1
        else:
            in_class = char == "["
            out.append("\\" + char if char in _REGEX_ONLY else char)
    return "".join(out) + r"\Z"


def has_wildcards(path: str) -> bool:
    """Whether a COPY source is a pattern: a backslash takes the meaning of what follows away."""
    return bool(re.search(r"(?<!\\)(?:\\\\)*[*?\[]", path))


def name_matcher(pattern: str) -> re.Pattern[str]:
    """A matcher for whole names with the wildcards of one path component. Raises InvalidArgument for a broken one."""
    try:
        return re.compile(_to_regex(re.sub(r"\*+", "*", pattern)), re.DOTALL)
    except re.error as error:
        raise InvalidArgument(f"syntax error in pattern {pattern!r}", field="COPY") from error
