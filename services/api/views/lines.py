"""The list of containers as bytes, of which only the STATUS column changes with the time."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import orjson

from services.api.views import containers as views
from shared.docker.status import FOR_EVER_NS, status_text, status_until

if TYPE_CHECKING:
    from services.api.versions import Version
    from shared.contracts.containers import ContainerSummary

_PLACE = "\x00status\x00"
_PLACE_JSON = orjson.dumps(_PLACE)


class Line(NamedTuple):
    """A container: its JSON before and after the text, and what the text is made from."""

    head: bytes
    tail: bytes
    status: str
    code: str

    @classmethod
    def of(cls, summary: ContainerSummary, version: Version) -> Line:
        """Args: summary: With its status still coded."""
        shown = views.summary(summary, version)
        shown["Status"] = _PLACE
        # The last one: labels come before, and could hold anything.
        before, separator, after = orjson.dumps(shown).rpartition(_PLACE_JSON)
        assert separator
        return cls(before, after, summary.status, summary.status_text)


class Lines:
    """A list, written out anew when a text in it changes."""

    def __init__(self, lines: list[Line]) -> None:
        self._lines = lines
        self._content = b""
        self._from_ns = self._until_ns = 0
        self._size = sum(len(line.head) + len(line.tail) + 64 for line in lines)

    def size(self) -> int:
        return 2 * self._size

    def at(self, now_ns: int) -> bytes:
        if not self._from_ns <= now_ns < self._until_ns:
            parts = [
                b"%b%b%b" % (line.head, orjson.dumps(status_text(line.status, line.code, now_ns)), line.tail)
                for line in self._lines
            ]
            self._content = b"[%b]\n" % b",".join(parts)
            self._from_ns = now_ns
            self._until_ns = min(
                (status_until(line.status, line.code, now_ns) for line in self._lines), default=FOR_EVER_NS
            )
        return self._content
