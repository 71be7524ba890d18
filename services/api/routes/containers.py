"""/containers: life cycle, lists and questions.

Source: Docker Engine API 1.50, Container.
"""

from __future__ import annotations

import secrets
from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from services.api.answers import containers as answers
from services.api.call import Call, empty_response, encoded, json_response
from services.api.declared import ContainerName, may
from services.api.reads import Answer, Fixed
from services.api.repeating import ATTEMPTS, until_answered
from services.api.requests import containers as requests
from services.api.requests.ageing import to_version
from services.api.routing import EdgeRouter
from services.api.views import containers as views
from services.api.views.lines import Line, Lines
from shared.bus.client import Contract, Empty
from shared.contracts import containers as contracts
from shared.contracts.docker import HostConfig, NetworkingConfig, Resources
from shared.docker.status import FOR_EVER_NS
from shared.errors import Conflict, DeadlineExceeded, Interrupted, InvalidArgument, NotFound, NotModified

DEFAULT_STOP_TIMEOUT_S = 10
STOP_MARGIN_S = 20.0
# What ends a process, or is taken for a wish to end it, however often it is sent. Empty is SIGKILL.
ENDING_SIGNALS = ("", "KILL", "9", "TERM", "15")


router = EdgeRouter("Container")


@router.post(
    "/containers/create",
    operation_id="ContainerCreate",
    response_model=answers.Created,
    status_code=201,
    responses=may(404, 409),
)
async def create(call: Call, query: Annotated[requests.CreateQuery, Query()], body: requests.ContainerBody) -> Response:
    """Create a container."""
    if body.says_nothing():
        raise InvalidArgument("Config cannot be empty in order to create a container")
    to_version(body, call.version)
    request = contracts.CreateContainer(
        id=secrets.token_hex(32),
        name=query.name.removeprefix("/"),
        config=body,
        host_config=body.host_config or HostConfig(),
        networking_config=body.networking_config or NetworkingConfig(),
        platform=query.platform,
        api_version="{}.{}".format(*call.version),
    )

    async def ask(attempt: int) -> contracts.CreatedContainer:
        request.repeated = attempt > 0
        return await call.ask(contracts.CREATE, request)

    created = await until_answered(ask)
    assert created is not None  # no error counts as done
    return json_response({"Id": created.id, "Warnings": created.warnings}, 201)


@router.post("/containers/{ref}/start", operation_id="ContainerStart", status_code=204, responses=may(304, 404, 409))
async def start(call: Call, ref: ContainerName, query: Annotated[requests.StartQuery, Query()]) -> Response:
    """Start a container. A body must not say anything."""
    if call.has_body() and (await call.read_body()).strip() not in (b"", b"{}", b"null"):
        raise InvalidArgument(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24"
        )
    if query.checkpoint:
        raise InvalidArgument("starting from a checkpoint is not supported by this engine", field="checkpoint")
    request = contracts.StartContainer(ref=ref, detach_keys=query.detach_keys, key=secrets.token_hex(8))
    # A container that is gone by the second time ran, and removed itself.
    await until_answered(lambda _: call.ask(contracts.START, request), done=(NotModified, NotFound))
    return empty_response()


def stop_request(ref: str, query: requests.StopQuery, key: str = "") -> contracts.StopContainer:
    return contracts.StopContainer(ref=ref, timeout_s=query.t, signal=query.signal, key=key)


@router.post("/containers/{ref}/stop", operation_id="ContainerStop", status_code=204, responses=may(304, 404))
async def stop(call: Call, ref: ContainerName, query: Annotated[requests.StopQuery, Query()]) -> Response:
    """Stop a container, and wait until it has stopped.

    Stopping may take as long as the container likes; ask again until it is done, also when control restarts.
    """
    request = stop_request(ref, query)
    first, interruptions = True, 0
    while True:
        try:
            await call.ask(contracts.STOP, request, deadline_s=_patience(request.timeout_s))
            return empty_response()
        except Interrupted:
            first, interruptions = False, interruptions + 1
            if interruptions == ATTEMPTS:
                raise
        except DeadlineExceeded:
            first = False
        except (NotModified, NotFound):
            if first:
                raise
            return empty_response()  # an earlier attempt did it


