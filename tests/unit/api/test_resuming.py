"""Logs and attached output whose sender dies, and execs and attaches over whose order somebody dies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from services.api import resuming
from services.api.resuming import Had
from shared.bus import streams
from shared.bus.batches import Batch, pack
from shared.bus.client import EMPTY
from shared.bus.streams import ByteStream
from shared.contracts import containers as contracts
from shared.contracts.containers import AttachInfo, Exec, ExecId, Logs
from shared.errors import Internal, Interrupted, NotFound, Unavailable

from .conftest import EdgeUnderTest

DIED = Interrupted("whoever worked on it has died")
Send = Callable[[ByteStream], Awaitable[None]]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "RETRY_PAUSE_S", 0.01)
    monkeypatch.setattr(resuming, "GIVE_UP_AFTER_S", 0.2)


class Agents:
    """One agent after the other serves a contract: each does its work on the stream, and a dead one says no more."""

    def __init__(self, edge: EdgeUnderTest, contract: Any, reply: Any, *works: Send | Exception) -> None:
        self._edge = edge
        self._reply = reply
        self._works = list(works)
        self.asked: list[Any] = []
        self.streams: list[ByteStream] = []
        self.tasks: list[asyncio.Task[None]] = []
        edge.bus.answer(contract, self.serve)

    async def serve(self, request: Any) -> Any:
        self.asked.append(request)
        work = self._works.pop(0)
        if isinstance(work, Exception):
            return work
        stream = await streams.accept(self._edge.bus, request.stream)
        self.streams.append(stream)
        self.tasks.append(asyncio.create_task(self._ending(work, stream)))
        return self._reply

    async def _ending(self, work: Send, stream: ByteStream) -> None:
        await work(stream)
        await stream.aclose()


async def killed(stream: ByteStream) -> None:
    """What the other end finds out when nothing is heard any more."""
    await stream.fail(streams.StreamBroken("the other end of the stream has been silent for 8 s"))


def batches(*sent: tuple[str, bytes], then: Send | None = None) -> Send:
    async def work(stream: ByteStream) -> None:
        for position, data in sent:
            await stream.write(pack(Batch(position, data)))
        if then is not None:
            await then(stream)

    return work


def frame(stream: int, text: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(text).to_bytes(4, "big") + text


async def half_a_batch(stream: ByteStream) -> None:
    await stream.write(pack(Batch("p2", b"two"))[:-1])
    await killed(stream)


LOGS = "/containers/x/logs?stdout=1&follow=1&tail=3"


async def test_a_log_goes_on_behind_what_the_client_has_had(edge: EdgeUnderTest) -> None:
    agents = Agents(
        edge, contracts.LOGS, AttachInfo(tty=True),
        batches(("p0", b""), ("p1", b"one "), then=half_a_batch),
        Unavailable("the node is away"),
        batches(("p2", b"two "), then=killed),
        batches(("p3", b"three")),
    )  # fmt: skip
    reply = await edge.client.request("GET", LOGS)
    assert reply.body == b"one two three"
    assert [(request.after, request.tail) for request in agents.asked] == [("", 3), ("p1", 3), ("p1", 3), ("p2", 3)]


async def test_a_log_that_cannot_be_read_is_not_asked_for_again(edge: EdgeUnderTest) -> None:
    async def unreadable(stream: ByteStream) -> None:
        await stream.fail(Internal("the log cannot be read: Input/output error"))

    agents = Agents(edge, contracts.LOGS, AttachInfo(tty=True), batches(("p0", b"x"), then=unreadable))
    reader, writer = await edge.client.open()
    writer.write(edge.client.head("GET", LOGS))
    said = await asyncio.wait_for(reader.read(), 5)
    assert not said.endswith(b"0\r\n\r\n"), "a body that is cut off, not one that ends"
    assert len(agents.asked) == 1
    writer.close()


@pytest.mark.parametrize("outcome", [Unavailable("the node is away"), NotFound("No such container: x"), killed])
async def test_a_log_is_not_asked_for_for_ever(edge: EdgeUnderTest, outcome: Any) -> None:
    Agents(edge, contracts.LOGS, AttachInfo(tty=True), batches(("p0", b"x"), then=killed), *[outcome] * 99)
    reader, writer = await edge.client.open()
    writer.write(edge.client.head("GET", LOGS))
    assert not (await asyncio.wait_for(reader.read(), 5)).endswith(b"0\r\n\r\n")
    writer.close()


ATTACH = "/v1.50/containers/x/attach?stream=1&stdout=1&stderr=1"
UPGRADE = {"Connection": "Upgrade", "Upgrade": "tcp"}


async def attached(edge: EdgeUnderTest, target: str = ATTACH) -> bytes:
    reader, writer = await edge.client.open()
    writer.write(edge.client.head("POST", target, UPGRADE))
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    output = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return output


def raw(*sent: bytes, then: Send | None = None) -> Send:
    async def work(stream: ByteStream) -> None:
        for data in sent:
            await stream.write(data)
        if then is not None:
            await then(stream)

    return work


async def test_the_log_takes_the_place_of_output_that_nobody_sends_any_more(edge: EdgeUnderTest) -> None:
    info = AttachInfo(tty=False, position="p0")
    output = frame(1, b"one\n") + frame(2, b"bad\n") + frame(1, b"two\n")
    Agents(edge, contracts.ATTACH, info, raw(output[:-2], then=killed))
    rest = frame(1, b"two\n") + frame(1, b"three\n")
    logs = Agents(
        edge, contracts.LOGS, info,
        batches(("p1", rest[:12]), then=killed), batches(("p2", rest[12:])),
    )  # fmt: skip
    assert await attached(edge) == frame(1, b"one\n") + frame(2, b"bad\n") + rest
    first, second = logs.asked
    assert isinstance(first, Logs)
    assert (first.after, first.skip_bytes, first.follow) == ("p0", (4, 4), True)
    assert (second.after, second.skip_bytes) == ("p0", (8, 4)), "what came of the log counts as well"


@pytest.mark.parametrize(
    ("query", "position", "output"),
    [("", "", b"one"), ("&stdin=1", "p0", b"one"), ("", "p0", b"\xff\xfe")],
    ids=["joined later", "with input", "no text"],
)
async def test_who_cannot_go_on_is_told(edge: EdgeUnderTest, query: str, position: str, output: bytes) -> None:
    Agents(edge, contracts.ATTACH, AttachInfo(tty=False, position=position), raw(frame(1, output), then=killed))
    said = await attached(edge, ATTACH + query)
    assert said.startswith(frame(1, output) + b"\x03\0\0\0"), "a system error, with which clients fail"
    assert b"the connection to the process is lost, it may still run" in said


async def test_an_attach_asked_again_is_the_same_client(edge: EdgeUnderTest) -> None:
    """Control dies; the agent has accepted the first stream, and knows the client when it is asked again."""
    first: list[ByteStream] = []

    async def answer(request: Any) -> Any:
        if not first:
            first.append(await streams.accept(edge.bus, request.stream))
            keys.append(request.key)
            return DIED
        keys.append(request.key)
        await first[0].write(frame(1, b"all of it"))
        await first[0].aclose()
        return AttachInfo(tty=False)

    keys: list[str] = []
    edge.bus.answer(contracts.ATTACH, answer)
    assert await attached(edge) == frame(1, b"all of it")
    assert keys[0] == keys[1] != ""


EXEC = Exec(id="e" * 64, container_id="c" * 64, cmd=["x"], attach_stdout=True)


async def started(edge: EdgeUnderTest) -> bytes:
    reader, writer = await edge.client.open()
    head = {"Content-Type": "application/json", **UPGRADE}
    writer.write(edge.client.head("POST", f"/v1.50/exec/{EXEC.id}/start", head, b'{"Detach":false}'))
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    output = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return output


async def test_an_exec_is_created_once_and_started_once(edge: EdgeUnderTest) -> None:
    seen: list[Any] = []

    def create(request: Any) -> Any:
        seen.append(request)
        return DIED if len(seen) == 1 else ExecId(id=request.id)

    edge.bus.answer(contracts.EXEC_CREATE, create)
    reply = await edge.client.request("POST", "/containers/x/exec", b'{"Cmd":["x"]}')
    assert reply.status == 201
    assert seen[0].id == seen[1].id in reply.body.decode()
    assert [request.repeated for request in seen] == [False, True]

    edge.bus.answer(contracts.EXEC_INSPECT, EXEC)
    agents = Agents(edge, contracts.EXEC_START, EMPTY, DIED, raw(frame(1, b"out")))
    assert await started(edge) == frame(1, b"out")
    assert [request.repeated for request in agents.asked] == [False, True]


async def test_the_output_of_an_exec_whose_agent_dies_ends_with_an_error(edge: EdgeUnderTest) -> None:
    edge.bus.answer(contracts.EXEC_INSPECT, EXEC)
    Agents(edge, contracts.EXEC_START, EMPTY, raw(frame(1, b"out"), then=killed))
    said = await started(edge)
    assert said.startswith(frame(1, b"out") + b"\x03\0\0\0")
    Agents(edge, contracts.EXEC_START, EMPTY, *[DIED] * 4)
    assert (await started(edge)).startswith(b"\x03\0\0\0"), "whether it runs is unknown"


@pytest.mark.parametrize(
    ("texts", "exact"),
    [
        ([b"a\n", b"b" * 40_000], True),
        (["ä".encode()[:1], "ä".encode()[1:]], True),
        ([b"\xff"], False),
        ([b"x" * 20_000, "ä\n".encode()], False),
        ([("ä" * 10 + "\n").encode() * 5000], True),
    ],
)
def test_what_the_log_has_as_it_was(texts: list[bytes], exact: bool) -> None:
    had = Had(tty=False)
    sent = b"".join(frame(2, text) for text in texts)
    assert b"".join(had.add(sent[start : start + 7]) for start in range(0, len(sent), 7)) == sent
    assert (had.counts, had.exact) == ((0, sum(map(len, texts))), exact)
