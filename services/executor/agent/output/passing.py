"""Log lines on their way to a client, many at once: what is passed on as it is is neither decoded nor encoded.

Source: Docker's json-file driver, as `services.executor.runtime.shim.logfile` writes it.
"""

from __future__ import annotations

import re

import orjson

from shared.docker.frames import NUMBERS, header
from shared.docker.moments import rfc3339, with_nine_digits

# A string as JSON has it: nothing but what is written as itself, and escapes. Unrolled, so that each byte is seen once.
_STRING = rb'((?:[^"\\\x00-\x1f]*(?:\\["\\/bfnrtu][^"\\\x00-\x1f]*)*))'
_TIME = rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?Z)"
_LINE = re.compile(rb'\{"log":"' + _STRING + rb'","stream":"(stdout|stderr)","time":"' + _TIME + rb'"\}\n')
_BESIDE = len(b'{"log":"","stream":"stdout","time":""}\n')
# Times with nine digits behind the second compare as their texts do.
_COMPARABLE = len("2026-01-01T00:00:00.000000000Z")
_NUMBERS = {name.encode(): number for name, number in NUMBERS.items()}


class Headers(dict[tuple[bytes, int], bytes]):
    """Frame headers by stream and length, made when first needed: there are at most some 16,000 of each stream."""

    def __missing__(self, key: tuple[bytes, int]) -> bytes:
        made = header(_NUMBERS[key[0]], key[1])
        if len(self) < 1 << 15:
            self[key] = made
        return made


class Passing:
    """Turns complete log lines into what a client reads.

    Args:
        streams: The names of those that it wants.
        tty: Raw text instead of frames.
        timestamps: Each text begins with its time.
        first_ns, last_ns: Only lines of this time; nanoseconds since the epoch, 0 is no bound.

    Attributes:
        last_time: Of the last line that was seen, RFC 3339; empty before the first.
    """

    def __init__(
        self, streams: frozenset[bytes], *, tty: bool, timestamps: bool, first_ns: int = 0, last_ns: int = 0
    ) -> None:
        self._streams = streams
        self._bounded = first_ns > 0 or last_ns > 0
        self._all = len(streams) == 2 and not self._bounded
        self._first = with_nine_digits(rfc3339(first_ns)).encode()
        self._last = with_nine_digits(rfc3339(last_ns)).encode() if last_ns else b"\xff"
        self._tty = tty
        self._timestamps = timestamps
        self._headers = Headers()
        self.last_time = ""

    def on(self, lines: bytes) -> bytes | None:
        """The client's bytes; None when a line is not in the common form, and each has to be looked at by itself."""
        found = _LINE.findall(lines)
        if sum(map(_length, found)) + _BESIDE * len(found) != len(lines):
            return None
        if not lines.isascii() and not _is_utf8(lines):
            return None
        if not found:
            return b""
        try:
            parts = self._parts(found)
        except orjson.JSONDecodeError:
            return None
        self.last_time = found[-1][2].decode()
        return b"".join(parts)

    def _parts(self, found: list[tuple[bytes, bytes, bytes]]) -> list[bytes]:
        headers = self._headers
        if self._all and not self._timestamps and not self._tty:
            parts = []
            for text, stream, _ in found:
                plain = _plain(text)
                parts.append(headers[stream, len(plain)])
                parts.append(plain)
            return parts
        texts = [
            (stream, (_nine_digits(time) + b" " if self._timestamps else b"") + _plain(text))
            for text, stream, time in found
            if stream in self._streams and (not self._bounded or self._first <= _nine_digits(time) <= self._last)
        ]
        if self._tty:
            return [text for _, text in texts]
        return [part for stream, text in texts for part in (headers[stream, len(text)], text)]


def _length(line: tuple[bytes, bytes, bytes]) -> int:
    return len(line[0]) + len(line[2])


def _plain(text: bytes) -> bytes:
    """What a JSON string says. Most are without any escape but the newline that ends them."""
    if text.endswith(b"\\n"):
        line = text[:-2]
        if b"\\" not in line:
            return line + b"\n"
    elif b"\\" not in text:
        return text
    said: str = orjson.loads(b'"%b"' % text)
    return said.encode(errors="surrogatepass")


def _nine_digits(time: bytes) -> bytes:
    return time if len(time) == _COMPARABLE else with_nine_digits(time.decode()).encode()


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
