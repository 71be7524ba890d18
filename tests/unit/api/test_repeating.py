"""Requests over which control dies: repeated where that is safe, and told as they ended."""

from __future__ import annotations

import orjson
import pytest

from shared.bus.client import EMPTY
from shared.contracts import containers as contracts
from shared.contracts import networks, volumes
from shared.contracts.containers import Container, ContainerState, CreatedContainer, Warnings
from shared.contracts.docker import ContainerConfig, HostConfig
from shared.errors import Conflict, Forbidden, Interrupted, InvalidArgument, NotFound, NotModified

DIED = Interrupted("whoever worked on it has died")


def replies(*outcomes):
    """Answers one after the other; also what was asked."""
    left, seen = list(outcomes), []

    def reply(request):
        seen.append(request)
        return left.pop(0)

    return reply, seen


@pytest.mark.parametrize("second", [EMPTY, NotModified("it runs"), NotFound("No such container: x")])
async def test_a_start_is_asked_again_as_the_same_wish(edge, second):
    reply, seen = replies(DIED, second)
    edge.bus.answer(contracts.START, reply)
    assert (await edge.client.request("POST", "/containers/x/start")).status == 204
    assert len(seen) == 2
    assert seen[0].key == seen[1].key != ""


async def test_two_starts_are_two_wishes(edge):
    reply, seen = replies(EMPTY, EMPTY)
    edge.bus.answer(contracts.START, reply)
    for _ in range(2):
        await edge.client.request("POST", "/containers/x/start")
    assert seen[0].key != seen[1].key


async def test_the_error_of_the_second_attempt_is_the_answer(edge):
    edge.bus.answer(contracts.START, replies(DIED, Conflict("port is already allocated"))[0])
    reply = await edge.client.request("POST", "/containers/x/start")
    assert (reply.status, orjson.loads(reply.body)) == (409, {"message": "port is already allocated"})


@pytest.mark.parametrize(("path", "contract"), [("start", contracts.START), ("stop", contracts.STOP)])
async def test_what_kills_control_each_time_is_given_up(edge, path, contract):
    reply, seen = replies(*[DIED] * 9)
    edge.bus.answer(contract, reply)
    assert (await edge.client.request("POST", f"/containers/x/{path}")).status == 504
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("method", "path", "contract", "second"),
    [
        ("POST", "/containers/x/stop", contracts.STOP, NotModified("stopped")),
        ("POST", "/containers/x/stop", contracts.STOP, NotFound("gone: --rm")),
        ("POST", "/containers/x/restart", contracts.RESTART, EMPTY),
        ("POST", "/containers/x/kill", contracts.KILL, Conflict("not running")),
        ("POST", "/containers/x/kill?signal=SIGTERM", contracts.KILL, NotFound("gone")),
        ("DELETE", "/containers/x?force=1", contracts.REMOVE, NotFound("gone")),
        ("POST", "/containers/x/rename?name=y1", contracts.RENAME, NotFound("No such container: x")),
        ("POST", "/containers/x/rename?name=y1", contracts.RENAME, InvalidArgument("the same name")),
        ("DELETE", "/networks/n", networks.REMOVE, NotFound("gone")),
        ("DELETE", "/volumes/v", volumes.REMOVE, NotFound("gone")),
    ],
)
async def test_a_repetition_that_finds_the_work_done_succeeds(edge, method, path, contract, second):
    edge.bus.answer(contract, replies(DIED, second)[0])
    assert (await edge.client.request(method, path)).status == 204


@pytest.mark.parametrize(
    ("method", "path", "contract"),
    [("POST", "/containers/x/kill", contracts.KILL), ("DELETE", "/containers/x", contracts.REMOVE)],
)
async def test_a_first_attempt_that_finds_nothing_fails(edge, method, path, contract):
    edge.bus.answer(contract, NotFound("No such container: x"))
    assert (await edge.client.request(method, path)).status == 404


async def test_a_signal_that_means_something_each_time_is_not_sent_twice(edge):
    reply, seen = replies(DIED, EMPTY)
    edge.bus.answer(contracts.KILL, reply)
    assert (await edge.client.request("POST", "/containers/x/kill?signal=HUP")).status == 504
    assert len(seen) == 1


@pytest.mark.parametrize(("now", "status"), [("paused", 204), ("running", 409)])
async def test_a_pause_that_is_refused_the_second_time_is_judged_by_the_state(edge, now, status):
    edge.bus.answer(contracts.PAUSE, replies(DIED, Conflict("Container x is already paused"))[0])
    found = Container(
        id="1" * 64,
        name="x",
        created_at="",
        config=ContainerConfig(),
        host_config=HostConfig(),
        state=ContainerState(status=now),
    )
    edge.bus.answer(contracts.INSPECT, found)
    assert (await edge.client.request("POST", "/containers/x/pause")).status == status


async def test_a_create_names_its_container_so_that_it_can_ask_again(edge):
    reply, seen = replies(DIED, CreatedContainer(id="1" * 64))
    edge.bus.answer(contracts.CREATE, reply)
    body = b'{"Image":"busybox"}'
    answer = await edge.client.request("POST", "/containers/create", body, {"Content-Type": "application/json"})
    assert answer.status == 201
    assert [one.repeated for one in seen] == [False, True]
    assert seen[0].id == seen[1].id
    assert len(seen[0].id) == 64


@pytest.mark.parametrize(("verb", "contract"), [("connect", contracts.CONNECT), ("disconnect", contracts.DISCONNECT)])
async def test_a_network_that_is_connected_or_not_already_is_what_was_asked_for(edge, verb, contract):
    edge.bus.answer(contract, replies(DIED, Forbidden("so it is"))[0])
    headers = {"Content-Type": "application/json"}
    reply = await edge.client.request("POST", f"/networks/n/{verb}", b'{"Container":"x"}', headers)
    assert reply.status == 200


async def test_an_update_is_repeated(edge):
    edge.bus.answer(contracts.UPDATE, replies(DIED, Warnings())[0])
    headers = {"Content-Type": "application/json"}
    assert (await edge.client.request("POST", "/containers/x/update", b'{"Memory":8000000}', headers)).status == 200
