"""/volumes. Source: Docker Engine API 1.50, Volume."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from services.api.answers import system as answers
from services.api.call import Call, empty_response, json_response
from services.api.declared import VolumeName, may
from services.api.repeating import until_answered
from services.api.requests.system import VolumeBody, VolumeRemoveQuery, VolumesQuery
from services.api.routing import EdgeRouter
from services.api.views import volumes as views
from shared.contracts import volumes as contracts
from shared.contracts.volumes import VolumeRef
from shared.errors import NotFound, Unavailable, Unsupported

PRUNE_ANONYMOUS_ONLY = (1, 42)


router = EdgeRouter("Volume")


@router.post(
    "/volumes/create",
    operation_id="VolumeCreate",
    response_model=answers.VolumeShown,
    status_code=201,
    responses=may(409, 501),
)
async def create(call: Call, body: VolumeBody) -> Response:
    """Make a volume; one that is there already is left as it is."""
    if body.cluster_volume_spec is not None:
        raise Unsupported("cluster volumes need a swarm", field="ClusterVolumeSpec")
    request = contracts.CreateVolume(name=body.name, driver=body.driver, options=body.driver_opts, labels=body.labels)
    if body.name:  # to create it twice is to create it
        volume = await until_answered(lambda _: call.ask(contracts.CREATE, request))
        assert volume is not None  # no error counts as done
    else:
        volume = await call.ask(contracts.CREATE, request)
    return json_response(views.volume(volume), 201)


@router.get("/volumes", operation_id="VolumeList", response_model=answers.VolumeList, responses=may())
async def list_all(call: Call, query: Annotated[VolumesQuery, Query()]) -> Response:
    """The volumes."""

    async def ask() -> object:
        result = await call.ask(contracts.LIST, contracts.ListVolumes(filters=query.filters))
        return {"Volumes": [views.volume(item) for item in result.volumes], "Warnings": result.warnings or None}

    return await call.read_json(("volume",), ask)


@router.get("/volumes/{name}", operation_id="VolumeInspect", response_model=answers.VolumeShown, responses=may(404))
async def inspect(call: Call, name: VolumeName) -> Response:
    """All about a volume."""

    async def ask() -> object:
        return views.volume(await call.ask(contracts.INSPECT, VolumeRef(name=name)))

    return await call.read_json(("volume",), ask)


@router.delete("/volumes/{name}", operation_id="VolumeDelete", status_code=204, responses=may(404, 409))
async def remove(call: Call, name: VolumeName, query: Annotated[VolumeRemoveQuery, Query()]) -> Response:
    """Remove a volume that no container uses."""
    request = VolumeRef(name=name, force=query.force)
    await until_answered(lambda _: call.ask(contracts.REMOVE, request), done=(NotFound,))
    return empty_response()


@router.post("/volumes/prune", operation_id="VolumePrune", response_model=answers.VolumesPruned, responses=may())
async def prune(call: Call, query: Annotated[VolumesQuery, Query()]) -> Response:
    """Remove the volumes that no container uses; from 1.42 on those without a name only, unless all are asked for."""
    filters = query.filters
    if call.version < PRUNE_ANONYMOUS_ONLY:
        filters.setdefault("all", ["true"])
    result = await call.ask(contracts.PRUNE, contracts.PruneVolumes(filters=filters))
    return json_response({"VolumesDeleted": result.names, "SpaceReclaimed": result.space_reclaimed_bytes})


@router.put("/volumes/{name}", operation_id="VolumeUpdate", response_class=Response, responses=may(404, 503))
async def update(call: Call, name: VolumeName) -> Response:
    """Change a volume of a cluster: not supported."""
    raise Unavailable("volume update only valid for cluster volumes, but swarm is unavailable")
