"""From text to logical lines: directives, comments, continuations and here-documents.

::

    # escape=`            directives: only before anything else, each once
    RUN echo a `          continued; comments and empty lines in between are dropped
    # a comment
      b <<EOF             one logical line "RUN echo a   b <<EOF" …
    text                  … and its here-document
    EOF

Source: Dockerfile reference, "Format", "Parser directives", "Here-documents".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from services.image.build.dockerfile.errors import DockerfileError, SyntaxProblem, at_line
from services.image.build.dockerfile.expand import split_raw, unquote_raw

KNOWN_DIRECTIVES = ("syntax", "escape", "check")
HEREDOC_INSTRUCTIONS = frozenset({"ADD", "COPY", "RUN"})
MAX_LINE_BYTES = 64 * 1024

_DIRECTIVE = re.compile(r"^#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.+?)\s*$")
_HEREDOC = re.compile(r"^(\d*)<<(-?)([^<]*)$")


@dataclass(frozen=True, slots=True)
class Heredoc:
    """A here-document: `name` ends it, `expand` when its name was not quoted, `chomp` for `<<-`."""

    name: str
    content: str = ""
    expand: bool = True
    chomp: bool = False
    descriptor: str = ""

    def text(self) -> str:
        """The content, leading tabs removed where `<<-` asked for it."""
        return re.sub(r"(?m)^\t+", "", self.content) if self.chomp else self.content


@dataclass(frozen=True, slots=True)
class Node:
    """One logical line.

    Attributes:
        keyword: Upper case.
        rest: What follows the keyword, continuations joined, surrounding white space removed.
        source: The whole logical line as written, for progress output.
        line: Where it starts, counted from 1.
    """

    keyword: str
    rest: str
    source: str
    line: int
    end_line: int
    heredocs: tuple[Heredoc, ...] = ()

    def full_source(self) -> str:
        """The line with its here-documents, so that it can be parsed again."""
        return self.source + "".join(f"\n{doc.content}{doc.name}" for doc in self.heredocs)


@dataclass(frozen=True, slots=True)
class Lines:
    """A file as logical lines. warnings: texts for the user."""

    nodes: tuple[Node, ...]
    escape: str
    directives: dict[str, str]
    warnings: tuple[str, ...] = ()


def read_lines(text: str) -> Lines:
    """Split a Dockerfile into logical lines.

    Raises:
        DockerfileError: A wrong directive, an unfinished here-document, a file without instructions.
    """
    reader = _Reader(text)
    nodes = tuple(reader.nodes())
    if not nodes:
        raise DockerfileError("failed to parse Dockerfile: file with no instructions")
    warnings = tuple(reader.warnings)
    if warnings:
        warnings += ("[WARNING]: Empty continuation lines will become errors in a future release.",)
    return Lines(nodes, reader.escape, reader.directives, warnings)


class _Reader:
    def __init__(self, text: str) -> None:
        # Universal newlines: a file written on Windows builds the same image.
        self._lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
        if self._lines[-1] == "":
            self._lines.pop()
        self._at = 0
        self.warnings: list[str] = []
        self.directives, body = _read_directives(self._lines)
        self.escape = self.directives.get("escape", "\\")
        self._at = body
        escape = re.escape(self.escape)
        self._continued = re.compile(rf"(^|[^{escape}]){escape}[ \t]*$")

    def nodes(self) -> list[Node]:
        found = []
        while self._at < len(self._lines):
            start = self._at + 1
            line = self._logical_line()
            if line:
                found.append(self._with_heredocs(_node(line, start, self._at)))
        return found

    def _logical_line(self) -> str:
        """The next logical line; empty for comments and blank lines."""
        line, ended = self._cut(self._take().lstrip())
        if line.startswith("#") or (ended and not line.strip()):
            return ""
        gap = False
        while not ended and self._at < len(self._lines):
            raw = self._take()
            if raw.lstrip().startswith("#"):
                continue
            if not raw.strip():
                gap = True
                continue
            more, ended = self._cut(raw)
            line += more
        if gap:
            self.warnings.append(f"[WARNING]: Empty continuation line found in:\n    {line.rstrip()}")
        return line.strip()

    def _take(self) -> str:
        line = self._lines[self._at]
        self._at += 1
        if len(line) > MAX_LINE_BYTES:
            raise DockerfileError(
                f"dockerfile line greater than maximum allowed size of {MAX_LINE_BYTES - 1}", line=self._at
            )
        return line

    def _cut(self, line: str) -> tuple[str, bool]:
        """A physical line without its continuation character, and whether it ends the logical line."""
        if line.lstrip().startswith("#"):
            return line.lstrip(), True
        if self._continued.search(line):
            return self._continued.sub(r"\1", line), False
        return line, True

    def _with_heredocs(self, node: Node) -> Node:
        if not _may_have_heredocs(node):
            return node
        docs = []
        for doc in heredocs_in(node.rest):
            content: list[str] = []
            while True:
                if self._at >= len(self._lines):
                    raise at_line(node.line, "unterminated heredoc")
                line = self._lines[self._at]
                self._at += 1
                if (line.lstrip("\t") if doc.chomp else line) == doc.name:
                    break
                content.append(line + "\n")
            docs.append(replace(doc, content="".join(content)))
        return replace(node, heredocs=tuple(docs), end_line=self._at)


def _read_directives(lines: list[str]) -> tuple[dict[str, str], int]:
    """The directives at the top, and the index of the first line after them."""
    found: dict[str, str] = {}
    for index, line in enumerate(lines):
        match = _DIRECTIVE.match(line.strip())
        name = match.group(1).lower() if match else ""
        if not match or name not in KNOWN_DIRECTIVES:
            return found, index
        if name in found:
            raise DockerfileError(
                f"failed to parse Dockerfile: only one {name} parser directive can be used", line=index + 1
            )
        value = match.group(2)
        if name == "escape" and value not in ("\\", "`"):
            raise DockerfileError(
                f"failed to parse Dockerfile: invalid escape token '{value}' does not match ` or \\", line=index + 1
            )
        found[name] = value
    return found, len(lines)


def _node(line: str, start: int, end: int) -> Node:
    keyword, *rest = re.split(r"\s+", line, maxsplit=1)
    return Node(keyword.upper(), rest[0].strip() if rest else "", line, start, end)


def _may_have_heredocs(node: Node) -> bool:
    keyword, rest = node.keyword, node.rest
    if keyword == "ONBUILD":
        inner = _node(rest, 0, 0)
        keyword, rest = inner.keyword, inner.rest
    return keyword in HEREDOC_INSTRUCTIONS and "<<" in rest and not rest.startswith("[")


def heredocs_in(text: str) -> list[Heredoc]:
    """The here-documents that a line announces, still without content."""
    try:
        words = split_raw(text)
    except SyntaxProblem:
        return []  # an odd quote belongs to the shell that will run the line
    return [doc for word in words if (doc := as_heredoc(word))]


def as_heredoc(word: str) -> Heredoc | None:
    """What a word like ``<<EOF``, ``3<<-"EOF"`` announces; None for any other word."""
    match = _HEREDOC.match(word)
    if not match or not match.group(3):
        return None
    try:
        plain, raw = unquote_raw(match.group(3)), split_raw(match.group(3))
    except SyntaxProblem:
        return None
    if len(plain) != 1 or len(raw) != 1:
        return None
    return Heredoc(plain[0], expand=plain == raw, chomp=match.group(2) == "-", descriptor=match.group(1))
