"""What many routes declare in the same words: parameters of paths and headers, errors, bodies that are no JSON."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Header, Path
from pydantic import BaseModel, Field

from services.api.credentials import HEADER_AUTH

ContainerName = Annotated[str, Path(description="A container's id, a prefix of it that is no other's, or its name.")]
ImageName = Annotated[str, Path(description="An image's name with tag or digest, its id or a prefix of it.")]
NetworkName = Annotated[str, Path(description="A network's id, a prefix of it that is no other's, or its name.")]
VolumeName = Annotated[str, Path(description="A volume's name.")]
ExecName = Annotated[str, Path(description="The id of an exec.")]
ObjectName = Annotated[str, Path(description="An object's id or name.")]
RegistryAuthHeader = Annotated[
    str, Header(alias=HEADER_AUTH, description="Credentials for the registry: base64url of a JSON object.")
]


class ErrorResponse(BaseModel):
    """Every error's body."""

    message: str = Field(description="What could not be done, and why.")


ERRORS = {
    304: "It is so already.",
    400: "A parameter, a header or the body is not what it should be; the message names the field.",
    401: "The registry did not take the credentials.",
    403: "It is not allowed.",
    404: "There is no such object.",
    409: "The object's state, or another object, is in the way.",
    500: "It failed.",
    501: "This engine does not support it; the message names the field.",
    503: "Who serves it is away, or it needs a swarm.",
    504: "It took too long.",
}


def may(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors that a route may answer with, beside those that every route may."""
    rest: dict[int | str, dict[str, Any]] = {"default": {"description": "Any other error.", "model": ErrorResponse}}
    return {status: _error(status) for status in sorted({400, *statuses})} | rest


def _error(status: int) -> dict[str, Any]:
    described: dict[str, Any] = {"description": ERRORS[status]}
    return described if status == 304 else described | {"model": ErrorResponse}


# Says in the description that an answer's documents are several; `services.api.description` acts on it.
LINES = "x-lines"
BINARY = {"type": "string", "format": "binary"}


def streams(media_type: str, description: str, *, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """An answer whose body is no JSON document."""
    return {status: {"description": description, "content": {media_type: {"schema": BINARY}}}}


def lines(item: Any, description: str) -> dict[int | str, dict[str, Any]]:
    """An answer of JSON documents, one a line, that come as they are made."""
    return {200: {"description": description, "model": item, LINES: True}}


def takes(*media_types: str, description: str, required: bool = True) -> dict[str, Any]:
    """A request's body that is no JSON document, for a route's `openapi_extra`."""
    content = {media_type: {"schema": BINARY} for media_type in media_types}
    return {"requestBody": {"required": required, "description": description, "content": content}}
