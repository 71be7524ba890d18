"""/volumes. Source: Docker Engine API 1.50, Volume."""

from __future__ import annotations

from pydantic import Field
from starlette.responses import Response

from services.api.call import Call, Routes, empty_response, json_response
from services.api.repeating import until_answered
from services.api.views import volumes as views
from shared.contracts import volumes as contracts
from shared.contracts.docker import DockerModel
from shared.contracts.volumes import VolumeRef
from shared.docker.null import Str, StrMap
from shared.errors import NotFound, Unavailable, Unsupported

PRUNE_ANONYMOUS_ONLY = (1, 42)


class CreateBody(DockerModel):
    name: Str = ""
    driver: Str = ""
    driver_opts: StrMap = Field(default_factory=dict)
    labels: StrMap = Field(default_factory=dict)
    cluster_volume_spec: dict[str, object] | None = None


async def create(call: Call) -> Response:
    body = await call.json_body(CreateBody)
    if body.cluster_volume_spec is not None:
        raise Unsupported("cluster volumes need a swarm", field="ClusterVolumeSpec")
    request = contracts.CreateVolume(name=body.name, driver=body.driver, options=body.driver_opts, labels=body.labels)
    if body.name:  # to create it twice is to create it
        volume = await until_answered(lambda _: call.ask(contracts.CREATE, request))
        assert volume is not None  # no error counts as done
    else:
        volume = await call.ask(contracts.CREATE, request)
    return json_response(views.volume(volume), 201)


async def list_all(call: Call) -> Response:
    result = await call.ask(contracts.LIST, contracts.ListVolumes(filters=call.params.filters()))
    return json_response(
        {"Volumes": [views.volume(item) for item in result.volumes], "Warnings": result.warnings or None}
    )


async def inspect(call: Call) -> Response:
    return json_response(views.volume(await call.ask(contracts.INSPECT, VolumeRef(name=call.path("name")))))


async def remove(call: Call) -> Response:
    request = VolumeRef(name=call.path("name"), force=call.params.flag("force"))
    await until_answered(lambda _: call.ask(contracts.REMOVE, request), done=(NotFound,))
    return empty_response()


async def prune(call: Call) -> Response:
    filters = call.params.filters()
    if call.version < PRUNE_ANONYMOUS_ONLY:
        filters.setdefault("all", ["true"])
    result = await call.ask(contracts.PRUNE, contracts.PruneVolumes(filters=filters))
    return json_response({"VolumesDeleted": result.names, "SpaceReclaimed": result.space_reclaimed_bytes})


async def update(call: Call) -> Response:
    raise Unavailable("volume update only valid for cluster volumes, but swarm is unavailable")


ROUTES: Routes = (
    ("GET", "/volumes", list_all),
    ("POST", "/volumes/create", create),
    ("POST", "/volumes/prune", prune),
    ("GET", "/volumes/{name}", inspect),
    ("DELETE", "/volumes/{name}", remove),
    ("PUT", "/volumes/{name}", update),
)
