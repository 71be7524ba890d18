"""Every error that crosses a boundary of the engine.

::

    DavitError
    ├── NotFound            the named thing does not exist
    ├── Conflict            it exists already, is in use, or is in the wrong state
    ├── InvalidArgument     the request can never succeed as written; detail["field"] names the culprit
    ├── Unsupported         well-formed, but this engine or kernel cannot do it; detail["field"] names it
    ├── NotModified         the state asked for is the state that is
    ├── Unauthorized        who are you
    ├── Forbidden           you may not
    ├── Unavailable         a part is away; trying again may help
    │   └── Unreachable     it is none of the engine's parts: a registry, a server somewhere
    ├── DeadlineExceeded    no answer in time; the outcome is unknown
    │   └── Interrupted     whoever worked on it died; whether it may be repeated, the caller knows
    └── Internal            a defect, or an answer nobody understands

Codes cross the wire one to one. An unknown code arrives as `Internal` with its text kept.
"""

from __future__ import annotations

from typing import Any, ClassVar


class DavitError(Exception):
    """Base of all errors that services answer with.

    Args:
        message: What could not be done, to what, and why, in the words clients know.
        **detail: Structured facts (JSON values), for example ``field="HostConfig.Memory"``.
    """

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, **detail: Any) -> None:
        super().__init__(message)
        self.message = message
        self.detail: dict[str, Any] = detail

    def __str__(self) -> str:
        return self.message

    def to_wire(self) -> dict[str, Any]:
        """The form in which the error crosses the bus: ``{code, message, detail}``."""
        return {"code": self.code, "message": self.message, "detail": self.detail}


class NotFound(DavitError):
    code = "not_found"


class Conflict(DavitError):
    code = "conflict"


class InvalidArgument(DavitError):
    code = "invalid_argument"


class Unsupported(DavitError):
    code = "unsupported"


class NotModified(DavitError):
    code = "not_modified"


class Unauthorized(DavitError):
    code = "unauthorized"


class Forbidden(DavitError):
    code = "forbidden"


class Unavailable(DavitError):
    code = "unavailable"


class Unreachable(Unavailable):
    code = "unreachable"


class DeadlineExceeded(DavitError):
    code = "deadline_exceeded"


class Interrupted(DeadlineExceeded):
    code = "interrupted"


class Internal(DavitError):
    code = "internal"


BY_CODE: dict[str, type[DavitError]] = {
    cls.code: cls
    for cls in (
        NotFound,
        Conflict,
        InvalidArgument,
        Unsupported,
        NotModified,
        Unauthorized,
        Forbidden,
        Unavailable,
        Unreachable,
        DeadlineExceeded,
        Interrupted,
        Internal,
    )
}


def from_wire(wire: dict[str, Any]) -> DavitError:
    """The error that `DavitError.to_wire` described, as the same class."""
    cls = BY_CODE.get(str(wire.get("code")), Internal)
    return cls(str(wire.get("message", "unknown error")), **(wire.get("detail") or {}))
