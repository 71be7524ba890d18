"""What a request has changed, told to whoever asked along with the answer.

A service notes what it records while it serves a request; the names of these changes go back in the answer's head, and
are added to what the asking service itself has changed. So the edge knows what one request of a client has done in all
services. What is recorded after the answer is marked as late instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from shared.events.record import DomainEvent

HEADER = "Davit-Changed"
# More are counted only.
MOST_NAMED = 200

Change = tuple[str, str, str]


@dataclass(slots=True)
class Changes:
    """Changes in their order: (type, action, id). count: of all, the named ones among them."""

    named: list[Change] = field(default_factory=list)
    count: int = 0
    open: bool = True

    def add(self, changes: list[Change], count: int) -> None:
        self.named += changes[: MOST_NAMED - len(self.named)]
        self.count += count

    def header(self) -> dict[str, str]:
        """For the head of an answer; nothing when nothing changed."""
        return {HEADER: orjson.dumps([self.count, self.named]).decode()} if self.count else {}


_current: ContextVar[Changes | None] = ContextVar("davit_changes", default=None)


@contextmanager
def collecting() -> Iterator[Changes]:
    """Collect what is changed within; what tasks started here do later is late."""
    changes = Changes()
    token = _current.set(changes)
    try:
        yield changes
    finally:
        changes.open = False
        _current.reset(token)


def are_collected() -> bool:
    """Whether what is recorded now will be told with an answer."""
    changes = _current.get()
    return changes is not None and changes.open


def committed(events: list[DomainEvent]) -> None:
    """These are facts."""
    changes = _current.get()
    if changes is not None and changes.open:
        changes.add([(event.type, event.action, event.actor_id) for event in events], len(events))


def told(headers: dict[str, str] | None) -> None:
    """Take over what the head of an answer says."""
    changes = _current.get()
    text = headers.get(HEADER) if headers else None
    if text is None or changes is None or not changes.open:
        return
    count, named = orjson.loads(text)
    changes.add([(kind, action, identity) for kind, action, identity in named], count)
