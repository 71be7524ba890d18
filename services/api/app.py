"""The application: routes joined to their dependencies, behind the edge's middleware.

Paths are looked up by their first segment before patterns are tried: of some hundred routes a request meets the few
of its resource, which is worth 60 µs on each.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.routing import Match, Route

from services.api import versions
from services.api.call import Call
from services.api.errors import PageNotFound
from services.api.middleware import Edge
from services.api.routes import (
    absent,
    archive,
    attach,
    build,
    containers,
    events,
    execs,
    images,
    networks,
    stats,
    system,
    volumes,
    wait,
)

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from services.api.call import Deps, Handler, Routes


_OF_CONTAINERS = (containers, wait, attach, execs, archive, stats)
_MODULES = (*_OF_CONTAINERS, images, build, volumes, networks, system, events, absent)


def all_routes() -> Routes:
    return tuple(route for module in _MODULES for route in module.ROUTES)


DEPS = "davit.deps"
Table = dict[str, list[Route]]


class Endpoint:
    """A handler as an ASGI application; it finds its dependencies in the scope."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._handler(Call(scope, receive, send, scope[DEPS]))
        if response is not None:
            await response(scope, receive, send)


def table_of(routes: Routes) -> Table:
    """Routes by first path segment."""
    table: Table = {}
    for method, path, handler in routes:
        route = Route(path, Endpoint(handler), methods=[method])
        route.methods = {method}  # Starlette would answer HEAD wherever there is GET; Docker does not
        table.setdefault(path.split("/", 2)[1], []).append(route)
    return table


@functools.cache
def own_table() -> Table:
    """The engine's routes. Made before the fork, the patterns' compiler is not woken after it."""
    return table_of(all_routes())


class ResourceRouter:
    """Routes by first path segment; no match at all is Docker's "page not found"."""

    def __init__(self, table: Table, deps: Deps) -> None:
        self._table = table
        self._deps = deps

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        segment = scope["path"].split("/", 2)[1] if scope["path"].startswith("/") else ""
        for route in self._table.get(segment, ()):
            match, child = route.matches(scope)
            if match is Match.FULL:
                scope.update(child)
                # Only now: of a path that does not exist, no version is too old or too new.
                scope["davit.version"] = versions.accept(scope["davit.version"])
                scope[DEPS] = self._deps
                await route.handle(scope, receive, send)
                return
        if scope["method"] == "OPTIONS":
            await Response(status_code=200)(scope, receive, send)
            return
        raise PageNotFound


def build_app(deps: Deps) -> ASGIApp:
    """The complete HTTP edge, as one ASGI application."""
    return Edge(ResourceRouter(own_table(), deps), deps.facts.version)
