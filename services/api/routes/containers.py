"""/containers: life cycle, lists and questions.

Source: Docker Engine API 1.50, Container.
"""

from __future__ import annotations

import secrets

from pydantic import Field
from starlette.responses import Response

from services.api.call import Call, Routes, empty_response, json_response
from services.api.repeating import ATTEMPTS, until_answered
from services.api.views import containers as views
from shared.bus.client import Contract, Empty
from shared.contracts import containers as contracts
from shared.contracts.docker import ContainerConfig, HostConfig, NetworkingConfig, Resources, RestartPolicy
from shared.errors import Conflict, DeadlineExceeded, Interrupted, InvalidArgument, NotFound, NotModified

DEFAULT_STOP_TIMEOUT_S = 10
STOP_MARGIN_S = 20.0
# What ends a process, or is taken for a wish to end it, however often it is sent. Empty is SIGKILL.
ENDING_SIGNALS = ("", "KILL", "9", "TERM", "15")


class CreateBody(ContainerConfig):
    """The configuration, with two objects beside its own fields."""

    host_config: HostConfig | None = None
    networking_config: NetworkingConfig | None = None

    def says_nothing(self) -> bool:
        return not self.model_fields_set - {"host_config", "networking_config"}


class UpdateBody(Resources):
    restart_policy: RestartPolicy | None = Field(default=None)


def ref_of(call: Call) -> contracts.ContainerRef:
    return contracts.ContainerRef(ref=call.path("ref"))


async def create(call: Call) -> Response:
    body = await call.json_body(CreateBody)
    if body.says_nothing():
        raise InvalidArgument("Config cannot be empty in order to create a container")
    request = contracts.CreateContainer(
        id=secrets.token_hex(32),
        name=call.params.text("name").removeprefix("/"),
        config=body,
        host_config=body.host_config or HostConfig(),
        networking_config=body.networking_config or NetworkingConfig(),
        platform=call.params.text("platform"),
        api_version="{}.{}".format(*call.version),
    )

    async def ask(attempt: int) -> contracts.CreatedContainer:
        request.repeated = attempt > 0
        return await call.ask(contracts.CREATE, request)

    created = await until_answered(ask)
    assert created is not None  # no error counts as done
    return json_response({"Id": created.id, "Warnings": created.warnings}, 201)


async def start(call: Call) -> Response:
    if call.has_body() and (await call.read_body()).strip() not in (b"", b"{}", b"null"):
        raise InvalidArgument(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24"
        )
    if call.params.text("checkpoint"):
        raise InvalidArgument("starting from a checkpoint is not supported by this engine", field="checkpoint")
    request = contracts.StartContainer(
        ref=call.path("ref"), detach_keys=call.params.text("detachKeys"), key=secrets.token_hex(8)
    )
    # A container that is gone by the second time ran, and removed itself.
    await until_answered(lambda _: call.ask(contracts.START, request), done=(NotModified, NotFound))
    return empty_response()


def stop_request(call: Call, key: str = "") -> contracts.StopContainer:
    timeout = call.params.integer("t") if call.params.text("t") else None
    return contracts.StopContainer(ref=call.path("ref"), timeout_s=timeout, signal=call.params.text("signal"), key=key)


async def stop(call: Call) -> Response:
    """Stopping may take as long as the container likes; ask again until it is done, also when control restarts."""
    request = stop_request(call)
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


async def restart(call: Call) -> Response:
    request = stop_request(call, secrets.token_hex(8))
    start_margin_s = 100.0
    deadline_s = _patience(request.timeout_s) + start_margin_s
    await until_answered(lambda _: call.ask(contracts.RESTART, request, deadline_s=deadline_s))
    return empty_response()


async def kill(call: Call) -> Response:
    request = contracts.KillContainer(ref=call.path("ref"), signal=call.params.text("signal"))
    if request.signal.upper().removeprefix("SIG") in ENDING_SIGNALS:
        await until_answered(lambda _: call.ask(contracts.KILL, request), done=(Conflict, NotFound))
    else:  # a second SIGHUP is not the same as one
        await call.ask(contracts.KILL, request)
    return empty_response()


async def pause(call: Call) -> Response:
    await _become(call, contracts.PAUSE, "paused")
    return empty_response()


async def unpause(call: Call) -> Response:
    await _become(call, contracts.UNPAUSE, "running")
    return empty_response()


async def _become(call: Call, contract: Contract[contracts.ContainerRef, Empty], status: contracts.Status) -> None:
    """Ask for a change of state; a repetition that is refused has succeeded when the state is the one asked for."""

    async def ask(attempt: int) -> None:
        try:
            await call.ask(contract, ref_of(call))
        except Conflict:
            if attempt == 0 or await _status(call) != status:
                raise

    await until_answered(ask)


