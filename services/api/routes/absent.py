"""What Docker has and this engine does not: answered as an engine outside a swarm and without plugins answers.

Source: the reference engine's answers.
"""

from __future__ import annotations

from starlette.responses import Response

from services.api.call import Call, Handler, Routes, json_response
from shared.errors import InvalidArgument, NotFound, Unavailable, Unsupported

NOT_A_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm '
    "and try again."
)
SWARM_RESOURCES = ("nodes", "services", "tasks", "secrets", "configs")


async def not_a_manager(call: Call) -> Response:
    raise Unavailable(NOT_A_MANAGER)


async def not_part_of_swarm(call: Call) -> Response:
    raise Unavailable("This node is not part of a swarm")


async def no_swarm(call: Call) -> Response:
    raise Unsupported("swarm mode is not supported by this engine", field="swarm")


async def no_plugins(call: Call) -> Response:
    return json_response([])


async def no_such_plugin(call: Call) -> Response:
    name = call.scope["path_params"].get("name", "")
    raise NotFound(f'plugin "{name}" not found')


async def plugins_unsupported(call: Call) -> Response:
    raise Unsupported("plugins are not supported by this engine", field="plugins")


async def no_buildkit(call: Call) -> Response:
    """BuildKit's sessions and its gRPC door: without them the CLI falls back to the classic builder."""
    if not call.headers.get("upgrade"):
        raise InvalidArgument("no upgrade proto in request")
    raise Unsupported("this engine does not serve BuildKit: build with DOCKER_BUILDKIT=0, without buildx")


def swarm_routes() -> Routes:
    paths: list[tuple[str, str, Handler]] = [
        ("GET", "/swarm", not_a_manager),
        ("POST", "/swarm/init", no_swarm),
        ("POST", "/swarm/join", no_swarm),
        ("POST", "/swarm/leave", not_part_of_swarm),
        ("POST", "/swarm/update", not_a_manager),
        ("GET", "/swarm/unlockkey", not_a_manager),
        ("POST", "/swarm/unlock", not_part_of_swarm),
    ]
    for resource in SWARM_RESOURCES:
        paths += [("GET", f"/{resource}", not_a_manager), ("GET", f"/{resource}/{{id}}", not_a_manager)]
        if resource != "tasks":
            paths += [
                ("DELETE", f"/{resource}/{{id}}", not_a_manager),
                ("POST", f"/{resource}/{{id}}/update", not_a_manager),
            ]
        if resource in ("services", "secrets", "configs"):
            paths.append(("POST", f"/{resource}/create", not_a_manager))
        if resource in ("services", "tasks"):
            paths.append(("GET", f"/{resource}/{{id}}/logs", not_a_manager))
    return tuple(paths)


ROUTES: Routes = (
    *swarm_routes(),
    ("GET", "/plugins", no_plugins),
    ("GET", "/plugins/privileges", plugins_unsupported),
    ("POST", "/plugins/pull", plugins_unsupported),
    ("POST", "/plugins/create", plugins_unsupported),
    ("GET", "/plugins/{name:path}/json", no_such_plugin),
    ("DELETE", "/plugins/{name:path}", no_such_plugin),
    ("POST", "/plugins/{name:path}/enable", no_such_plugin),
    ("POST", "/plugins/{name:path}/disable", no_such_plugin),
    ("POST", "/plugins/{name:path}/upgrade", no_such_plugin),
    ("POST", "/plugins/{name:path}/push", no_such_plugin),
    ("POST", "/plugins/{name:path}/set", no_such_plugin),
    ("POST", "/session", no_buildkit),
    ("POST", "/grpc", no_buildkit),
)
