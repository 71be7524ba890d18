"""/audit: the engine's own log of what was asked of it. Not Docker's.

``GET /audit?from=N`` follows: as server-sent events where the client accepts them, else as JSON lines. With `wait` it
answers once, with what there is or comes within that time: a long poll.

Source: WHATWG HTML, "Server-sent events" (the form of an event, and `Last-Event-ID`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Header, Query
from starlette.responses import Response

from services.api.auditing.following import Follower
from services.api.call import Call, json_response
from services.api.declared import may, streams
from services.api.query import INT64_HIGHEST, parse_integer
from services.api.requests.audit import (
    CheckpointsQuery,
    ConsistencyQuery,
    ExportQuery,
    FollowQuery,
    InclusionQuery,
)
from services.api.routing import EdgeRouter
from services.api.streaming import download_response, flushed
from services.api.views import audit as views
from shared.bus.client import EMPTY
from shared.bus.streams import ByteStream
from shared.contracts import audit as contracts
from shared.errors import InvalidArgument

EVENT_STREAM = "text/event-stream"
LINES = "application/jsonl"
ZSTD = "application/zstd"
LONGEST_WAIT_S = 300
PAGE = 1000

router = EdgeRouter("Audit")


@router.get("/audit", operation_id="AuditFollow", responses=may(404) | streams(LINES, "Records, one a line."))
async def follow(
    call: Call,
    query: Annotated[FollowQuery, Query()],
    last: Annotated[str, Header(alias="last-event-id", description="The number of the last record that came.")],
) -> Response | None:
    """Records from a number on, as they come."""
    first = query.first
    if first is None and last:
        first = parse_integer("Last-Event-ID", last, lowest=0, highest=INT64_HIGHEST - 1) + 1
    elif first is None:
        first = (await call.ask(contracts.STATE, EMPTY)).size
    _check("from", first)
    if query.wait is not None:
        return await _poll(call, first, query)
    if EVENT_STREAM in call.headers.get("accept", ""):
        await flushed(_events(call.deps.records, first), call, media_type=EVENT_STREAM)
    else:
        await flushed(_lines(call.deps.records, first), call, media_type=LINES)
    return None


async def _poll(call: Call, first: int, query: FollowQuery) -> Response:
    wait_s, limit = query.wait or 0, query.limit or PAGE
    _check("wait", wait_s)
    _check("limit", limit)
    wait_s = min(wait_s, LONGEST_WAIT_S)
    request = contracts.ReadRecords(first=first, limit=limit, wait_s=wait_s)
    page = await call.ask(contracts.READ, request, deadline_s=wait_s + 30)
    body = b"".join(line.encode() + b"\n" for line in page.lines)
    return Response(body, 200, {"X-Audit-Next": str(page.first + len(page.lines))}, LINES)


def _check(name: str, value: int) -> None:
    if value < 0:
        raise InvalidArgument(f"invalid value for {name}: {value} is less than 0", field=name)


async def _lines(follower: Follower, first: int) -> AsyncIterator[bytes]:
    async for _, lines in follower.follow(first):
        if lines:
            yield b"".join(line.encode() + b"\n" for line in lines)


async def _events(follower: Follower, first: int) -> AsyncIterator[bytes]:
    async for begin, lines in follower.follow(first):
        if not lines:
            yield b": still there\n\n"
            continue
        yield b"".join(
            b"id: %d\nevent: record\ndata: %s\n\n" % (at, line.encode()) for at, line in enumerate(lines, begin)
        )


@router.get("/audit/state", operation_id="AuditState", responses=may())
async def state(call: Call) -> Response:
    """How large the log is, its newest checkpoint, and the key that signs it."""
    return json_response(views.state(await call.ask(contracts.STATE, EMPTY)))


@router.get("/audit/checkpoints", operation_id="AuditCheckpoints", responses=may())
async def checkpoints(call: Call, query: Annotated[CheckpointsQuery, Query()]) -> Response:
    """Signed checkpoints from a size of the log on."""
    _check("from", query.size)
    found = await call.ask(contracts.CHECKPOINTS, contracts.ReadCheckpoints(size=query.size, count=query.limit))
    return json_response(views.checkpoints(found))


@router.get("/audit/proof/inclusion", operation_id="AuditProveInclusion", responses=may(404))
async def inclusion(call: Call, query: Annotated[InclusionQuery, Query()]) -> Response:
    """Hashes that lead from a record to the root of the log of a size."""
    request = contracts.ProveInclusion(number=query.number, size=query.size)
    return json_response(views.proof(await call.ask(contracts.INCLUSION, request)))


@router.get("/audit/proof/consistency", operation_id="AuditProveConsistency", responses=may(404))
async def consistency(call: Call, query: Annotated[ConsistencyQuery, Query()]) -> Response:
    """Hashes that show that the log of a size begins with that of another."""
    request = contracts.ProveConsistency(first=query.first, second=query.second)
    return json_response(views.proof(await call.ask(contracts.CONSISTENCY, request)))


@router.get("/audit/sinks", operation_id="AuditSinks", responses=may())
async def sinks(call: Call) -> Response:
    """Where records are delivered, and how far that is."""
    return json_response(views.sinks(await call.ask(contracts.SINKS, EMPTY)))


@router.get("/audit/export", operation_id="AuditExport", responses=may(404) | streams(ZSTD, "JSON lines."))
async def export(call: Call, query: Annotated[ExportQuery, Query()]) -> Response:
    """Records, checkpoints and what else it takes to check them, as JSON lines, compressed with zstd."""
    _check("from", query.first)
    _check("to", query.end)

    async def ask(stream: ByteStream) -> Any:
        return await call.ask(
            contracts.EXPORT, contracts.ExportLog(stream=stream.ref, first=query.first, end=query.end)
        )

    return await download_response(call, ask, media_type=ZSTD)
