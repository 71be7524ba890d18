"""The engine's own acts, and what requests set off after their answer: taken from the stream of events.

Events are recorded with what they tell, once, and numbered by their service. So an act of the engine needs no second
way to the log; what requests changed before they were answered is in their own records.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import Any

from services.audit.intake import Taken
from shared.auditing import records
from shared.bus.client import Bus
from shared.events import stream
from shared.events.record import DomainEvent

PREFIX = "events:"
WAITING = 2000
# An event is recorded a moment after its time.
MARGIN_NS = 3600 * 10**9
# What the engine sees happen, or does along with something that is recorded, and does not decide.
_OBSERVED = frozenset(
    {"die", "oom", "health_status", "exec_die", "exec_start", "connect", "disconnect", "mount", "unmount", "detach"}
)


class EventIntake:
    """Events that the audit log is to have.

    Args:
        taken: By source, the number of the last event that was seen; kept up to date here.
    """

    def __init__(self, bus: Bus, taken: dict[str, int], since_ns: int, wake: asyncio.Event) -> None:
        self._bus = bus
        self._taken = taken
        self._since_ns = since_ns
        self._wake = wake
        self._queue: asyncio.Queue[DomainEvent] = asyncio.Queue(WAITING)

    async def run(self) -> None:
        """Follow the stream for ever, no faster than it is taken."""
        async with aclosing(stream.follow(self._bus, since_ns=self._since_ns - MARGIN_NS)) as events:
            async for event in events:
                await self._queue.put(event)
                self._wake.set()

    def collect(self, limit: int) -> list[Taken]:
        """What has come and was not taken yet."""
        found: list[Taken] = []
        while not self._queue.empty() and len(found) < limit:
            event = self._queue.get_nowait()
            source = PREFIX + event.service
            last = self._taken.get(source)
            if last is not None and event.sequence <= last:
                continue
            if last is not None and event.sequence > last + 1:
                found.append(Taken(source, event.sequence - 1, _missed(event, event.sequence - last - 1)))
            self._taken[source] = event.sequence
            if (record := record_of(event)) is not None:
                found.append(Taken(source, event.sequence, record))
        return found


def record_of(event: DomainEvent) -> dict[str, Any] | None:
    """The record of an event; None when a request's own record tells it."""
    own = event.actor == "system" or event.actor.startswith("system:")
    if not (own or event.late) or event.action.partition(":")[0] in _OBSERVED:
        return None
    record: dict[str, Any] = {
        "kind": records.ENGINE if own else records.EFFECT,
        "time": records.moment(event.time_ns),
        "request": event.request_id,
        "actor": {"name": event.actor},
        "action": {"resource": event.type, "verb": event.action, "object": event.actor_id},
        "changed": [{"type": event.type, "action": event.action, "id": event.actor_id}],
    }
    if event.cause:
        record["cause"] = event.cause
    details = {key: event.attributes[key] for key in ("name", "image", "exitCode", "signal") if key in event.attributes}
    if details:
        record["details"] = details
    if event.node:
        record["node"] = event.node
    return record


def _missed(event: DomainEvent, count: int) -> dict[str, Any]:
    reason = f"{count} events of {event.service} were not kept for as long as nobody read them"
    return {
        "kind": records.GAP,
        "time": records.moment(time.time_ns()),
        "gap": {"count": count, "reason": reason},
    }
