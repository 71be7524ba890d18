"""Answers that take their time: wait, logs, progress, uploads, stats, events."""

from __future__ import annotations

import asyncio
import base64
import time

import orjson
import pytest

from shared.bus import streams
from shared.bus.batches import Batch, pack
from shared.bus.client import EMPTY
from shared.bus.handover import PIPED, STREAMED, sink, take
from shared.contracts import containers as contracts
from shared.contracts import images
from shared.contracts.containers import AttachInfo, PathStat, StatsResult, WaitResult
from shared.errors import DeadlineExceeded, Forbidden, NotFound, Unavailable
from shared.events.record import DomainEvent

from .conftest import dechunk


async def read_head(reader):
    return (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).decode()


async def test_wait_sends_its_head_at_once_and_survives_control(edge):
    exited = asyncio.Event()
    calls = []

    async def wait(request):
        calls.append(request)
        if len(calls) == 1:
            return WaitResult(pending=True, ticket="t1")
        if len(calls) == 2:
            return Unavailable("no service answers")
        if len(calls) == 3:
            return DeadlineExceeded("no answer in time")
        await exited.wait()
        return WaitResult(status_code=7)

    edge.bus.answer(contracts.WAIT, wait)
    reader, writer = await edge.client.open()
    writer.write(edge.client.head("POST", "/containers/x/wait?condition=next-exit"))
    assert "200 OK" in await read_head(reader)
    exited.set()
    assert await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 5) == b'11\r\n{"StatusCode":7}\n\r\n0\r\n\r\n'
    assert [call.ticket for call in calls] == ["", "t1", "t1", "t1"]
    assert (calls[0].patience_s, calls[1].condition) == (0, "next-exit")
    writer.close()


async def test_wait_of_nothing_is_not_found_and_conditions_are_checked(edge):
    edge.bus.answer(contracts.WAIT, NotFound("No such container: x"))
    assert (await edge.client.request("POST", "/containers/x/wait")).status == 404
    assert (await edge.client.request("POST", "/containers/x/wait?condition=foo")).status == 400


def sending(edge, chunks, reply):
    """Accept the request's stream and send chunks on it."""

    async def handler(request):
        stream = await streams.accept(edge.bus, request.stream)

        async def work():
            edge.received = b"".join([chunk async for chunk in stream])
            for chunk in chunks:
                await stream.write(chunk)
            await stream.close_write()
            await stream.aclose()

        edge.task = asyncio.create_task(work())
        return reply

    return handler


def batched(*texts):
    """As the agent sends a log; cut where no batch ends."""
    sent = b"".join(pack(Batch(f"p{number}", text)) for number, text in enumerate(texts))
    return [sent[:5], sent[5:]]


async def test_logs(edge):
    edge.bus.answer(contracts.LOGS, sending(edge, batched(b"one", b"", b"two"), AttachInfo(tty=False)))
    reply = await edge.client.request("GET", "/containers/x/logs?stdout=1&tail=5&since=1.5&timestamps=1")
    assert (reply.status, reply.body) == (200, b"onetwo")
    assert reply.headers["content-type"] == "application/vnd.docker.multiplexed-stream"
    request = edge.bus.requests[0][1]
    assert (request.tail, request.since_ns, request.timestamps, request.stderr) == (5, 1_500_000_000, True, False)


@pytest.mark.parametrize("query", ["", "?stdout=1&since=abc"])
async def test_logs_refuses_what_it_cannot_read(edge, query):
    assert (await edge.client.request("GET", f"/containers/x/logs{query}")).status == 400


async def test_a_client_that_stops_following_cancels_the_log(edge):
    ended = asyncio.get_running_loop().create_future()

    async def logs(request):
        stream = await streams.accept(edge.bus, request.stream)

        async def work():
            await stream.write(b"first")
            try:
                while True:
                    await stream.write(b"x")
                    await asyncio.sleep(0.01)
            except Exception as error:
                ended.set_result(error)

        edge.task = asyncio.create_task(work())
        return AttachInfo(tty=True)

    edge.bus.answer(contracts.LOGS, logs)
    reader, writer = await edge.client.open()
    writer.write(edge.client.head("GET", "/containers/x/logs?stdout=1&follow=1"))
    await read_head(reader)
    writer.close()
    assert isinstance(await asyncio.wait_for(ended, 5), streams.StreamCancelled)