def _patience(timeout_s: int | None) -> float:
    wanted = DEFAULT_STOP_TIMEOUT_S if timeout_s is None or timeout_s < 0 else timeout_s
    return wanted + STOP_MARGIN_S


@router.post("/containers/{ref}/restart", operation_id="ContainerRestart", status_code=204, responses=may(404))
async def restart(call: Call, ref: ContainerName, query: Annotated[requests.StopQuery, Query()]) -> Response:
    """Stop a container, if it runs, and start it."""
    request = stop_request(ref, query, secrets.token_hex(8))
    start_margin_s = 100.0
    deadline_s = _patience(request.timeout_s) + start_margin_s
    await until_answered(lambda _: call.ask(contracts.RESTART, request, deadline_s=deadline_s))
    return empty_response()


@router.post("/containers/{ref}/kill", operation_id="ContainerKill", status_code=204, responses=may(404, 409))
async def kill(call: Call, ref: ContainerName, query: Annotated[requests.KillQuery, Query()]) -> Response:
    """Send a signal to a container's process."""
    request = contracts.KillContainer(ref=ref, signal=query.signal)
    if request.signal.upper().removeprefix("SIG") in ENDING_SIGNALS:
        await until_answered(lambda _: call.ask(contracts.KILL, request), done=(Conflict, NotFound))
    else:  # a second SIGHUP is not the same as one
        await call.ask(contracts.KILL, request)
    return empty_response()


@router.post("/containers/{ref}/pause", operation_id="ContainerPause", status_code=204, responses=may(404, 409))
async def pause(call: Call, ref: ContainerName) -> Response:
    """Freeze a container's processes."""
    await _become(call, ref, contracts.PAUSE, "paused")
    return empty_response()


@router.post("/containers/{ref}/unpause", operation_id="ContainerUnpause", status_code=204, responses=may(404, 409))
async def unpause(call: Call, ref: ContainerName) -> Response:
    """Let a frozen container go on."""
    await _become(call, ref, contracts.UNPAUSE, "running")
    return empty_response()


async def _become(
    call: Call, ref: str, contract: Contract[contracts.ContainerRef, Empty], status: contracts.Status
) -> None:
    """Ask for a change of state; a repetition that is refused has succeeded when the state is the one asked for."""

    async def ask(attempt: int) -> None:
        try:
            await call.ask(contract, contracts.ContainerRef(ref=ref))
        except Conflict:
            if attempt == 0 or await _status(call, ref) != status:
                raise

    await until_answered(ask)


async def _status(call: Call, ref: str) -> contracts.Status:
    return (await call.ask(contracts.INSPECT, contracts.InspectContainer(ref=ref))).state.status


@router.post("/containers/{ref}/rename", operation_id="ContainerRename", status_code=204, responses=may(404, 409))
async def rename(call: Call, ref: ContainerName, query: Annotated[requests.RenameQuery, Query()]) -> Response:
    """Give a container another name."""
    name = query.name.removeprefix("/")
    if not name:
        raise InvalidArgument("Neither old nor new names may be empty", field="name")
    request = contracts.RenameContainer(ref=ref, name=name)
    # It is not found by its old name any more, or has the new one already.
    await until_answered(lambda _: call.ask(contracts.RENAME, request), done=(NotFound, InvalidArgument))
    return empty_response()


@router.post(
    "/containers/{ref}/update",
    operation_id="ContainerUpdate",
    response_model=answers.Updated,
    responses=may(404, 409),
)
async def update(call: Call, ref: ContainerName, body: requests.UpdateBody) -> Response:
    """Change a container's limits and restart policy."""
    sent = body.model_fields_set - {"restart_policy"}
    resources = Resources(**{name: getattr(body, name) for name in sent})
    request = contracts.UpdateContainer(
        ref=ref, resources=resources, restart_policy=body.restart_policy, set_fields=sorted(sent)
    )
    result = await until_answered(lambda _: call.ask(contracts.UPDATE, request))
    assert result is not None  # no error counts as done
    return json_response({"Warnings": result.warnings})


