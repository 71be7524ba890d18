"""Events' subjects, failpoints, errors on the wire, permissions on the bus."""

from __future__ import annotations

import pytest

from shared import failpoints
from shared.errors import BY_CODE, DavitError, Internal, InvalidArgument, from_wire
from shared.events.record import DomainEvent


@pytest.mark.parametrize(
    ("action", "token"),
    [("start", "start"), ("exec_create: sh -c x", "exec_create"), ("health_status: healthy", "health_status"),
     ("a.b>*", "a_b__"), ("", "_")],
)  # fmt: skip
def test_an_action_is_one_subject_token(action: str, token: str) -> None:
    event = DomainEvent(type="container", action=action, actor_id="x")
    assert event.subject == f"davit.event.container.{token}"


def test_failpoints_fire_at_their_hit_and_once() -> None:
    failpoints.configure("a=error@2; b=sleep(0)")
    try:
        failpoints.failpoint("a")
        failpoints.failpoint("b")
        with pytest.raises(Internal, match="failpoint a"):
            failpoints.failpoint("a")
        failpoints.failpoint("a")
    finally:
        failpoints.configure("")


@pytest.mark.parametrize("text", ["a=explode", "a=sleep(long)", "a=kill@x"])
def test_a_wrong_failpoint_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        failpoints.configure(text)
    failpoints.configure("")


def test_every_error_survives_the_trip() -> None:
    for code, kind in BY_CODE.items():
        arrived = from_wire(kind("what went wrong", field="x", count=3).to_wire())
        assert (type(arrived), arrived.code, str(arrived), arrived.detail) == (
            kind, code, "what went wrong", {"field": "x", "count": 3},
        )  # fmt: skip


def test_every_kind_of_error_has_a_code_of_its_own_or_its_parents() -> None:
    def walk(kind: type[DavitError]) -> list[type[DavitError]]:
        return [kind, *(below for child in kind.__subclasses__() for below in walk(child))]

    for kind in walk(DavitError):
        assert kind.code in BY_CODE


def test_an_unknown_code_arrives_as_internal_with_its_text() -> None:
    arrived = from_wire({"code": "from_the_future", "message": "text"})
    assert (type(arrived), str(arrived)) == (Internal, "text")
