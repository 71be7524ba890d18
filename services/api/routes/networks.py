"""/networks. Source: Docker Engine API 1.50, Network."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from services.api.answers import networks as answers
from services.api.call import Call, empty_response, json_response
from services.api.declared import NetworkName, may
from services.api.repeating import until_answered
from services.api.requests import networks as requests
from services.api.routing import EdgeRouter
from services.api.views import networks as views
from shared.contracts import containers as container_contracts
from shared.contracts import networks as contracts
from shared.contracts.docker import EndpointSettings
from shared.contracts.networks import NetworkRef
from shared.errors import Conflict, Forbidden, InvalidArgument, NotFound

router = EdgeRouter("Network")


@router.post(
    "/networks/create",
    operation_id="NetworkCreate",
    response_model=answers.NetworkCreated,
    status_code=201,
    responses=may(403, 404, 409),
)
async def create(call: Call, body: requests.NetworkBody) -> Response:
    """Make a network."""
    if not body.name:
        raise InvalidArgument("invalid name: name is empty", field="Name")
    request = contracts.CreateNetwork(
        name=body.name,
        driver=body.driver,
        scope=body.scope,
        # From 1.44 on names are unique, whatever the client says.
        check_duplicate=True if call.version >= (1, 44) else bool(body.check_duplicate),
        enable_ipv4=body.enable_ipv4,
        enable_ipv6=body.enable_ipv6,
        internal=body.internal,
        attachable=body.attachable,
        ingress=body.ingress,
        config_only=body.config_only,
        config_from=body.config_from.network if body.config_from else "",
        ipam=body.ipam.contract() if body.ipam else None,
        options=body.options,
        labels=body.labels,
    )
    created = await until_answered(lambda _: call.ask(contracts.CREATE, request), done=(Conflict,))
    if created is None:  # an earlier attempt has made it: its name is taken now
        made = await call.ask(contracts.INSPECT, NetworkRef(ref=body.name))
        created = contracts.CreatedNetwork(id=made.id)
    return json_response({"Id": created.id, "Warning": created.warning}, 201)


@router.get("/networks/", include_in_schema=False)
@router.get("/networks", operation_id="NetworkList", response_model=list[answers.NetworkShown], responses=may())
async def list_all(call: Call, query: Annotated[requests.FiltersQuery, Query()]) -> Response:
    """The networks."""

    async def ask() -> object:
        result = await call.ask(contracts.LIST, contracts.ListNetworks(filters=query.filters))
        return [views.network(item, call.version) for item in result.networks]

    return await call.read_json(("network",), ask)


@router.get("/networks/{ref}", operation_id="NetworkInspect", response_model=answers.NetworkShown, responses=may(404))
async def inspect(call: Call, ref: NetworkName, query: Annotated[requests.InspectQuery, Query()]) -> Response:
    """All about a network."""
    request = NetworkRef(ref=ref, verbose=query.verbose, scope=query.scope)

    async def ask() -> object:
        return views.with_status(await call.ask(contracts.INSPECT, request), call.version)

    return await call.read_json(("network",), ask)


@router.delete("/networks/{ref}", operation_id="NetworkDelete", status_code=204, responses=may(403, 404, 409))
async def remove(call: Call, ref: NetworkName) -> Response:
    """Remove a network."""
    request = NetworkRef(ref=ref)
    await until_answered(lambda _: call.ask(contracts.REMOVE, request), done=(NotFound,))
    return empty_response()


@router.post(
    "/networks/{ref}/connect",
    operation_id="NetworkConnect",
    response_class=Response,
    responses=may(403, 404, 409),
)
async def connect(call: Call, ref: NetworkName, body: requests.ConnectBody) -> Response:
    """Connect a container to a network."""
    request = container_contracts.ConnectContainer(
        ref=body.container, network=ref, settings=body.endpoint_config or EndpointSettings()
    )
    # To be connected, or not to be, is forbidden to those who are already.
    await until_answered(lambda _: call.ask(container_contracts.CONNECT, request), done=(Forbidden,))
    return empty_response(200)


@router.post(
    "/networks/{ref}/disconnect",
    operation_id="NetworkDisconnect",
    response_class=Response,
    responses=may(403, 404, 409),
)
async def disconnect(call: Call, ref: NetworkName, body: requests.DisconnectBody) -> Response:
    """Disconnect a container from a network."""
    if not body.container:
        raise InvalidArgument("invalid container name or ID: value is empty", field="Container")
    request = container_contracts.DisconnectContainer(ref=body.container, network=ref, force=body.force)
    await until_answered(lambda _: call.ask(container_contracts.DISCONNECT, request), done=(Forbidden,))
    return empty_response(200)


@router.post("/networks/prune", operation_id="NetworkPrune", response_model=answers.NetworksPruned, responses=may())
async def prune(call: Call, query: Annotated[requests.FiltersQuery, Query()]) -> Response:
    """Remove the networks that no container is connected to."""
    result = await call.ask(contracts.PRUNE, contracts.PruneNetworks(filters=query.filters))
    return json_response({"NetworksDeleted": result.names or None})