@router.post(
    "/containers/{ref}/resize",
    operation_id="ContainerResize",
    status_code=200,
    response_class=Response,
    responses=may(404, 409),
)
async def resize(call: Call, ref: ContainerName, query: Annotated[requests.ResizeQuery, Query()]) -> Response:
    """Set the size of a container's terminal."""
    await call.ask(contracts.RESIZE, contracts.ResizeContainer(ref=ref, height=query.h, width=query.w))
    return empty_response(200)


@router.delete("/containers/{ref}", operation_id="ContainerDelete", status_code=204, responses=may(404, 409))
async def remove(call: Call, ref: ContainerName, query: Annotated[requests.RemoveQuery, Query()]) -> Response:
    """Remove a container."""
    request = contracts.RemoveContainer(ref=ref, force=query.force, volumes=query.v, link=query.link)
    await until_answered(lambda _: call.ask(contracts.REMOVE, request), done=(NotFound,))
    return empty_response()


@router.get(
    "/containers/{ref}/json",
    operation_id="ContainerInspect",
    response_model=answers.ContainerInspect,
    responses=may(404),
)
async def inspect(call: Call, ref: ContainerName, query: Annotated[requests.InspectQuery, Query()]) -> Response:
    """All about a container."""

    async def ask() -> Answer:
        container = await call.ask(contracts.INSPECT, contracts.InspectContainer(ref=ref, size=query.size))
        headers = {"Davit-As-Of": container.as_of} if container.stale else {}
        content = views.container(container, call.version, call.deps.facts.data_root)
        if call.deps.membership is not None:
            content["Node"] = {"Name": container.node}
        # Sizes are the node's to tell, each time anew.
        return Answer(Fixed(encoded(content)), headers, until_ns=0 if query.size else container.known_until_ns)

    return await call.read(("control",), ask)


@router.get(
    "/containers/json",
    operation_id="ContainerList",
    response_model=list[answers.ContainerSummary],
    responses=may(),
)
async def list_all(call: Call, query: Annotated[requests.ListQuery, Query()]) -> Response:
    """The containers, the newest first.

    All pages in one answer: Docker's lists have no pages.
    """
    limit = max(query.limit, 0)
    request = contracts.ListContainers(
        all=query.all or limit > 0, limit=limit, size=query.size, filters=query.filters, coded=True
    )

    async def ask() -> Answer:
        lines: list[Line] = []
        after, partial = "", request.size
        while True:
            page = await call.ask(contracts.LIST, request.model_copy(update={"after": after}))
            lines += [Line.of(item, call.version) for item in page.containers]
            after, partial = page.next, partial or page.partial
            if not after or (limit and len(lines) >= limit):
                break
        return Answer(Lines(lines[:limit] if limit else lines), until_ns=0 if partial else FOR_EVER_NS)

    return await call.read(("control", "image"), ask)


@router.get(
    "/containers/{ref}/top", operation_id="ContainerTop", response_model=answers.Processes, responses=may(404, 409)
)
async def top(call: Call, ref: ContainerName, query: Annotated[requests.TopQuery, Query()]) -> Response:
    """The processes in a container."""
    result = await call.ask(contracts.TOP, contracts.Top(ref=ref, ps_args=query.ps_args or "-ef"))
    return json_response({"Titles": result.titles, "Processes": result.processes})


@router.get(
    "/containers/{ref}/changes",
    operation_id="ContainerChanges",
    response_model=list[answers.Change] | None,
    responses=may(404),
)
async def changes(call: Call, ref: ContainerName) -> Response:
    """What a container has changed in its files."""
    result = await call.ask(contracts.CHANGES, contracts.ContainerRef(ref=ref))
    return json_response([{"Path": change.path, "Kind": change.kind} for change in result.changes] or None)


@router.post(
    "/containers/prune", operation_id="ContainerPrune", response_model=answers.ContainersPruned, responses=may()
)
async def prune(call: Call, query: Annotated[requests.FiltersQuery, Query()]) -> Response:
    """Remove the containers that do not run."""
    pruned = await call.ask(contracts.PRUNE, contracts.Prune(filters=query.filters))
    return json_response({"ContainersDeleted": pruned.ids or None, "SpaceReclaimed": pruned.space_reclaimed_bytes})
