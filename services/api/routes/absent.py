"""What Docker has and this engine does not: answered as an engine outside a swarm and without plugins answers.

Source: the reference engine's answers.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from services.api.call import Call, json_response
from services.api.declared import ObjectName, may
from services.api.routes.swarm import NOT_A_MANAGER
from services.api.routing import EdgeRouter, Handler
from shared.errors import DavitError, NotFound, Unavailable, Unsupported

# Resource -> its name in operations.
SWARM_RESOURCES = {"services": "Service", "tasks": "Task", "secrets": "Secret", "configs": "Config"}

router = EdgeRouter("Absent")


async def not_a_manager(call: Call) -> Response:
    """Needs a swarm; in one, it is not supported."""
    raise _not_here(call)


async def not_a_manager_of(call: Call, id: ObjectName) -> Response:  # noqa: A002  # Docker's name of the parameter
    """Needs a swarm; in one, it is not supported."""
    raise _not_here(call)


def _not_here(call: Call) -> DavitError:
    if call.deps.membership is None:
        return Unavailable(NOT_A_MANAGER)
    kind = call.scope["path"].split("/")[1]
    return Unsupported(f"{kind} of a swarm are not supported by this engine", field=kind)


async def no_plugins(call: Call) -> Response:
    """The plugins: none."""
    return json_response([])


async def no_such_plugin(call: Call, name: ObjectName) -> Response:
    """There are no plugins."""
    raise NotFound(f'plugin "{name}" not found')


async def plugins_unsupported(call: Call) -> Response:
    """Not supported."""
    raise Unsupported("plugins are not supported by this engine", field="plugins")


def _add(method: str, path: str, operation_id: str, handler: Handler) -> None:
    status: dict[str, Any] = {} if handler is no_plugins else {"status_code": 204}
    router.add_api_route(
        path, handler, methods=[method], operation_id=operation_id, responses=may(404, 501, 503), **status
    )


def _add_swarm() -> None:
    for resource, name in SWARM_RESOURCES.items():
        _add("GET", f"/{resource}", f"{name}List", not_a_manager)
        _add("GET", f"/{resource}/{{id}}", f"{name}Inspect", not_a_manager_of)
        if resource != "tasks":
            _add("DELETE", f"/{resource}/{{id}}", f"{name}Delete", not_a_manager_of)
            _add("POST", f"/{resource}/{{id}}/update", f"{name}Update", not_a_manager_of)
        if resource in ("services", "secrets", "configs"):
            _add("POST", f"/{resource}/create", f"{name}Create", not_a_manager)
        if resource in ("services", "tasks"):
            _add("GET", f"/{resource}/{{id}}/logs", f"{name}Logs", not_a_manager_of)


def _add_plugins() -> None:
    _add("GET", "/plugins", "PluginList", no_plugins)
    _add("GET", "/plugins/privileges", "GetPluginPrivileges", plugins_unsupported)
    _add("POST", "/plugins/pull", "PluginPull", plugins_unsupported)
    _add("POST", "/plugins/create", "PluginCreate", plugins_unsupported)
    _add("GET", "/plugins/{name:path}/json", "PluginInspect", no_such_plugin)
    _add("DELETE", "/plugins/{name:path}", "PluginDelete", no_such_plugin)
    for verb in ("enable", "disable", "upgrade", "push", "set"):
        _add("POST", f"/plugins/{{name:path}}/{verb}", f"Plugin{verb.capitalize()}", no_such_plugin)


_add_swarm()
_add_plugins()
