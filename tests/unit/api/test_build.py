"""The way of a build's context to the builder: through a pipe on one machine, on the stream elsewhere."""

from __future__ import annotations

import asyncio
import os

import orjson
import pytest

from shared.bus import handover, streams
from shared.bus.client import EMPTY
from shared.contracts import images
from shared.errors import Conflict, Unavailable

CONTEXT = os.urandom(3 << 20)


class Builder:
    """Answers builds with the length of the context, and keeps it."""

    def __init__(self, bus, *, elsewhere=False):
        self.bus = bus
        self.elsewhere = elsewhere
        self.contexts = []
        self.requests = []
        self.tasks = []
        bus.answer(images.BUILD, self.build)

    async def build(self, request):
        self.requests.append(request)
        if request.context is not None and self.elsewhere:
            return Unavailable("the pipe is on another machine", field="file")
        pipe = handover.take(request.context) if request.context is not None else None
        stream = await streams.accept(self.bus, request.stream)
        self.tasks.append(asyncio.create_task(self.finish(stream, pipe)))
        return EMPTY

    async def finish(self, stream, pipe):
        async with stream:
            data = b"" if pipe is None else b"".join([chunk async for chunk in pipe])
            if pipe is not None:
                pipe.close()
            data += b"".join([chunk async for chunk in stream])
            self.contexts.append(data)
            await stream.write(orjson.dumps({"stream": str(len(data))}) + b"\n")


async def post(edge):
    headers = {"Content-Type": "application/x-tar"}
    return await edge.client.request("POST", "/build?t=x", CONTEXT, headers)


@pytest.mark.parametrize(("elsewhere", "by_pipe"), [(False, [True]), (True, [True, False])])
async def test_the_context_arrives_whole(edge, elsewhere, by_pipe):
    builder = Builder(edge.bus, elsewhere=elsewhere)
    reply = await post(edge)
    assert (reply.status, orjson.loads(reply.body)) == (200, {"stream": str(len(CONTEXT))})
    assert builder.contexts == [CONTEXT]
    assert [request.context is not None for request in builder.requests] == by_pipe


async def test_a_builder_that_lets_go_of_the_pipe_says_why(edge):
    tasks = []

    async def stop(pipe, stream):
        await anext(pipe)
        pipe.close()
        await stream.fail(Conflict("not now"))
        await stream.aclose()

    async def build(request):
        pipe = handover.take(request.context)
        stream = await streams.accept(edge.bus, request.stream)
        tasks.append(asyncio.create_task(stop(pipe, stream)))
        return EMPTY

    edge.bus.answer(images.BUILD, build)
    reply = await post(edge)
    assert (reply.status, orjson.loads(reply.body)) == (409, {"message": "not now"})


async def test_other_refusals_are_not_tried_again(edge):
    asked = []

    def refuse(request):
        asked.append(request)
        return Unavailable("no builder")

    edge.bus.answer(images.BUILD, refuse)
    assert (await post(edge)).status == 503
    assert len(asked) == 1


async def test_a_builder_that_stops_reading_says_why(edge):

    async def build(request):
        if request.context is not None:
            return Unavailable("the pipe is on another machine", field="file")
        stream = await streams.accept(edge.bus, request.stream)
        await stream.fail(Conflict("not now"))
        await stream.aclose()
        return EMPTY

    edge.bus.answer(images.BUILD, build)
    reply = await post(edge)
    assert (reply.status, orjson.loads(reply.body)) == (409, {"message": "not now"})
