"""GET /events: what happened, and what happens.

Source: Docker Engine API 1.50, SystemEvents; moby `daemon/events/filter.go` for what each filter compares.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import AsyncIterator
from contextlib import aclosing

import orjson
from starlette.responses import Response

from services.api.call import Call, Routes
from services.api.streaming import flushed
from services.api.views import events as views
from services.api.views.events import EventFilter
from shared.events import DomainEvent

# How many events later than its own time an event may have been recorded, and is still put into its place.
OUT_OF_ORDER = 1000


async def events(call: Call) -> Response | None:
    """The head leaves at once. Without `since`, from now on; with an `until` that has passed, the history only."""
    now = time.time_ns()
    since_ns = call.params.time_ns("since", now) or now
    until_ns = call.params.time_ns("until", now)
    chosen = EventFilter(call.params.filters())
    await flushed(_lines(call, chosen, since_ns, until_ns, now), call, media_type="application/json")
    return None


async def _lines(call: Call, chosen: EventFilter, since_ns: int, until_ns: int, now: int) -> AsyncIterator[bytes]:
    replay_only = 0 < until_ns <= now
    async with aclosing(call.deps.follow(since_ns=since_ns, replay_only=replay_only)) as recorded:
        following = _by_time(recorded) if replay_only else recorded
        try:
            async with asyncio.timeout(None if replay_only or not until_ns else (until_ns - now) / 1e9):
                async for event in following:
                    if until_ns and event.time_ns > until_ns:
                        continue  # services record side by side: a later event does not end the others' history
                    if chosen.matches(event):
                        yield orjson.dumps(views.message(event)) + b"\n"
        except TimeoutError:
            return


async def _by_time(recorded: AsyncIterator[DomainEvent]) -> AsyncIterator[DomainEvent]:
    """History in the order in which it happened: services record side by side, one a moment after the other.

    What one service has recorded stays in its order, whatever the times say.
    """
    waiting: list[tuple[int, int, DomainEvent]] = []
    latest: dict[str, int] = {}
    number = 0
    async for event in recorded:
        number += 1  # events of the same time stay as they are
        latest[event.service] = max(event.time_ns, latest.get(event.service, 0))
        heapq.heappush(waiting, (latest[event.service], number, event))
        if len(waiting) > OUT_OF_ORDER:
            yield heapq.heappop(waiting)[2]
    while waiting:
        yield heapq.heappop(waiting)[2]


ROUTES: Routes = (("GET", "/events", events),)