async def test_load_sends_the_body_and_returns_the_progress(edge):
    edge.bus.answer(images.LOAD, sending(edge, [b'{"stream":"Loaded"}\n'], EMPTY))
    reply = await edge.client.request("POST", "/images/load?quiet=1", b"tar" * 1000, json=False)
    assert (reply.status, reply.body) == (200, b'{"stream":"Loaded"}\n')
    assert edge.received == b"tar" * 1000


async def test_an_error_as_first_progress_line_is_the_answer(edge):
    line = orjson.dumps({"errorDetail": {"code": 404, "message": "manifest unknown"}, "error": "manifest unknown"})
    edge.bus.answer(images.PULL, sending(edge, [line + b"\n"], EMPTY))
    reply = await edge.client.request("POST", "/images/create?fromImage=busybox&tag=nope")
    assert (reply.status, orjson.loads(reply.body)) == (404, {"message": "manifest unknown"})


async def test_a_later_error_stays_in_the_stream(edge):
    lines = [b'{"status":"Pulling"}\n', b'{"errorDetail":{"message":"cut"},"error":"cut"}\n']
    edge.bus.answer(images.PULL, sending(edge, lines, EMPTY))
    reply = await edge.client.request("POST", "/images/create?fromImage=busybox&tag=nope")
    assert (reply.status, reply.body) == (200, b"".join(lines))


async def test_a_stream_that_fails_before_its_first_byte_is_an_error(edge):
    async def pull(request):
        stream = await streams.accept(edge.bus, request.stream)

        async def work():
            await stream.fail(Forbidden("denied"))
            await stream.aclose()

        edge.task = asyncio.create_task(work())
        return EMPTY

    edge.bus.answer(images.PULL, pull)
    assert (await edge.client.request("POST", "/images/create?fromImage=busybox")).status == 403


@pytest.mark.parametrize(
    ("query", "ref", "all_tags"),
    [
        ("fromImage=busybox&tag=1.36", "busybox:1.36", False),
        ("fromImage=host:5000/busybox", "host:5000/busybox", True),
        ("fromImage=busybox&tag=sha256:ab", "busybox@sha256:ab", False),
        ("fromImage=busybox:1", "busybox:1", False),
    ],
)
async def test_pull_references(edge, query, ref, all_tags):
    edge.bus.answer(images.PULL, sending(edge, [], EMPTY))
    auth = base64.urlsafe_b64encode(b'{"username":"u","password":"p"}').decode().rstrip("=")
    await edge.client.request("POST", f"/images/create?{query}", headers={"X-Registry-Auth": auth})
    request = edge.bus.requests[0][1]
    assert (request.ref, request.all_tags) == (ref, all_tags)
    assert (request.auth.username, request.auth.password) == ("u", "p")
    assert "'p'" not in repr(request)


async def test_archives(edge):
    stat = PathStat(name="etc", size=4, mode=0o755, mtime="2026-01-01T00:00:00Z")
    edge.bus.answer(contracts.GET_ARCHIVE, sending(edge, [b"tar"], stat))
    edge.bus.answer(contracts.STAT_PATH, stat)
    reply = await edge.client.request("GET", "/containers/x/archive?path=/etc")
    assert (reply.body, reply.headers["content-type"]) == (b"tar", "application/x-tar")
    head = await edge.client.request("HEAD", "/containers/x/archive?path=/etc")
    for answer in (reply, head):
        shown = orjson.loads(base64.b64decode(answer.headers["x-docker-container-path-stat"]))
        assert shown == {"name": "etc", "size": 4, "mode": 493, "mtime": "2026-01-01T00:00:00Z", "linkTarget": ""}
    assert (await edge.client.request("GET", "/containers/x/archive")).status == 400


