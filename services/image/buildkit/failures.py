"""Errors of builds as clients of BuildKit read them: its words, and the lines of the Dockerfile that are to blame.

Source: texts of moby/buildkit; its util/grpcerrors (details are JSON under a type URL) and solver/errdefs.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from typing import Any

import orjson
from grpclib import GRPCError
from grpclib.const import Status

from services.image.build.dockerfile.errors import DockerfileError
from services.image.build.dockerfile.instructions import Instruction
from services.image.build.steps.stage import CommandFailed
from services.image.buildkit.loading import Source
from shared.errors import (
    Conflict,
    DavitError,
    Forbidden,
    InvalidArgument,
    NotFound,
    Unauthorized,
    Unavailable,
    Unsupported,
)

_SOURCE_URL = "github.com/moby/buildkit/errdefs.Source+json"
_VERTEX_URL = "github.com/moby/buildkit/errdefs.Vertex+json"
_EXIT_URL = "github.com/moby/buildkit/gatewayapi.ExitMessage+json"
_MISSING = re.compile(r"^(?:COPY|ADD|RUN) failed: (?:file not found in .*?: )?stat (?P<path>.*): file does not exist$")

_STATUSES: tuple[tuple[type[DavitError], Status], ...] = (
    (NotFound, Status.NOT_FOUND),
    (Unsupported, Status.UNIMPLEMENTED),
    (InvalidArgument, Status.INVALID_ARGUMENT),
    (Forbidden, Status.PERMISSION_DENIED),
    (Unauthorized, Status.UNAUTHENTICATED),
    (Conflict, Status.FAILED_PRECONDITION),
    (Unavailable, Status.UNAVAILABLE),
)

Details = list[tuple[str, bytes]]


class BuildFailed(DavitError):
    """A build's error with what it is about."""

    def __init__(self, text: str, cause: DavitError, details: Sequence[tuple[str, bytes]] = ()) -> None:
        super().__init__(text)
        self.cause = cause
        self.details = list(details)


def failed(cause: DavitError, source: Source, instruction: Instruction | None, vertex: str) -> BuildFailed:
    """An error of a step, with its place."""
    details: Details = []
    line, last = cause.detail.get("line"), 0
    if instruction is not None and instruction.line:
        line, last = instruction.line, instruction.end_line
    if isinstance(line, int) and line:
        details.append((_SOURCE_URL, source_detail(source, line, max(line, last))))
    if vertex:
        details.append((_VERTEX_URL, orjson.dumps({"digest": vertex})))
    if isinstance(cause, CommandFailed):
        details.append((_EXIT_URL, orjson.dumps({"Code": cause.exit_code})))
    return BuildFailed(text_of(cause), cause, details)


def text_of(cause: DavitError) -> str:
    if isinstance(cause, CommandFailed):
        command = json.dumps(cause.command, ensure_ascii=False)
        return f"process {command} did not complete successfully: exit code: {cause.exit_code}"
    missing = _MISSING.match(str(cause))
    if missing:
        path = "/" + missing["path"].lstrip("/")
        return f'failed to compute cache key: failed to calculate checksum of ref: "{path}": not found'
    if isinstance(cause, DockerfileError):
        return str(cause).removeprefix("failed to parse Dockerfile: ")
    return str(cause)


def source_detail(source: Source, first: int, last: int) -> bytes:
    """The lines of a Dockerfile, for the client to mark them."""
    info: dict[str, Any] = {
        "filename": source.name,
        "data": base64.b64encode(source.text.encode("utf-8", "surrogateescape")).decode(),
        "language": "Dockerfile",
    }
    ranges = [{"start": {"line": number}, "end": {"line": number}} for number in range(first, last + 1)]
    return orjson.dumps({"info": info, "ranges": ranges})


def to_grpc(error: DavitError, *, plain: bool) -> GRPCError:
    """The error as it leaves.

    Args:
        plain: Without its kind, which clients would show in front of the text: it is for people.
    """
    status = Status.UNKNOWN if plain else _status(error)
    if isinstance(error, BuildFailed):
        return GRPCError(status, str(error), error.details)
    return GRPCError(status, text_of(error))


def _status(error: DavitError) -> Status:
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), Status.UNKNOWN)
