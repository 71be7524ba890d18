"""The way of a build's context to the builder: as a file on one machine, on the stream elsewhere."""

from __future__ import annotations

import asyncio
import os

import orjson
import pytest

from shared import handover, streams
from shared.bus import EMPTY
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
            return Unavailable("the file is on another machine", field="file")
        file = handover.take(request.context) if request.context is not None else None
        stream = await streams.accept(self.bus, request.stream)
        self.tasks.append(asyncio.create_task(self.finish(stream, file)))
        return EMPTY

    async def finish(self, stream, file):
        async with stream:
            if file is not None:
                with file:
                    data = file.read()
            else:
                data = b"".join([chunk async for chunk in stream])
            self.contexts.append(data)
            await stream.write(orjson.dumps({"stream": str(len(data))}) + b"\n")


async def post(edge):
    headers = {"Content-Type": "application/x-tar"}
    return await edge.client.request("POST", "/build?t=x", CONTEXT, headers)


@pytest.mark.parametrize(
    ("here", "elsewhere", "by_file"), [(True, False, [1]), (True, True, [1, 0]), (False, False, [0])]
)
async def test_the_context_arrives_whole(edge, here, elsewhere, by_file):
    if here:
        edge.data_root.mkdir()
    builder = Builder(edge.bus, elsewhere=elsewhere)
    reply = await post(edge)
    assert (reply.status, orjson.loads(reply.body)) == (200, {"stream": str(len(CONTEXT))})
    assert builder.contexts == [CONTEXT]
    assert [request.context is not None for request in builder.requests] == [bool(item) for item in by_file]
    assert not here or list(edge.data_root.iterdir()) == []


async def test_other_refusals_are_not_tried_again(edge):
    edge.data_root.mkdir()
    asked = []

    def refuse(request):
        asked.append(request)
        return Unavailable("no builder")

    edge.bus.answer(images.BUILD, refuse)
    assert (await post(edge)).status == 503
    assert len(asked) == 1


async def test_a_builder_that_stops_reading_says_why(edge):
    edge.data_root.mkdir()

    async def build(request):
        if request.context is not None:
            return Unavailable("the file is on another machine", field="file")
        stream = await streams.accept(edge.bus, request.stream)
        await stream.fail(Conflict("not now"))
        await stream.aclose()
        return EMPTY

    edge.bus.answer(images.BUILD, build)
    reply = await post(edge)
    assert (reply.status, orjson.loads(reply.body)) == (409, {"message": "not now"})
