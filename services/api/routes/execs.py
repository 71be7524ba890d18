"""Execs: processes added to a running container.

Source: Docker Engine API 1.50, Exec.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from services.api.answers.containers import ExecInspect, Identified
from services.api.call import Call, empty_response, json_response
from services.api.declared import ContainerName, ExecName, may
from services.api.detach import DEFAULT_KEYS, DetachKeys
from services.api.framing import reframed
from services.api.hijack import RawConnection
from services.api.repeating import Offers, until_answered
from services.api.requests.containers import ExecBody, ExecStartBody, ResizeQuery
from services.api.routes.attach import HIJACKED, content_type
from services.api.routing import EdgeRouter
from services.api.streaming import pump, tell
from services.api.views import containers as views
from shared.contracts import containers as contracts
from shared.contracts.containers import CreateExec, Detached, ExecId, ExecRef, ResizeExec, StartExec
from shared.docker.frames import STDOUT, SYSTEM_ERROR
from shared.errors import Conflict, DavitError, DeadlineExceeded, InvalidArgument, Unavailable

# A refusal can be faster than any process; the client gets this long to read the head.
AFTER_HEAD_S = 0.02


router = EdgeRouter("Exec")


@router.post(
    "/containers/{ref}/exec",
    operation_id="ContainerExec",
    response_model=Identified,
    status_code=201,
    responses=may(404, 409),
)
async def create(call: Call, ref: ContainerName, body: ExecBody) -> Response:
    """Prepare a process in a running container."""
    DetachKeys(body.detach_keys or DEFAULT_KEYS)  # refused now, not when it is started
    if not body.cmd:
        raise InvalidArgument("No exec command specified", field="Cmd")
    request = CreateExec(
        id=secrets.token_hex(32),
        ref=ref,
        cmd=body.cmd,
        env=body.env,
        user=body.user,
        working_dir=body.working_dir,
        privileged=body.privileged,
        tty=body.tty,
        attach_stdin=body.attach_stdin,
        attach_stdout=body.attach_stdout,
        attach_stderr=body.attach_stderr,
        detach_keys=body.detach_keys,
        console_size=body.console_size,
    )

    async def ask(attempt: int) -> ExecId:
        request.repeated = attempt > 0
        return await call.ask(contracts.EXEC_CREATE, request)

    created = await until_answered(ask)
    assert created is not None  # no error counts as done
    return json_response({"Id": created.id}, 201)


@router.post(
    "/exec/{exec_id}/start", operation_id="ExecStart", response_class=Response, responses=HIJACKED | may(404, 409)
)
async def start(call: Call, exec_id: ExecName, body: ExecStartBody) -> Response | None:
    """Start the process and join it.

    The head leaves before the process runs: some clients read it through a buffer that they then drop, with whatever
    output came along. So what would refuse the exec is asked for first, and a failure to run its command is told in
    the output, as Docker tells it.
    """
    size = body.console_size if body.tty else []  # no size without a terminal
    request = StartExec(id=exec_id, detach=body.detach, tty=body.tty, console_size=size)
    if body.detach:
        await _ask_to_start(call, request, None)
        return empty_response(200)
    found = await call.ask(contracts.EXEC_INSPECT, ExecRef(id=request.id))
    if found.running or found.exit_code is not None:
        raise Conflict(f"Error: Exec command {found.id} has already run")
    connection = await call.hijack(content_type(call, body.tty).encode())
    offers = Offers(call.deps.offer)
    try:
        await _ask_to_start(call, request, offers)
    except DavitError as error:
        await offers.end()
        await _refuse(connection, error, body.tty)
        return None
    except BaseException:
        await offers.end()
        raise
    keys = DetachKeys(found.detach_keys or DEFAULT_KEYS)
    stream = await offers.accepted()
    output = reframed(stream, has_tty=found.tty, wants_tty=body.tty)
    await pump(
        connection, stream, tty=body.tty, output=output, detach=keys if found.tty and found.attach_stdin else None
    )
    if keys.seen:
        await call.ask(contracts.DETACHED, Detached(ref=found.container_id, exec_id=found.id))
    return None


async def _ask_to_start(call: Call, request: StartExec, offers: Offers | None) -> None:
    async def ask(attempt: int) -> None:
        request.repeated = attempt > 0
        if offers is not None:
            request.stream = (await offers.another()).ref
        await call.ask(contracts.EXEC_START, request)

    await until_answered(ask)


async def _refuse(connection: RawConnection, error: DavitError, tty: bool) -> None:
    """A failure of the command is output, as with Docker; when it is unknown whether it runs, that is none."""
    await asyncio.sleep(AFTER_HEAD_S)
    unknown = isinstance(error, Unavailable | DeadlineExceeded)
    try:
        await tell(connection, error.message, tty=tty, stream=SYSTEM_ERROR if unknown else STDOUT)
    finally:
        await connection.finish()


@router.get("/exec/{exec_id}/json", operation_id="ExecInspect", response_model=ExecInspect, responses=may(404))
async def inspect(call: Call, exec_id: ExecName) -> Response:
    """All about such a process."""

    async def ask() -> object:
        return views.exec_process(await call.ask(contracts.EXEC_INSPECT, ExecRef(id=exec_id)))

    return await call.read_json(("control",), ask)


@router.post("/exec/{exec_id}/resize", operation_id="ExecResize", response_class=Response, responses=may(404, 409))
async def resize(call: Call, exec_id: ExecName, query: Annotated[ResizeQuery, Query()]) -> Response:
    """Set the size of its terminal."""
    await call.ask(contracts.EXEC_RESIZE, ResizeExec(id=exec_id, height=query.h, width=query.w))
    return empty_response(200)
