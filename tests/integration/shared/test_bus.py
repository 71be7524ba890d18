"""Requests between two connections: errors, deadlines, headers, and a server that is killed."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator

import pytest
from pydantic import BaseModel

from shared.bus import inflight
from shared.bus.client import ANY_NODE, Bus, Contract
from shared.bus.context import RequestContext, check_node, current_context, use_context
from shared.bus.leases import Lease
from shared.bus.streams import accept, offer
from shared.errors import Conflict, DeadlineExceeded, Forbidden, Internal, Interrupted, InvalidArgument, Unavailable
from tests.lab.nats import NatsServer


class Number(BaseModel):
    value: int


DOUBLE = Contract("davit.test.number.double", Number, Number, deadline_s=2, idempotent=True)


@pytest.fixture
async def caller(own_nats: NatsServer) -> AsyncIterator[Bus]:
    bus = await Bus.connect(own_nats.url, name="caller")
    yield bus
    await bus.close()


@pytest.fixture
async def server(own_nats: NatsServer) -> AsyncIterator[Bus]:
    bus = await Bus.connect(own_nats.url, name="server")
    yield bus
    await bus.close()


async def double(request: Number) -> Number:
    if request.value < 0:
        raise Conflict("it is negative", value=request.value)
    if request.value == 13:
        raise ZeroDivisionError("oops")
    return Number(value=request.value * 2)


async def test_errors_come_out_as_they_went_in(caller: Bus, server: Bus) -> None:
    await server.serve(DOUBLE, double)
    assert (await caller.request(DOUBLE, Number(value=4))).value == 8
    with pytest.raises(Conflict, match="it is negative") as caught:
        await caller.request(DOUBLE, Number(value=-1))
    assert caught.value.detail == {"value": -1}
    with pytest.raises(Internal, match="oops"):
        await caller.request(DOUBLE, Number(value=13))


async def test_a_payload_of_another_shape_names_the_field(caller: Bus, server: Bus) -> None:
    class Text(BaseModel):
        value: str

    await server.serve(DOUBLE, double)
    wrong = Contract(DOUBLE.subject, Text, Number, deadline_s=2)
    with pytest.raises(InvalidArgument) as caught:
        await caller.request(wrong, Text(value="many"))
    assert caught.value.detail["field"] == "value"


class Page(BaseModel):
    lines: list[str]


ECHO = Contract("davit.test.page.echo", Page, Page, deadline_s=5)
MORE = Contract("davit.test.page.more", Page, Page, deadline_s=5)


async def test_what_is_larger_than_a_message_of_the_bus_is_compressed(caller: Bus, server: Bus) -> None:
    async def echo(request: Page) -> Page:
        return request

    await server.serve(ECHO, echo)
    page = Page(lines=[f"/some/rather/long/directory/name/file-{number}" for number in range(100_000)])
    assert len(page.model_dump_json()) > 4 * caller.nats.max_payload
    assert await caller.request(ECHO, page) == page


async def test_what_no_compression_makes_small_enough_is_refused_at_once(caller: Bus, server: Bus) -> None:
    async def more(request: Page) -> Page:
        return Page(lines=[secrets.token_hex(4 << 20)])

    await server.serve(MORE, more)
    begin = time.monotonic()
    with pytest.raises(InvalidArgument, match=r"the request takes .* bytes on the message bus, which takes at most"):
        await caller.request(MORE, Page(lines=[secrets.token_hex(4 << 20)]))
    with pytest.raises(Internal, match="the answer is larger than the"):
        await caller.request(MORE, Page(lines=[]))
    assert time.monotonic() - begin < 4


async def test_actor_and_request_travel(caller: Bus, server: Bus) -> None:
    seen: list[RequestContext] = []

    async def note(request: Number) -> Number:
        seen.append(current_context())
        return request

    await server.serve(DOUBLE, note)
    with use_context(RequestContext(request_id="r7", actor="uid:1000")):
        await caller.request(DOUBLE, Number(value=1))
    assert (seen[0].request_id, seen[0].actor) == ("r7", "uid:1000")
    assert seen[0].deadline is not None


async def test_nobody_there(caller: Bus) -> None:
    with pytest.raises(Unavailable, match="no service answers"):
        await caller.request(DOUBLE, Number(value=1), deadline_s=0.3)


async def test_a_service_that_comes_back_within_the_deadline_answers(caller: Bus, server: Bus) -> None:
    asking = asyncio.create_task(caller.request(DOUBLE, Number(value=3), deadline_s=5))
    await asyncio.sleep(0.3)
    await server.serve(DOUBLE, double)
    assert (await asking).value == 6


async def test_too_slow(caller: Bus, server: Bus) -> None:
    async def slow(request: Number) -> Number:
        await asyncio.sleep(30)
        return request

    await server.serve(DOUBLE, slow)
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        await caller.request(DOUBLE, Number(value=1), deadline_s=0.3)
    assert time.monotonic() - began < 2


async def test_an_idempotent_request_survives_a_restart_of_the_server(
    caller: Bus, server: Bus, own_nats: NatsServer
) -> None:
    calls = 0

    async def counted(request: Number) -> Number:
        nonlocal calls
        calls += 1
        if calls == 1:
            await asyncio.to_thread(own_nats.kill)
            await asyncio.to_thread(own_nats.start)
            await asyncio.sleep(1)
        return Number(value=request.value * 2)

    await server.serve(DOUBLE, counted)
    assert (await caller.request(DOUBLE, Number(value=5), deadline_s=15)).value == 10


async def test_copies_of_a_service_share_the_work(caller: Bus, server: Bus, own_nats: NatsServer) -> None:
    second = await Bus.connect(own_nats.url, name="second")
    served: list[str] = []

    def by(name: str):
        async def handle(request: Number) -> Number:
            served.append(name)
            return request

        return handle

    await server.serve(DOUBLE, by("first"))
    await second.serve(DOUBLE, by("second"))
    await second.nats.flush()
    await asyncio.gather(*(caller.request(DOUBLE, Number(value=n)) for n in range(40)))
    assert len(served) == 40
    assert set(served) == {"first", "second"}
    await second.close()


async def test_a_lease_has_one_holder_and_passes_on(caller: Bus, server: Bus) -> None:
    running: set[str] = set()
    overlaps = []

    def work(name: str):
        async def loop() -> None:
            running.add(name)
            overlaps.append(len(running))
            try:
                await asyncio.Event().wait()
            finally:
                running.discard(name)

        return loop

    first = asyncio.create_task(Lease(caller, "t.one", "a", ttl_s=2, renew_s=0.3).hold(work("a")))
    while not running:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    second = asyncio.create_task(Lease(server, "t.one", "b", ttl_s=2, renew_s=0.3).hold(work("b")))
    await asyncio.sleep(3)
    assert running == {"a"}
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    async with asyncio.timeout(8):
        while running != {"b"}:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert max(overlaps) == 1
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)


REPORTED = Contract("davit.test.number.reported.{node}", Number, Number, deadline_s=2)


async def test_who_serves_all_nodes_knows_from_the_subject_which_one_asks(caller: Bus, server: Bus) -> None:
    async def handle(request: Number) -> Number:
        check_node("one.two")
        return request

    await server.serve(REPORTED, handle, node=ANY_NODE)
    await server.nats.flush()
    assert (await caller.request(REPORTED, Number(value=3), node="one.two")).value == 3
    with pytest.raises(Forbidden, match=r"node other spoke for node one\.two"):
        await caller.request(REPORTED, Number(value=3), node="other")


async def test_a_node_is_let_neither_listen_nor_speak_as_another() -> None:
    """Asked of the server itself: each of these is what a node that lies would try."""
    with NatsServer(agents=["one", "two"]) as nats:
        liar = await Bus.connect(nats.url, name="liar", user="agent-one", password="one")
        refused: list[str] = []

        async def told(error: Exception) -> None:
            refused.append(str(error))

        liar.nats._error_cb = told

        async def heard(data: bytes) -> None:
            raise AssertionError("it heard what is not meant for it")

        for subject in ("davit.node.two.container.start", "davit.node.>", "davit.stream.two.>", "davit.stream.>",
                        "davit.control.>", "davit.event.>", "_INBOX_agent-two.>", ">"):  # fmt: skip
            await liar.listen(subject, heard)
        for subject in ("davit.control.report.container.two", "davit.control.container.remove", "davit.dns.added",
                        "davit.event.container.die", "davit.node.two.container.remove",
                        "$JS.API.STREAM.DELETE.EVENTS"):  # fmt: skip
            await liar.publish(subject, b"{}")
        await liar.nats.flush()
        async with asyncio.timeout(5):
            while len(refused) < 14:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert all("permissions violation" in one for one in refused)
        await liar.close()


async def test_streams_reach_a_node_under_its_own_name() -> None:
    with NatsServer(agents=["one"]) as nats:
        service = await Bus.connect(nats.url, name="service", user="service", password="service")
        agent = await Bus.connect(nats.url, name="agent", user="agent-one", password="one")
        agent.stream_scope = "one."
        offered = await offer(service)
        await service.nats.flush()
        accepted = await accept(agent, offered.ref)
        await accepted.write(b"from the node")
        assert await offered.read() == b"from the node"
        await offered.write(b"to the node")
        assert await accepted.read() == b"to the node"
        back = await offer(agent)
        await agent.nats.flush()
        taken = await accept(service, back.ref)
        await taken.write(b"asked for")
        assert await back.read() == b"asked for"
        for stream in (offered, accepted, back, taken):
            await stream.aclose()
        await agent.close()
        await service.close()


FOREVER = Contract("davit.test.number.forever", Number, Number, deadline_s=60)
STEADY = Contract("davit.test.number.steady", Number, Number, deadline_s=60, idempotent=True)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers ask after a fraction of the usual time who works on their requests."""
    monkeypatch.setattr(inflight, "PERIOD_S", 0.3)
    monkeypatch.setattr(inflight, "ANSWER_S", 0.15)


