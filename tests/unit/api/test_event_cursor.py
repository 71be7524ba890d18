"""Readers of events that go on where they were."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from services.api.eventcursor import Cursor
from shared.errors import InvalidArgument
from shared.events.record import DomainEvent


def event(service: str, sequence: int, time_ns: int, action: str = "create") -> DomainEvent:
    identity = f"{service}-{sequence}"
    return DomainEvent(
        type=service, action=action, actor_id=identity, service=service, sequence=sequence, time_ns=time_ns
    )


HISTORY = [
    event("volume", 1, 10**18),
    event("network", 1, 10**18 + 5),
    event("volume", 2, 10**18 + 7, "destroy"),
    event("network", 2, 10**18 + 9),
]


async def told(edge, place: str, *, filters: str = "") -> list[dict[str, Any]]:
    reply = await edge.client.request("GET", f"/events?from={place}&until=1500000000{filters}")
    assert reply.status == 200, reply.body
    return [orjson.loads(line) for line in reply.body.splitlines()]


async def test_each_event_names_the_place_behind_it(edge):
    edge.events.history = list(HISTORY)
    everything = await told(edge, "0")
    assert [one["Actor"]["ID"] for one in everything] == [one.actor_id for one in HISTORY]
    for at, one in enumerate(everything):
        rest = await told(edge, one["cursor"])
        assert [later["Actor"]["ID"] for later in rest] == [later.actor_id for later in HISTORY[at + 1 :]]


async def test_a_place_knows_of_events_that_a_filter_left_out(edge):
    edge.events.history = list(HISTORY)
    (destroyed,) = await told(edge, "0", filters='&filters={"event":["destroy"]}')
    assert [one["Actor"]["ID"] for one in await told(edge, destroyed["cursor"])] == ["network-2"]


async def test_without_a_place_events_are_dockers(edge):
    edge.events.history = list(HISTORY)
    reply = await edge.client.request("GET", "/events?since=1&until=1500000000")
    assert b"cursor" not in reply.body
    assert len(reply.body.splitlines()) == 4


@pytest.mark.parametrize("text", ["1", "x", "1@", "1@volume", "1@volume:x", "-1@volume:1", "1@volume:1,"])
def test_what_is_no_place_is_refused(text):
    with pytest.raises(InvalidArgument, match="from"):
        Cursor.parse(text)


def test_a_place_is_read_as_it_was_written():
    cursor = Cursor()
    for one in HISTORY:
        assert cursor.is_new(one)
    again = Cursor.parse(str(cursor))
    assert not any(again.is_new(one) for one in HISTORY)
    assert again.is_new(event("volume", 3, 10**18 + 20))
