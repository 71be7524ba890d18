"""How the registry answers, and how it says that it cannot.

Source: OCI distribution-spec 1.1, "Error Codes".
"""

from __future__ import annotations

from typing import Any

import orjson
from starlette.responses import Response

from shared.errors import Conflict, DavitError, Forbidden, InvalidArgument, NotFound, Unauthorized, Unavailable

VERSION_HEADER = {"Docker-Distribution-Api-Version": "registry/2.0"}
_STATUS: tuple[tuple[type[DavitError], int, str], ...] = (
    (NotFound, 404, "NAME_UNKNOWN"),
    (Unauthorized, 401, "UNAUTHORIZED"),
    (Forbidden, 403, "DENIED"),
    (Conflict, 409, "BLOB_UPLOAD_INVALID"),
    (InvalidArgument, 400, "MANIFEST_INVALID"),
    (Unavailable, 503, "UNAVAILABLE"),
)


def answer(status: int, value: Any = None, **headers: str) -> Response:
    """An answer with a JSON body, or none; underscores in names of headers are hyphens."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    body = b"" if value is None else orjson.dumps(value)
    return Response(body, status, {**VERSION_HEADER, **named}, "application/json" if value is not None else None)


def failure(error: DavitError) -> Response:
    """An error as registries tell it; `registry_code` and `registry_status` in its detail count most."""
    status, code = next(((status, code) for kind, status, code in _STATUS if isinstance(error, kind)), (500, "UNKNOWN"))
    code = str(error.detail.get("registry_code", code))
    status = int(error.detail.get("registry_status", status))
    challenge = error.detail.get("challenge")
    headers = {"WWW-Authenticate": str(challenge)} if challenge else {}
    return answer(status, {"errors": [{"code": code, "message": error.message}]}, **headers)