async def never(request: Number) -> Number:
    await asyncio.sleep(1000)
    return request


async def _dies(bus: Bus) -> None:
    """As abrupt as a process can be left from inside: the connection is gone, and nothing was answered."""
    await bus.nats.close()
    for task in list(bus._tasks):
        task.cancel()


@pytest.mark.usefixtures("impatient")
async def test_the_death_of_a_server_is_noticed_long_before_the_deadline(caller: Bus, server: Bus) -> None:
    await server.serve(FOREVER, never)
    asking = asyncio.create_task(caller.request(FOREVER, Number(value=1)))
    await asyncio.sleep(0.1)
    began = time.monotonic()
    await _dies(server)
    with pytest.raises(Interrupted, match="has died"):
        await asking
    assert time.monotonic() - began < 3


@pytest.mark.usefixtures("impatient")
async def test_an_idempotent_request_goes_to_the_next_server_when_one_dies(
    caller: Bus, server: Bus, own_nats: NatsServer
) -> None:
    await server.serve(STEADY, never)
    asking = asyncio.create_task(caller.request(STEADY, Number(value=4)))
    await asyncio.sleep(0.1)
    await _dies(server)
    second = await Bus.connect(own_nats.url, name="second")
    await second.serve(STEADY, double)
    assert (await asyncio.wait_for(asking, 5)).value == 8
    await second.close()


