"""POST /containers/{ref}/wait: the head at once, the exit code when it comes.

The CLI starts a container only after the head of its wait has arrived, so the head means "registered". While control
is away or restarting the question is simply asked again: a client's wait ends with the container, not with a service.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, cast

import orjson
from fastapi import Query
from starlette.responses import Response

from services.api.answers.containers import WaitAnswer
from services.api.call import Call, json_response
from services.api.declared import ContainerName, may
from services.api.requests.containers import WaitCondition, WaitQuery
from services.api.routing import EdgeRouter
from services.api.streaming import flushed
from services.api.versions import Version
from shared.contracts import containers as contracts
from shared.contracts.containers import WaitContainer, WaitResult
from shared.errors import DavitError, DeadlineExceeded, InvalidArgument, Unavailable

PATIENCE_S = 10.0
RETRY_PAUSE_S = 0.2
CONDITIONS = ("not-running", "next-exit", "removed")
FIRST_WAIT_CONDITIONS_VERSION = (1, 30)
WITHOUT_NULL_ERROR_VERSION = (1, 42)


router = EdgeRouter("Container")


def condition_of(query: WaitQuery) -> WaitCondition:
    text = query.condition or "not-running"
    if text not in CONDITIONS:
        raise InvalidArgument(f'invalid condition: "{text}"', field="condition")
    return cast(WaitCondition, text)


@router.post("/containers/{ref}/wait", operation_id="ContainerWait", response_model=WaitAnswer, responses=may(404))
async def wait(call: Call, ref: ContainerName, query: Annotated[WaitQuery, Query()]) -> Response | None:
    """Wait for a container's end, and get its exit code."""
    request = WaitContainer(ref=ref, condition=condition_of(query), patience_s=0)
    result = await call.ask(contracts.WAIT, request)
    if not result.pending:
        return json_response(view(result, call.version))
    if call.version < FIRST_WAIT_CONDITIONS_VERSION:
        return json_response(view(await _until_done(call, request, result), call.version))
    await flushed(_lines(call, request, result), call, media_type="application/json")
    return None


async def _lines(call: Call, request: WaitContainer, result: WaitResult) -> AsyncIterator[bytes]:
    try:
        done = await _until_done(call, request, result)
    except DavitError as error:
        done = WaitResult(status_code=-1, error=error.message)
    yield orjson.dumps(view(done, call.version)) + b"\n"


async def _until_done(call: Call, request: WaitContainer, result: WaitResult) -> WaitResult:
    while result.pending:
        request = request.model_copy(update={"ticket": result.ticket or request.ticket, "patience_s": PATIENCE_S})
        try:
            result = await call.ask(contracts.WAIT, request)
        except (Unavailable, DeadlineExceeded):
            await asyncio.sleep(RETRY_PAUSE_S)
    return result


def view(result: WaitResult, version: Version) -> dict[str, object]:
    shown: dict[str, object] = {"StatusCode": result.status_code}
    if result.error:
        shown["Error"] = {"Message": result.error}
    elif version < WITHOUT_NULL_ERROR_VERSION:
        shown["Error"] = None
    return shown
