"""Variables, quotes and escapes in the words of a Dockerfile.

::

    $x ${x}                 the value, or nothing
    ${x-w} ${x:-w}          w when unset (with a colon: or empty)
    ${x+w} ${x:+w}          w when set (with a colon: and not empty)
    ${x?w} ${x:?w}          the error w when unset (with a colon: or empty)
    ${x#p} ${x##p}          without the shortest (longest) prefix that matches p
    ${x%p} ${x%%p}          without the shortest (longest) suffix that matches p
    ${x/p/w} ${x//p/w}      with the first match (all matches) of p replaced

Single quotes keep everything, double quotes keep all but variables and escapes. Words come apart at white space
that is outside quotes, also when it came out of a variable.

Source: Dockerfile reference, "Environment replacement"; POSIX shell, 2.6.2 Parameter Expansion.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from services.image.build.dockerfile.errors import SyntaxProblem

SPECIAL_PARAMETERS = frozenset("@*#?-$!0")


def expand_word(word: str, env: Mapping[str, str], *, escape: str = "\\") -> str:
    """One word with variables replaced and quotes removed; white space in it stays.

    Raises:
        SyntaxProblem: An unfinished quote or substitution, or a `${x:?text}` that applies.
    """
    return _run(word, env, escape)[0]


def expand_words(text: str, env: Mapping[str, str], *, escape: str = "\\") -> list[str]:
    """The words of a text, split after replacement. Raises SyntaxProblem as `expand_word` does."""
    return _run(text, env, escape)[1]


def expand_text(text: str, env: Mapping[str, str], *, escape: str = "\\") -> str:
    """A here-document with variables replaced: quotes are part of the text, only ``$`` and the escape are escaped."""
    return _Expansion(text, env, escape, quotes=False).whole()[0]


def split_raw(text: str, *, escape: str = "\\") -> list[str]:
    """The words of a text with quotes, escapes and variables left as written."""
    return _Expansion(text, {}, escape, raw=True, keep_unset=True).whole()[1]


def unquote_raw(text: str, *, escape: str = "\\") -> list[str]:
    """The words of a text with quotes and escapes removed and variables left as written."""
    return _Expansion(text, {}, escape, keep_unset=True).whole()[1]


def _run(text: str, env: Mapping[str, str], escape: str) -> tuple[str, list[str]]:
    try:
        return _Expansion(text, env, escape).whole()
    except SyntaxProblem as error:
        quoted = text.replace("\\", "\\\\").replace('"', '\\"')
        raise SyntaxProblem(f'failed to process "{quoted}": {error}') from error


class _Words:
    """Gathers words: plain characters split at white space, raw ones never do."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self._word = ""
        self._open = False

    def plain(self, text: str) -> None:
        for char in text:
            if char.isspace():
                self.end()
            else:
                self.raw(char)

    def raw(self, text: str) -> None:
        self._word += text
        self._open = True

    def end(self) -> None:
        if self._open:
            self.words.append(self._word)
        self._word, self._open = "", False