async def test_an_archive_comes_through_the_pipe_and_its_failure_on_the_stream(edge):
    stat = PathStat(name="etc", size=4, mode=0o755, mtime="2026-01-01T00:00:00Z")
    failures = [None, Unavailable("the disk is failing")]

    async def get(request):
        stream = await streams.accept(edge.bus, request.stream)
        with open(sink(request.pipe), "wb") as pipe:
            pipe.write(b"t" * 300_000)
        if failure := failures.pop(0):
            await stream.fail(failure)
        await stream.aclose()
        return stat

    edge.bus.answer(contracts.GET_ARCHIVE, get)
    whole = await edge.client.request("GET", "/containers/x/archive?path=/etc")
    assert (whole.status, whole.body) == (200, b"t" * 300_000)
    reader, writer = await edge.client.open()
    writer.write(edge.client.head("GET", "/containers/x/archive?path=/etc"))
    assert "200 OK" in await read_head(reader)
    torn = await asyncio.wait_for(reader.read(), 5)  # the connection is cut
    assert not torn.endswith(b"0\r\n\r\n")
    writer.close()


@pytest.mark.parametrize("piped", [True, False])
async def test_put_archive_is_answered_when_it_is_unpacked(edge, piped):
    got = []

    async def put(request):
        stream = await streams.accept(edge.bus, request.stream)
        pipe = take(request.pipe) if piped else None
        await stream.write(PIPED if piped else STREAMED)
        got.append(b"".join([chunk async for chunk in pipe or stream]))
        assert await stream.read() == b""
        if pipe:
            pipe.close()
        await stream.aclose()
        return EMPTY

    edge.bus.answer(contracts.PUT_ARCHIVE, put)
    body = b"t" * 3_000_000
    reply = await edge.client.request("PUT", "/containers/x/archive?path=/", body, json=False)
    assert (reply.status, got) == (200, [body])


async def test_put_archive_to_nothing_is_refused_while_the_body_is_under_way(edge):
    edge.bus.answer(contracts.PUT_ARCHIVE, NotFound("No such container: x"))
    reader, writer = await edge.client.open()
    writer.write(edge.client.head("PUT", "/containers/x/archive?path=/", body=b"t" * 3_000_000))
    assert "404 Not Found" in await read_head(reader)
    writer.write(edge.client.head("GET", "/_ping"))  # the rest of the body is skipped, the connection goes on
    assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\nOK"), 5)).count(b"200 OK") == 1
    writer.close()


async def test_stats_keep_each_clients_previous_sample(edge):
    count = iter(range(1, 9))
    edge.bus.answer(
        contracts.STATS,
        lambda request: StatsResult(stats={"read": f"r{next(count)}", "cpu_stats": {"n": 1}, "precpu_stats": {}}),
    )
    reader, writer = await edge.client.open()
    writer.write(edge.client.head("GET", "/containers/x/stats"))
    await read_head(reader)
    data = b""
    while data.count(b"}\n") < 2:
        data += await asyncio.wait_for(reader.read(4096), 5)
    second = orjson.loads(dechunk(data).splitlines()[1])
    assert (second["preread"], second["precpu_stats"]) == ("r1", {"n": 1})
    writer.close()
    one = await edge.client.request("GET", "/containers/x/stats?stream=0")
    assert orjson.loads(one.body)["cpu_stats"] == {"n": 1}


async def test_a_single_sample_has_one_before_it(edge):
    count = iter(range(1, 9))

    def sample(request):
        number = next(count)
        cpu = {"system_cpu_usage": number}
        return StatsResult(stats={"read": f"r{number}", "cpu_stats": cpu, "precpu_stats": {}})

    edge.bus.answer(contracts.STATS, sample)
    one = orjson.loads((await edge.client.request("GET", "/containers/x/stats?stream=0")).body)
    assert (one["read"], one["preread"], one["precpu_stats"]) == ("r2", "r1", {"system_cpu_usage": 1})
    shot = orjson.loads((await edge.client.request("GET", "/containers/x/stats?stream=0&one-shot=1")).body)
    assert (shot["read"], shot["precpu_stats"]) == ("r3", {})


