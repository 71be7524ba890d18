"""/containers: life cycle, lists and questions.

Source: Docker Engine API 1.50, Container.
"""

from __future__ import annotations

from pydantic import Field
from starlette.responses import Response

from services.api.call import Call, Routes, empty_response, json_response
from services.api.streaming import retry_not_modified
from services.api.views import containers as views
from shared.contracts import containers as contracts
from shared.contracts.docker import ContainerConfig, HostConfig, NetworkingConfig, Resources, RestartPolicy
from shared.errors import DeadlineExceeded, InvalidArgument

DEFAULT_STOP_TIMEOUT_S = 10
STOP_MARGIN_S = 20.0


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
    created = await call.ask(
        contracts.CREATE,
        contracts.CreateContainer(
            name=call.params.text("name").removeprefix("/"),
            config=body,
            host_config=body.host_config or HostConfig(),
            networking_config=body.networking_config or NetworkingConfig(),
            platform=call.params.text("platform"),
            api_version="{}.{}".format(*call.version),
        ),
    )
    return json_response({"Id": created.id, "Warnings": created.warnings}, 201)


async def start(call: Call) -> Response:
    if call.has_body() and (await call.read_body()).strip() not in (b"", b"{}", b"null"):
        raise InvalidArgument(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24"
        )
    await call.ask(
        contracts.START, contracts.StartContainer(ref=call.path("ref"), detach_keys=call.params.text("detachKeys"))
    )
    return empty_response()


def stop_request(call: Call) -> contracts.StopContainer:
    timeout = call.params.integer("t") if call.params.text("t") else None
    return contracts.StopContainer(ref=call.path("ref"), timeout_s=timeout, signal=call.params.text("signal"))


async def stop(call: Call) -> Response:
    """Stopping may take as long as the container likes; ask again until it is done, also when control restarts."""
    request = stop_request(call)
    first = True
    while True:
        try:
            await retry_not_modified(
                first, lambda: call.ask(contracts.STOP, request, deadline_s=_patience(request.timeout_s))
            )
            return empty_response()
        except DeadlineExceeded:
            first = False


def _patience(timeout_s: int | None) -> float:
    wanted = DEFAULT_STOP_TIMEOUT_S if timeout_s is None or timeout_s < 0 else timeout_s
    return wanted + STOP_MARGIN_S


async def restart(call: Call) -> Response:
    request = stop_request(call)
    start_margin_s = 100.0
    # Not repeated: a second restart would interrupt what the first one started.
    await call.ask(contracts.RESTART, request, deadline_s=_patience(request.timeout_s) + start_margin_s)
    return empty_response()


async def kill(call: Call) -> Response:
    await call.ask(contracts.KILL, contracts.KillContainer(ref=call.path("ref"), signal=call.params.text("signal")))
    return empty_response()


async def pause(call: Call) -> Response:
    await call.ask(contracts.PAUSE, ref_of(call))
    return empty_response()


async def unpause(call: Call) -> Response:
    await call.ask(contracts.UNPAUSE, ref_of(call))
    return empty_response()


async def rename(call: Call) -> Response:
    name = call.params.text("name").removeprefix("/")
    if not name:
        raise InvalidArgument("Neither old nor new names may be empty", field="name")
    await call.ask(contracts.RENAME, contracts.RenameContainer(ref=call.path("ref"), name=name))
    return empty_response()


async def update(call: Call) -> Response:
    body = await call.json_body(UpdateBody)
    sent = body.model_fields_set - {"restart_policy"}
    resources = Resources(**{name: getattr(body, name) for name in sent})
    result = await call.ask(
        contracts.UPDATE,
        contracts.UpdateContainer(
            ref=call.path("ref"),
            resources=resources,
            restart_policy=body.restart_policy,
            set_fields=sorted(sent),
        ),
    )
    return json_response({"Warnings": result.warnings})


async def resize(call: Call) -> Response:
    height, width = call.params.required_integer("h"), call.params.required_integer("w")
    await call.ask(contracts.RESIZE, contracts.ResizeContainer(ref=call.path("ref"), height=height, width=width))
    return empty_response(200)


async def remove(call: Call) -> Response:
    params = call.params
    await call.ask(
        contracts.REMOVE,
        contracts.RemoveContainer(
            ref=call.path("ref"), force=params.flag("force"), volumes=params.flag("v"), link=params.flag("link")
        ),
    )
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