@pytest.mark.usefixtures("impatient")
async def test_slow_work_is_not_taken_for_dead(caller: Bus, server: Bus, own_nats: NatsServer) -> None:
    async def slow(request: Number) -> Number:
        await asyncio.sleep(1.5)
        return Number(value=request.value * 2)

    other = await Bus.connect(own_nats.url, name="other")
    await server.serve(FOREVER, slow)
    asking = asyncio.create_task(caller.request(FOREVER, Number(value=2)))
    await asyncio.sleep(0.2)
    await other.serve(FOREVER, never)  # a copy that knows nothing of it
    assert (await asking).value == 4
    await other.close()


@pytest.mark.usefixtures("impatient")
async def test_a_stopped_server_is_not_dead(caller: Bus, server: Bus) -> None:
    """Who does not answer questions either may still go on: the deadline decides."""
    await server.serve(FOREVER, never)
    asking = asyncio.create_task(caller.request(FOREVER, Number(value=2), deadline_s=1.5))
    await asyncio.sleep(0.2)
    server._working._asked = lambda message: asyncio.sleep(0)  # type: ignore[method-assign]
    for subscription in server.nats._subs.values():
        if subscription.subject.endswith(".working"):
            subscription._cb = server._working._asked
    with pytest.raises(DeadlineExceeded) as caught:
        await asking
    assert not isinstance(caught.value, Interrupted)
    for task in list(server._tasks):
        task.cancel()
