"""Where a reader of events is, as a text that it hands back to go on there.

Services number their events each for itself; a reader has seen each of them up to a number::

    1764465610123456789@control:120,image:7        and a time, which the search begins a while before
"""

from __future__ import annotations

import re

from shared.errors import InvalidArgument
from shared.events.record import DomainEvent

_FORM = re.compile(r"([0-9]{1,19})@((?:[a-z]+:[0-9]{1,18})(?:,[a-z]+:[0-9]{1,18})*)")
# An event is recorded a moment after its time, and may wait longer while a disk is full.
MARGIN_NS = 3600 * 10**9


class Cursor:
    """Attributes: since_ns: where to begin to look; at least 1."""

    def __init__(self, since_ns: int = 1, seen: dict[str, int] | None = None) -> None:
        self.since_ns = max(since_ns, 1)
        self._time_ns = 0
        self._seen = seen or {}

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """``0`` is the oldest event that is kept. Raises InvalidArgument."""
        if text == "0":
            return cls()
        found = _FORM.fullmatch(text)
        if found is None:
            raise InvalidArgument(f"invalid value for from: {text!r} is no place that an event has named", field="from")
        pairs = (pair.split(":") for pair in found[2].split(","))
        return cls(int(found[1]) - MARGIN_NS, {service: int(number) for service, number in pairs})

    def is_new(self, event: DomainEvent) -> bool:
        """Whether the reader has not seen it; from now on it has."""
        if event.sequence <= self._seen.get(event.service, 0):
            return False
        self._seen[event.service] = event.sequence
        self._time_ns = max(self._time_ns, event.time_ns)
        return True

    def __str__(self) -> str:
        return f"{self._time_ns}@" + ",".join(f"{service}:{number}" for service, number in sorted(self._seen.items()))
