"""Errors as HTTP: the one place where an error gets its status.

The body is Docker's: ``{"message": "…"}`` and nothing else; clients tell cases apart by status and text.

Source: Docker Engine API 1.50, ErrorResponse.
"""

from __future__ import annotations

import orjson

from shared.errors import (
    Conflict,
    DavitError,
    DeadlineExceeded,
    Forbidden,
    Internal,
    Interrupted,
    InvalidArgument,
    NotFound,
    NotModified,
    Unauthorized,
    Unavailable,
    Unreachable,
    Unsupported,
)

STATUS: dict[type[DavitError], int] = {
    NotModified: 304,
    InvalidArgument: 400,
    Unauthorized: 401,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    Internal: 500,
    Unsupported: 501,
    Unavailable: 503,
    Unreachable: 500,  # as Docker has it: the engine itself is well
    DeadlineExceeded: 504,
    Interrupted: 504,
}


def status_of(error: DavitError) -> int:
    """The HTTP status of an error; a subclass has its parent's."""
    for cls in type(error).__mro__:
        status = STATUS.get(cls)
        if status is not None:
            return status
    return 500


def error_of(status: int, message: str) -> DavitError:
    """The error that has this status: for failures that travel as a number inside a progress stream."""
    for cls, known in STATUS.items():
        if known == status:
            return cls(message)
    return (InvalidArgument if 400 <= status < 500 else Internal)(message)


def body_of(message: str) -> bytes:
    return orjson.dumps({"message": message}) + b"\n"


class PageNotFound(NotFound):
    """No route has this method and path. Docker says the same for a wrong method."""

    def __init__(self) -> None:
        super().__init__("page not found")
