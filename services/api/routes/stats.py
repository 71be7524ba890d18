"""GET /containers/{ref}/stats: one sample, or one every second.

Source: Docker Engine API 1.50, ContainerStats.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

import orjson
from fastapi import Query
from starlette.responses import Response

from services.api.answers import stats as answers
from services.api.call import Call, json_response
from services.api.declared import ContainerName, lines, may
from services.api.requests.containers import StatsQuery
from services.api.routing import EdgeRouter
from services.api.streaming import flushed
from shared.contracts import containers as contracts
from shared.contracts.containers import Stats
from shared.errors import DeadlineExceeded, InvalidArgument, NotFound, Unavailable

PERIOD_S = 1.0
MOMENT_S = 0.5
WITH_OS_TYPE = (1, 52)

router = EdgeRouter("Container")


@router.get(
    "/containers/{ref}/stats",
    operation_id="ContainerStats",
    response_class=Response,
    responses=lines(answers.Stats, "The samples.") | may(404),
)
async def stats(call: Call, ref: ContainerName, query: Annotated[StatsQuery, Query()]) -> Response | None:
    """What a container uses: one sample, or one every second."""
    stream, one_shot = query.stream, query.one_shot
    if stream and one_shot:
        raise InvalidArgument("cannot have stream=true and one-shot=true")
    request = Stats(ref=ref, one_shot=one_shot)
    first = await _sample(call, request)
    if not stream:
        return json_response(first if one_shot or has_previous(first) else await _second(call, request, first))
    await flushed(_samples(call, request, first), call, media_type="application/json")
    return None


async def _sample(call: Call, request: Stats) -> dict[str, Any]:
    sample = (await call.ask(contracts.STATS, request)).stats
    return sample | {"os_type": "linux"} if call.version >= WITH_OS_TYPE else sample


def has_previous(sample: dict[str, Any]) -> bool:
    """Whether a rate can be computed from it; also true for a container that does not run and has none."""
    return bool(sample["precpu_stats"].get("system_cpu_usage")) or not sample["cpu_stats"].get("system_cpu_usage")


async def _second(call: Call, request: Stats, first: dict[str, Any]) -> dict[str, Any]:
    """A sample with one before it, a moment apart: clients show the CPU use between the two."""
    await asyncio.sleep(MOMENT_S)
    return beside(await _sample(call, request), first)


def beside(sample: dict[str, Any], previous: dict[str, Any]) -> dict[str, Any]:
    return sample | {"preread": previous.get("read", ""), "precpu_stats": previous.get("cpu_stats", {})}


async def _samples(call: Call, request: Stats, sample: dict[str, Any]) -> AsyncIterator[bytes]:
    """Each sample with this client's own previous one beside it, until the container is removed."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    while True:
        yield orjson.dumps(sample) + b"\n"
        due = max(due + PERIOD_S, loop.time())
        await asyncio.sleep(due - loop.time())
        try:
            following = await _sample(call, request)
        except NotFound:
            return
        except (Unavailable, DeadlineExceeded):
            continue  # the node is away for now: the last sample again, as clients expect one every second
        sample = beside(following, sample)
