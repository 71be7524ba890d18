"""GET /containers/{ref}/stats: one sample, or one every second.

Source: Docker Engine API 1.50, ContainerStats.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
from starlette.responses import Response

from services.api.call import Call, Routes, json_response
from services.api.streaming import flushed
from shared.contracts import containers as contracts
from shared.contracts.containers import Stats
from shared.errors import DeadlineExceeded, InvalidArgument, NotFound, Unavailable

PERIOD_S = 1.0


async def stats(call: Call) -> Response | None:
    stream, one_shot = call.params.flag("stream", True), call.params.flag("one-shot")
    if stream and one_shot:
        raise InvalidArgument("cannot have stream=true and one-shot=true")
    request = Stats(ref=call.path("ref"), one_shot=one_shot)
    first = (await call.ask(contracts.STATS, request)).stats
    if not stream:
        return json_response(first)
    await flushed(_samples(call, request, first), call, media_type="application/json")
    return None


async def _samples(call: Call, request: Stats, sample: dict[str, Any]) -> AsyncIterator[bytes]:
    """Each sample with this client's own previous one beside it, until the container is removed."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    while True:
        yield orjson.dumps(sample) + b"\n"
        due = max(due + PERIOD_S, loop.time())
        await asyncio.sleep(due - loop.time())
        try:
            following = (await call.ask(contracts.STATS, request)).stats
        except NotFound:
            return
        except (Unavailable, DeadlineExceeded):
            continue  # the node is away for now: the last sample again, as clients expect one every second
        following["preread"] = sample.get("read", "")
        following["precpu_stats"] = sample.get("cpu_stats", {})
        sample = following


ROUTES: Routes = (("GET", "/containers/{ref}/stats", stats),)
