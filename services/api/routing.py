"""Routes that are declared as FastAPI's are, and decoded by Docker's rules.

A handler's signature says what its request carries::

    @router.post("/containers/{ref}/stop", operation_id="ContainerStop", status_code=204, responses=may(304, 404))
    async def stop(call: Call, ref: ContainerName, query: Annotated[StopQuery, Query()]) -> Response: ...

Parameters of the path and headers are texts, `query` is a `QueryModel`, `body` a model of JSON (None where it may be
left out). From the same declarations FastAPI describes the route (`services.api.description`). What FastAPI would do
on each request (dependencies, its own validation, its own errors) is not done: Docker's rules for all of these differ.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fastapi import params
from fastapi.datastructures import DefaultPlaceholder
from fastapi.routing import APIRoute, APIRouter
from pydantic import BaseModel, ValidationError
from starlette.responses import Response
from starlette.routing import Route

from services.api import parameters
from services.api.auditing.request import queried
from services.api.call import Call
from services.api.parameters import QueryModel
from services.api.query import Query
from shared.errors import InvalidArgument

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

Handler = Callable[..., Awaitable[Response | None]]

DEPS = "davit.deps"
# Of Route's own arguments; the rest is for the description.
METHODS = "methods"


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a handler takes beside its call.

    Attributes:
        headers: Argument -> the header's name in lower case.
        body_name: Empty without a body.
    """

    path: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    query: type[QueryModel] | None = None
    body: type[BaseModel] | None = None
    body_optional: bool = False

    async def read(self, call: Call) -> dict[str, Any]:
        """The arguments' values. Raises InvalidArgument naming the one that is wrong."""
        values: dict[str, Any] = {name: call.scope["path_params"][name] for name in self.path}
        for name, header in self.headers:
            values[name] = call.headers.get(header, "")
        query = Query(call.scope["query_string"])  # looked at also where nothing of it is used: it may be malformed
        if self.query is not None:
            values["query"] = parameters.read(self.query, query, call.version)
            queried(values["query"])
        if self.body is not None:
            read = call.optional_json_body if self.body_optional else call.json_body
            values["body"] = await read(self.body)
        return values


def arguments_of(handler: Handler) -> Arguments:
    """Raises TypeError for an argument that says neither what it is nor where it comes from."""
    hints = typing.get_type_hints(handler, include_extras=True)
    path: list[str] = []
    headers: list[tuple[str, str]] = []
    query: type[QueryModel] | None = None
    body, body_optional = None, False
    for name in inspect.signature(handler).parameters:
        kind, markers = _unwrapped(hints[name])
        header = next((marker for marker in markers if isinstance(marker, params.Header)), None)
        if name == "call":
            continue
        if any(isinstance(marker, params.Path) for marker in markers):
            path.append(name)
        elif header is not None:
            headers.append((name, str(header.alias).lower()))
        elif name == "query" and isinstance(kind, type) and issubclass(kind, QueryModel):
            query = kind
        elif name == "body":
            body_optional = isinstance(kind, types.UnionType)
            body = typing.get_args(kind)[0] if body_optional else kind
        else:
            raise TypeError(f"{handler.__module__}.{handler.__name__}: what is {name}?")
    return Arguments(tuple(path), tuple(headers), query, body, body_optional)


def _unwrapped(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    if typing.get_origin(hint) is typing.Annotated:
        kind, *markers = typing.get_args(hint)
        return kind, tuple(markers)
    return hint, ()


def _refused(error: ValidationError) -> InvalidArgument:
    """A value that is one of its kind, and that the service's own request does not take."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    return InvalidArgument(f"invalid value for {field}: {first['msg'][:1].lower()}{first['msg'][1:]}", field=field)


class Endpoint:
    """A handler as an ASGI application; it finds its dependencies in the scope."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._arguments = arguments_of(handler)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(scope, receive, send, scope[DEPS])
        arguments = await self._arguments.read(call)
        try:
            response = await self._handler(call, **arguments)
        except ValidationError as error:
            raise _refused(error) from error
        if response is not None:
            await response(scope, receive, send)


class EdgeRoute(APIRoute):
    """A route of the edge. FastAPI's fields of it are made when the description is asked for, and not before.

    They are validators of every parameter, body and answer: half a second of start and many megabytes for an engine
    that is asked for its description once in its life.
    """

    def __init__(self, path: str, endpoint: Handler, **declared: Any) -> None:
        self._declared = declared
        methods = declared[METHODS]
        included = declared["include_in_schema"]
        Route.__init__(
            self, path, Endpoint(endpoint), methods=methods, name=endpoint.__name__, include_in_schema=included
        )
        self.methods = set(methods)  # Starlette would answer HEAD wherever there is GET; Docker does not
        self.endpoint = endpoint

    @cached_property
    def described(self) -> APIRoute:
        """The same route with all that FastAPI knows of it."""
        return APIRoute(self.path, self.endpoint, **self._declared)


class EdgeRouter(APIRouter):
    """A resource's routes."""

    def __init__(self, tag: str) -> None:
        super().__init__(tags=[tag], route_class=EdgeRoute)

    def add_api_route(self, path: str, endpoint: Handler, **declared: Any) -> None:
        """Add a route. Handlers answer with responses of their own: what they annotate is not what is described."""
        if isinstance(declared.get("response_model"), DefaultPlaceholder | None):
            declared["response_model"] = None
        declared["summary"] = declared.get("operation_id")
        declared["description"] = inspect.cleandoc(endpoint.__doc__ or "").partition("\n\n")[0]
        super().add_api_route(path, endpoint, **declared)
