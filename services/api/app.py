"""The application: routes joined to their dependencies, behind the edge's middleware."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.responses import Response

from services.api import versions
from services.api.auditing import actions
from services.api.auditing.request import Auditing, matched
from services.api.errors import PageNotFound
from services.api.middleware import Edge
from services.api.routes import (
    absent,
    archive,
    attach,
    audit,
    build,
    buildkit,
    containers,
    description,
    events,
    execs,
    images,
    networks,
    stats,
    swarm,
    system,
    volumes,
    wait,
)
from services.api.routing import DEPS, EdgeRoute
from services.api.table import Table

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from services.api.call import Deps
    from services.api.description import Description

_OF_CONTAINERS = (containers, wait, attach, execs, archive, stats)
_OTHERS = (images, build, buildkit, volumes, networks, system, events, audit, swarm)
_MODULES = (*_OF_CONTAINERS, *_OTHERS, absent, description)


def all_routes() -> tuple[EdgeRoute, ...]:
    routes = [route for module in _MODULES for route in module.router.routes]
    return tuple(route for route in routes if isinstance(route, EdgeRoute))


@functools.cache
def own_table() -> Table:
    """The engine's routes. Made before the fork, the patterns' compiler is not woken after it.

    Raises:
        Internal: Nobody has said what one of them does.
    """
    routes = all_routes()
    actions.check((method, route.path) for route in routes for method in route.methods or ())
    return Table(routes)


class ResourceRouter:
    """Leads requests to routes; no match at all is Docker's "page not found"."""

    def __init__(self, table: Table, deps: Deps) -> None:
        self._table = table
        self._deps = deps

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._table.find(scope["method"], scope["path"])
        if found is not None:
            route, scope["path_params"] = found
            matched(route.path)
            # Only now: of a path that does not exist, no version is too old or too new.
            scope["davit.version"] = versions.accept(scope["davit.version"])
            scope[DEPS] = self._deps
            await route.app(scope, receive, send)
            return
        if scope["method"] == "OPTIONS":
            await Response(status_code=200)(scope, receive, send)
            return
        raise PageNotFound


class EdgeApp(FastAPI):
    """The complete HTTP edge.

    FastAPI's own middleware is not used: errors, heads of answers and the way to a route are Docker's.
    """

    def __init__(self, deps: Deps, auditing: Auditing | None = None) -> None:
        super().__init__(title="davit", version=versions.NEWEST, openapi_url=None, docs_url=None, redoc_url=None)
        self.router.routes.extend(all_routes())
        self._edge: ASGIApp = Edge(ResourceRouter(own_table(), deps), deps.facts.version, auditing)

    @functools.cached_property
    def described(self) -> Description:
        """What the engine says of its own API."""
        from services.api.description import Description  # who is never asked for it never pays for it

        return Description(all_routes())

    def openapi(self) -> dict[str, Any]:
        return self.described.of(versions.accept(versions.NEWEST))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        await self._edge(scope, receive, send)


def build_app(deps: Deps, auditing: Auditing | None = None) -> EdgeApp:
    return EdgeApp(deps, auditing)