class _Expansion:
    """A scan over one text. `raw` keeps quotes and escapes; `keep_unset` writes unset variables back as they were."""

    def __init__(
        self,
        text: str,
        env: Mapping[str, str],
        escape: str,
        *,
        raw: bool = False,
        keep_unset: bool = False,
        quotes: bool = True,
    ) -> None:
        self._text = text
        self._at = 0
        self._env = env
        self._escape = escape
        self._raw = raw
        self._keep_unset = keep_unset
        self._quotes = quotes

    def whole(self) -> tuple[str, list[str]]:
        words = _Words()
        text = self._until("", words=words)
        words.end()
        return text, words.words

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _next(self) -> str:
        char = self._peek()
        self._at += 1
        return char

    def _until(self, stop: str, *, words: _Words | None = None, raw_escapes: bool = False) -> str:
        """Expand up to an unquoted `stop` character, which is consumed; to the end when `stop` is empty."""
        words = words or _Words()
        out: list[str] = []
        while char := self._peek():
            if stop and char == stop:
                self._at += 1
                return "".join(out)
            if char == "'" and self._quotes:
                piece = self._single_quoted()
                words.raw(piece)
            elif char == '"' and self._quotes:
                piece = self._double_quoted()
                words.raw(piece)
            elif char == "$":
                piece = self._dollar()
                words.plain(piece)
            else:
                piece = self._character(words, raw_escapes or self._raw)
            out.append(piece)
        if stop:
            raise SyntaxProblem(f"unexpected end of statement while looking for matching {stop}")
        return "".join(out)

    def _character(self, words: _Words, raw_escapes: bool) -> str:
        char = self._next()
        if char != self._escape:
            words.plain(char)
            return char
        escaped = self._next()
        kept = raw_escapes or (not self._quotes and escaped not in ("$", self._escape))
        piece = (char if kept else "") + escaped
        if piece:  # an escape at the very end escapes nothing
            words.raw(piece)
        return piece

    def _single_quoted(self) -> str:
        start = self._at
        end = self._text.find("'", start + 1)
        if end < 0:
            self._at = len(self._text)
            raise SyntaxProblem("unexpected end of statement while looking for matching single-quote")
        self._at = end + 1
        return self._text[start : end + 1] if self._raw else self._text[start + 1 : end]

    def _double_quoted(self) -> str:
        quote = self._next() if self._raw else ""
        self._at += 0 if self._raw else 1
        out = [quote]
        while char := self._peek():
            if char == '"':
                self._at += 1
                return "".join([*out, quote])
            if char == "$":
                out.append(self._dollar())
                continue
            self._at += 1
            if char == self._escape:
                # Between double quotes only these can be escaped; any other escape character stands for itself.
                if self._peek() in ('"', "$", self._escape):
                    out.append(char if self._raw else "")
                    char = self._next()
                elif not self._peek():
                    break
            out.append(char)
        raise SyntaxProblem("unexpected end of statement while looking for matching double-quote")

    def _dollar(self) -> str:
        self._at += 1
        if self._peek() != "{":
            name = self._name()
            if not name:
                return "$"
            if name not in self._env and self._keep_unset:
                return "$" + name
            return self._env.get(name, "")
        start = self._at - 1
        self._at += 1
        if not self._peek():
            raise SyntaxProblem("syntax error: missing '}'")
        if self._peek() in "{}:":
            raise SyntaxProblem("syntax error: bad substitution")
        value = self._braced(self._name())
        return self._text[start : self._at] if value is None else value

    def _name(self) -> str:
        found = re.compile(r"\d+|[^\W\d]\w*").match(self._text, self._at)
        if found:
            self._at = found.end()
            return found.group()
        return self._next() if self._peek() and self._peek() in SPECIAL_PARAMETERS else ""

    def _braced(self, name: str) -> str | None:
        """What `${name…}` stands for; None to leave it as written."""
        operator = self._next()
        value = self._env.get(name)
        kept = value is None and self._keep_unset
        if operator == "}":
            return None if kept else value or ""
        if operator == "/":
            result = self._replace(value or "")
            return None if kept else result
        null_is_unset = operator == ":"
        if null_is_unset:
            operator = self._next()
        if not operator:
            raise SyntaxProblem("syntax error: missing '}'")
        if operator not in "+-?#%" or (null_is_unset and operator in "#%"):
            raise SyntaxProblem(f"unsupported modifier ({':' if null_is_unset else ''}{operator}) in substitution")
        word = self._operand("}", raw_escapes=operator in "#%")
        return None if kept else _apply(name, value, operator, word, null_is_unset=null_is_unset)

    def _operand(self, stop: str, *, raw_escapes: bool) -> str:
        try:
            return self._until(stop, raw_escapes=raw_escapes)
        except SyntaxProblem as error:
            if not self._peek():
                raise SyntaxProblem("syntax error: missing '}'") from error
            raise

    def _replace(self, value: str) -> str:
        everywhere = self._peek() == "/"
        if everywhere:
            self._at += 1
        pattern = self._operand("/", raw_escapes=True)
        replacement = self._operand("}", raw_escapes=False)
        compiled = re.compile(_glob_to_regex(pattern), re.DOTALL)
        return compiled.sub(lambda _: replacement, value, count=0 if everywhere else 1)


def _apply(name: str, value: str | None, operator: str, word: str, *, null_is_unset: bool) -> str:
    missing = value is None or (null_is_unset and value == "")
    if operator == "?" and missing:
        raise SyntaxProblem(f"{name}: {word or 'is not allowed to be ' + ('unset' if value is None else 'empty')}")
    value = value or ""
    if operator == "-":
        return word if missing else value
    if operator == "+":
        return "" if missing else word
    if operator == "?":
        return value
    greedy = word.startswith(operator)
    return _strip(value, word[1:] if greedy else word, prefix=operator == "#", greedy=greedy)


def _strip(value: str, pattern: str, *, prefix: bool, greedy: bool) -> str:
    regex = re.compile(_glob_to_regex(pattern), re.DOTALL)
    cuts = range(len(value) + 1)
    order = reversed(cuts) if prefix == greedy else cuts
    for cut in order:
        head, tail = value[:cut], value[cut:]
        if regex.fullmatch(head if prefix else tail):
            return tail if prefix else head
    return value


def _glob_to_regex(pattern: str) -> str:
    """`*` and `?` as the shell has them; a backslash takes the meaning away; everything else is itself."""
    out: list[str] = []
    chars = iter(pattern)
    for char in chars:
        if char == "*":
            out.append(".*")
        elif char == "?":
            out.append(".")
        elif char == "\\":
            escaped = next(chars, None)
            if escaped is None:
                raise SyntaxProblem("invalid escape '\\' at the end of a pattern")
            out.append(re.escape(escaped))
        else:
            out.append(re.escape(char))
    return "".join(out)