def event(number, **fields):
    values = {"type": "container", "action": "start", "actor_id": f"id{number}", "time_ns": number * 10**9}
    return DomainEvent(**{**values, **fields})


async def test_events_replay_and_filter(edge):
    edge.events.history = [
        event(1),
        event(2, action="exec_create: sh", attributes={"image": "busybox:1", "name": "web", "a": "b"}),
        event(3, type="network", action="connect"),
        event(9),
    ]

    async def ask(filters, since="0.5", until="5"):
        encoded = orjson.dumps(filters).decode()
        reply = await edge.client.request("GET", f"/v1.51/events?since={since}&until={until}&filters={encoded}")
        assert reply.status == 200
        return [orjson.loads(line) for line in reply.body.splitlines()]

    assert [line["time"] for line in await ask({})] == [1, 2, 3]
    (line,) = await ask({"event": ["exec_create"]})
    assert (line["status"], line["id"], line["from"]) == ("exec_create: sh", "id2", "busybox:1")
    assert (line["Type"], line["Action"], line["scope"], line["timeNano"]) == (
        "container",
        "exec_create: sh",
        "local",
        2 * 10**9,
    )
    assert [line["time"] for line in await ask({"type": {"network": True}})] == [3]
    assert [line["time"] for line in await ask({"image": ["busybox"]})] == [2]
    assert [line["time"] for line in await ask({"container": ["we"]})] == [2]
    assert [line["time"] for line in await ask({"label": ["a=b"]})] == [2]
    assert "status" not in (await ask({"type": ["network"]}))[0]
    assert [line["time"] for line in await ask({}, since="2")] == [2, 3]


async def test_events_that_would_end_before_they_begin_are_refused(edge):
    reply = await edge.client.request("GET", "/events?since=5&until=4.5")
    assert reply.status == 400
    assert b"`since` time (5) cannot be after `until` time (4.5)" in reply.body


async def test_history_is_told_in_the_order_of_time(edge):
    """Services record side by side: what one has recorded may be there before what happened earlier elsewhere."""
    recorded = ((1, "control"), (5, "control"), (2, "network"), (4, "network"), (3, "network"))
    edge.events.history = [event(second).model_copy(update={"service": service}) for second, service in recorded]
    reply = await edge.client.request("GET", "/events?since=0.5&until=9")
    seconds = [orjson.loads(line)["time"] for line in reply.body.splitlines()]
    assert seconds == [1, 2, 4, 3, 5]  # but the order of one service is its own


async def test_events_follow_and_end_at_until(edge):
    reader, writer = await edge.client.open()
    writer.write(edge.client.head("GET", "/events"))
    assert "200 OK" in await read_head(reader)
    edge.events.live.put_nowait(event(5))
    assert b'"id5"' in await asyncio.wait_for(reader.read(4096), 5)
    writer.close()
    soon = f"{time.time() + 0.2:.3f}"
    reply = await edge.client.request("GET", f"/events?until={soon}")
    assert (reply.status, reply.body) == (200, b"")


async def test_a_history_that_takes_longer_than_until_is_told_whole(edge):
    """`--until` a moment ahead, as from a client that has just done something: what was recorded comes all the same."""
    edge.events.history = [event(second).model_copy(update={"sequence": second}) for second in (1, 2, 3)]
    edge.events.pause_s = 0.05
    until = f"{time.time() + 0.08:.3f}"
    reply = await edge.client.request("GET", f"/events?since=0.5&until={until}")
    assert [orjson.loads(line)["time"] for line in reply.body.splitlines()] == [1, 2, 3]


@pytest.mark.parametrize("query", ["since=abc", "filters=xx", "filters=%7B%22nope%22:%5B%22x%22%5D%7D"])
async def test_events_refuses_what_it_cannot_read(edge, query):
    assert (await edge.client.request("GET", f"/events?{query}")).status == 400
