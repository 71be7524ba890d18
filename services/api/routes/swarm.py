"""The cluster, by Docker's own paths: founding, joining, tokens, nodes.

Services, tasks, secrets and configs are not here yet; see `absent`.

Source: Docker Engine API 1.50, Swarm and Node.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query
from starlette.responses import Response

from services.api.answers import swarm as answers
from services.api.call import Call, empty_response, json_response
from services.api.declared import ObjectName, may
from services.api.requests.swarm import (
    NodeRemoveQuery,
    NodeSpecBody,
    NodesQuery,
    NodeUpdateQuery,
    SwarmInitBody,
    SwarmLeaveQuery,
    SwarmSpecBody,
    SwarmUpdateQuery,
)
from services.api.routing import EdgeRouter
from services.api.views import swarm as views
from shared.bus.client import EMPTY
from shared.cluster.membership import split_address
from shared.contracts import cluster as contract
from shared.errors import InvalidArgument, Unavailable, Unsupported

NOT_A_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm '
    "and try again."
)

router = EdgeRouter("Swarm")


def _check_spec(spec: dict[str, Any]) -> None:
    """Refuse what would be accepted and have no effect. Raises Unsupported, naming it."""
    if (spec.get("EncryptionConfig") or {}).get("AutoLockManagers"):
        raise Unsupported("locking managers is not supported by this engine", field="Spec.EncryptionConfig")
    if (spec.get("CAConfig") or {}).get("ExternalCAs"):
        raise Unsupported("an external CA is not supported by this engine", field="Spec.CAConfig.ExternalCAs")


@router.post("/swarm/init", operation_id="SwarmInit", response_model=str, responses=may(501, 503))
async def init(call: Call, body: SwarmInitBody) -> Response:
    """Make this engine the manager of a new cluster; its id as a node."""
    given = {
        "ForceNewCluster": body.force_new_cluster,
        "AutoLockManagers": body.auto_lock_managers,
        "DataPathAddr": body.data_path_addr,
        # There are no networks across nodes for which these would mean something; Docker's client sends the defaults.
        "DataPathPort": body.data_path_port not in (0, 4789),
        "DefaultAddrPool": body.default_addr_pool,
        "SubnetSize": body.subnet_size not in (0, 24),
    }
    for name, value in given.items():
        if value:
            raise Unsupported(f"{name} is not supported by this engine", field=name)
    _check_spec(body.spec or {})
    try:
        host, port = split_address(body.listen_addr or "0.0.0.0:2377")
    except ValueError as error:
        raise InvalidArgument(f"invalid ListenAddr {body.listen_addr}", field="ListenAddr") from error
    founded = await call.ask(
        contract.INIT,
        contract.InitCluster(
            advertise=body.advertise_addr,
            listen=host.strip("[]") or "0.0.0.0",
            port=port,
            availability=body.availability or "active",
            spec=body.spec or {},
            data_path_port=body.data_path_port,
            default_addr_pool=body.default_addr_pool or [],
            subnet_size=body.subnet_size,
        ),
    )
    return json_response(founded.node_id)


@router.post("/swarm/join", operation_id="SwarmJoin", response_class=Response, responses=may(501))
async def join(call: Call) -> Response:
    """Not supported: machines join by `davit cluster join`."""
    raise Unsupported(
        "an engine that runs cannot become another cluster's node: stop it (davit down) and join with "
        "davit cluster join --token TOKEN ADDRESS, which starts it as one",
        field="swarm",
    )


async def _state(call: Call) -> contract.ClusterState:
    state = await call.ask(contract.INSPECT, EMPTY)
    if state.cluster is None:
        raise Unavailable(NOT_A_MANAGER)
    return state


@router.get("/swarm", operation_id="SwarmInspect", response_model=answers.Swarm, responses=may(503))
async def inspect(call: Call) -> Response:
    """The cluster, with its join tokens."""
    state = await _state(call)
    assert state.cluster is not None
    return json_response(views.swarm(state.cluster))


def _version(value: str) -> int:
    try:
        return int(value)
    except ValueError as error:
        raise InvalidArgument(f"invalid swarm version '{value}': it is a number", field="version") from error


@router.post("/swarm/update", operation_id="SwarmUpdate", response_class=Response, responses=may(501, 503))
async def update(call: Call, query: Annotated[SwarmUpdateQuery, Query()], body: SwarmSpecBody) -> Response:
    """Change the cluster, or rotate its tokens."""
    version = _version(query.version)
    if query.rotate_manager_unlock_key:
        raise Unsupported("locking managers is not supported by this engine", field="rotateManagerUnlockKey")
    given = body.model_dump()
    _check_spec(given)
    await call.ask(
        contract.UPDATE,
        contract.UpdateCluster(
            version=version,
            spec=given,
            rotate_worker_token=query.rotate_worker_token,
            rotate_manager_token=query.rotate_manager_token,
        ),
    )
    return empty_response(200)


@router.post("/swarm/leave", operation_id="SwarmLeave", response_class=Response, responses=may(503))
async def leave(call: Call, query: Annotated[SwarmLeaveQuery, Query()]) -> Response:
    """Leave the cluster."""
    await call.ask(contract.LEAVE, contract.LeaveCluster(force=query.force))
    return empty_response(200)


@router.get("/swarm/unlockkey", operation_id="SwarmUnlockkey", responses=may(503))
async def no_unlock_key(call: Call) -> Response:
    """The key of locked managers: none is."""
    await _state(call)
    return json_response({"UnlockKey": ""})


@router.post("/swarm/unlock", operation_id="SwarmUnlock", response_class=Response, responses=may(503))
async def not_locked(call: Call) -> Response:
    """Managers are never locked."""
    state = await call.ask(contract.INSPECT, EMPTY)
    text = "swarm is not locked" if state.cluster is not None else "This node is not part of a swarm"
    raise (InvalidArgument if state.cluster is not None else Unavailable)(text)


@router.get("/nodes", operation_id="NodeList", response_model=list[answers.NodeShown], responses=may(503))
async def nodes(call: Call, query: Annotated[NodesQuery, Query()]) -> Response:
    """The nodes of the cluster."""
    found = await call.ask(contract.NODES, contract.ListNodes(filters=query.filters))
    state = await _state(call)
    assert state.cluster is not None
    return json_response([views.node(one, state.cluster.ca) for one in found.nodes])


@router.get("/nodes/{id}", operation_id="NodeInspect", response_model=answers.NodeShown, responses=may(404, 503))
async def node(call: Call, id: ObjectName) -> Response:  # noqa: A002  # Docker's name of the parameter
    """All about a node."""
    found = await call.ask(contract.NODE, contract.NodeRef(ref=id))
    state = await _state(call)
    assert state.cluster is not None
    return json_response(views.node(found, state.cluster.ca))


@router.post("/nodes/{id}/update", operation_id="NodeUpdate", response_class=Response, responses=may(404, 501, 503))
async def update_node(
    call: Call,
    id: ObjectName,  # noqa: A002  # Docker's name of the parameter
    query: Annotated[NodeUpdateQuery, Query()],
    body: NodeSpecBody,
) -> Response:
    """Change a node's labels or availability."""
    version = _version(query.version)
    await call.ask(
        contract.UPDATE_NODE,
        contract.UpdateNode(
            ref=id,
            version=version,
            role=body.role,
            availability=body.availability,
            labels=body.labels,
            name=body.name,
        ),
    )
    return empty_response(200)


@router.delete("/nodes/{id}", operation_id="NodeDelete", response_class=Response, responses=may(404, 503))
async def remove_node(
    call: Call,
    id: ObjectName,  # noqa: A002  # Docker's name of the parameter
    query: Annotated[NodeRemoveQuery, Query()],
) -> Response:
    """Remove a node from the cluster."""
    await call.ask(contract.REMOVE_NODE, contract.RemoveNode(ref=id, force=query.force))
    return empty_response(200)
