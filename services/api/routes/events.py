"""GET /events: what happened, and what happens.

Source: Docker Engine API 1.50, SystemEvents; moby `daemon/events/filter.go` for what each filter compares.
"""

from __future__ import annotations

import asyncio
import heapq
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Annotated

import orjson
from fastapi import Query
from starlette.responses import Response

from services.api.answers.system import EventMessage
from services.api.call import Call
from services.api.declared import lines, may
from services.api.eventcursor import Cursor
from services.api.query import parse_time_ns
from services.api.requests.system import EventsQuery
from services.api.routing import EdgeRouter
from services.api.streaming import flushed
from services.api.versions import Version
from services.api.views import events as views
from services.api.views.events import EventFilter
from shared.errors import InvalidArgument
from shared.events.record import DomainEvent

# How many events later than its own time an event may have been recorded, and is still put into its place.
OUT_OF_ORDER = 1000
JSON, JSON_LINES, NDJSON, JSON_SEQ = (
    "application/json", "application/jsonl", "application/x-ndjson", "application/json-seq",
)  # fmt: skip
# Form -> the version from which it may be asked for. All but the last have one document a line.
FORMS = {JSON: (1, 24), NDJSON: (1, 52), JSON_SEQ: (1, 52), JSON_LINES: (1, 53)}
RECORD_SEPARATOR = b"\x1e"  # RFC 7464

router = EdgeRouter("System")


@router.get(
    "/events",
    operation_id="SystemEvents",
    response_class=Response,
    responses=lines(EventMessage, "What happened.") | may(),
)
async def events(call: Call, query: Annotated[EventsQuery, Query()]) -> Response | None:
    """What happened, and what happens, as JSON lines.

    The head leaves at once. Without `since`, from now on; with an `until` that has passed, the history only.
    """
    now = time.time_ns()
    since_ns, until_ns = _moment("since", query.since, now), _moment("until", query.until, now)
    if since_ns > until_ns > 0:
        raise InvalidArgument(
            f"`since` time ({query.since}) cannot be after `until` time ({query.until})", field="since"
        )
    chosen = EventFilter(query.filters)
    if query.place:
        coming = _numbered(call, chosen, Cursor.parse(query.place), until_ns, now)
    else:
        coming = _messages(call, chosen, since_ns or now, until_ns, now)
    form = form_of(call.headers.get("accept", ""), call.version)
    await flushed(_written(coming, form), call, media_type=form)
    return None


def form_of(accept: str, version: Version) -> str:
    """The form that a client likes best of those that it names; JSON documents one after another without any."""
    liked: list[tuple[float, str]] = []
    for item in accept.lower().split(","):
        name, *options = (part.strip() for part in item.split(";"))
        if version >= FORMS.get(name, (99, 0)):
            quality = next((option[2:] for option in options if option.startswith("q=")), "1")
            liked.append((float(quality) if re.fullmatch(r"[01](\.\d{0,3})?", quality) else 1.0, name))
    # Of equals the first: max takes it.
    return max(liked, key=lambda one: one[0], default=(1.0, JSON))[1]


def _moment(name: str, text: str, now_ns: int) -> int:
    return parse_time_ns(name, text, now_ns) if text else 0


async def _written(messages: AsyncIterator[Mapping[str, object]], form: str) -> AsyncIterator[bytes]:
    before = RECORD_SEPARATOR if form == JSON_SEQ else b""
    async for message in messages:
        yield before + orjson.dumps(message) + b"\n"


async def _messages(
    call: Call, chosen: EventFilter, since_ns: int, until_ns: int, now: int
) -> AsyncIterator[Mapping[str, object]]:
    async for event in _recorded(call, since_ns, until_ns, now):
        # Services record side by side: a later event does not end the others' history.
        if not (until_ns and event.time_ns > until_ns) and chosen.matches(event):
            yield views.message(event, call.version)


async def _numbered(
    call: Call, chosen: EventFilter, cursor: Cursor, until_ns: int, now: int
) -> AsyncIterator[Mapping[str, object]]:
    """Events that a reader has not seen, each with the place from which it can go on behind it."""
    async for event in _recorded(call, cursor.since_ns, until_ns, now):
        new = cursor.is_new(event)
        if new and not (until_ns and event.time_ns > until_ns) and chosen.matches(event):
            yield {**views.message(event, call.version), "cursor": str(cursor)}


async def _recorded(call: Call, since_ns: int, until_ns: int, now: int) -> AsyncIterator[DomainEvent]:
    """Events as they come, until that time; then what is recorded and did not come before it."""
    told: dict[str, int] = {}
    if not until_ns or until_ns > now:
        left_s = (until_ns - now) / 1e9 if until_ns else None
        async with aclosing(call.deps.follow(since_ns=since_ns, replay_only=False)) as coming:
            async for event in _for(left_s, coming):
                told[event.service] = event.sequence
                yield event
    async with aclosing(call.deps.follow(since_ns=since_ns, replay_only=True)) as history:
        async for event in _by_time(history):
            if event.sequence > told.get(event.service, -1):
                yield event


async def _for(seconds: float | None, coming: AsyncIterator[DomainEvent]) -> AsyncIterator[DomainEvent]:
    """What comes within that time; None: without an end. The time that the reader of these takes counts, too."""
    loop = asyncio.get_running_loop()
    end = None if seconds is None else loop.time() + seconds
    while True:
        try:
            async with asyncio.timeout_at(end):
                event = await anext(coming)
        except (TimeoutError, StopAsyncIteration):
            return
        yield event


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