async def _status(call: Call) -> contracts.Status:
    return (await call.ask(contracts.INSPECT, contracts.InspectContainer(ref=call.path("ref")))).state.status


async def rename(call: Call) -> Response:
    name = call.params.text("name").removeprefix("/")
    if not name:
        raise InvalidArgument("Neither old nor new names may be empty", field="name")
    request = contracts.RenameContainer(ref=call.path("ref"), name=name)
    # It is not found by its old name any more, or has the new one already.
    await until_answered(lambda _: call.ask(contracts.RENAME, request), done=(NotFound, InvalidArgument))
    return empty_response()


async def update(call: Call) -> Response:
    body = await call.json_body(UpdateBody)
    sent = body.model_fields_set - {"restart_policy"}
    resources = Resources(**{name: getattr(body, name) for name in sent})
    request = contracts.UpdateContainer(
        ref=call.path("ref"), resources=resources, restart_policy=body.restart_policy, set_fields=sorted(sent)
    )
    result = await until_answered(lambda _: call.ask(contracts.UPDATE, request))
    assert result is not None  # no error counts as done
    return json_response({"Warnings": result.warnings})


async def resize(call: Call) -> Response:
    height, width = call.params.required_integer("h"), call.params.required_integer("w")
    await call.ask(contracts.RESIZE, contracts.ResizeContainer(ref=call.path("ref"), height=height, width=width))
    return empty_response(200)


async def remove(call: Call) -> Response:
    params = call.params
    request = contracts.RemoveContainer(
        ref=call.path("ref"), force=params.flag("force"), volumes=params.flag("v"), link=params.flag("link")
    )
    await until_answered(lambda _: call.ask(contracts.REMOVE, request), done=(NotFound,))
    return empty_response()


async def inspect(call: Call) -> Response:
    container = await call.ask(
        contracts.INSPECT, contracts.InspectContainer(ref=call.path("ref"), size=call.params.flag("size"))
    )
    headers = {"Davit-As-Of": container.as_of} if container.stale else None
    return json_response(views.container(container, call.version, call.deps.facts.data_root), headers=headers)


async def list_all(call: Call) -> Response:
    """All pages in one answer: Docker's lists have no pages."""
    params = call.params
    limit = max(params.integer("limit"), 0)
    request = contracts.ListContainers(
        all=params.flag("all") or limit > 0, limit=limit, size=params.flag("size"), filters=params.filters()
    )
    lines = []
    while True:
        page = await call.ask(contracts.LIST, request)
        lines += [views.summary(item, call.version) for item in page.containers]
        if not page.next or (limit and len(lines) >= limit):
            break
        request = request.model_copy(update={"after": page.next})
    return json_response(lines[:limit] if limit else lines)


async def top(call: Call) -> Response:
    result = await call.ask(
        contracts.TOP, contracts.Top(ref=call.path("ref"), ps_args=call.params.text("ps_args") or "-ef")
    )
    return json_response({"Titles": result.titles, "Processes": result.processes})


async def changes(call: Call) -> Response:
    result = await call.ask(contracts.CHANGES, ref_of(call))
    return json_response([{"Path": change.path, "Kind": change.kind} for change in result.changes] or None)


async def prune(call: Call) -> Response:
    pruned = await call.ask(contracts.PRUNE, contracts.Prune(filters=call.params.filters()))
    return json_response({"ContainersDeleted": pruned.ids or None, "SpaceReclaimed": pruned.space_reclaimed_bytes})


ROUTES: Routes = (
    ("POST", "/containers/create", create),
    ("GET", "/containers/json", list_all),
    ("POST", "/containers/prune", prune),
    ("POST", "/containers/{ref}/start", start),
    ("GET", "/containers/{ref}/json", inspect),
    ("POST", "/containers/{ref}/stop", stop),
    ("POST", "/containers/{ref}/restart", restart),
    ("POST", "/containers/{ref}/kill", kill),
    ("POST", "/containers/{ref}/pause", pause),
    ("POST", "/containers/{ref}/unpause", unpause),
    ("POST", "/containers/{ref}/rename", rename),
    ("POST", "/containers/{ref}/update", update),
    ("POST", "/containers/{ref}/resize", resize),
    ("DELETE", "/containers/{ref}", remove),
    ("GET", "/containers/{ref}/top", top),
    ("GET", "/containers/{ref}/changes", changes),
)
