"""What every request passes: version, request id, actor, common headers, and errors turned into answers.

Plain ASGI, one layer: each extra layer would cost every request, and these five belong to the same moment.
"""

from __future__ import annotations

import logging
import posixpath
import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.requests import ClientDisconnect

from services.api import versions
from services.api.auditing.request import Auditing, recorded
from services.api.errors import body_of, status_of
from services.api.hijack import EXTENSION_PEER
from shared.bus.context import RequestContext, new_request_id, new_traceparent, use_context
from shared.errors import DavitError, Internal

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)


class Edge:
    """The outermost ASGI application.

    Args:
        app: The routes; raises `DavitError`.
        engine_version: For the Server header.
        auditing: Where requests are recorded; None: nowhere, as in tests of routes.
    """

    def __init__(self, app: ASGIApp, engine_version: str, auditing: Auditing | None = None) -> None:
        self._app = app
        self._auditing = auditing
        self._headers = [
            (b"Api-Version", versions.NEWEST.encode()),
            (b"Docker-Experimental", b"false"),
            (b"Ostype", b"linux"),
            (b"Server", f"davit/{engine_version} (linux)".encode()),
        ]
        self._date_at = 0
        self._date = b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise Internal(f"unexpected ASGI scope {scope['type']}")
        context = RequestContext(
            request_id=new_request_id(), actor=actor_of(scope), traceparent=_header(scope, b"traceparent")
        )
        common = [*self._headers, (b"Date", self._now()), (b"X-Request-Id", context.request_id.encode())]
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                await audited.before_effect()
                started = True
                message["headers"] = [*common, *message["headers"]]
            await audited.send(message)

        with use_context(context):
            async with recorded(self._auditing, scope, context.request_id, receive, send) as audited:
                try:
                    if (clean := clean_path(scope["path"])) != scope["path"]:
                        await moved(send_with_headers, clean, scope["query_string"])
                        return
                    text, path = versions.split(scope["path"])
                    scope["path"] = path
                    scope["davit.version"] = text
                    scope["davit.headers"] = common
                    log.debug("%s %s", scope["method"], path)
                    await self._app(scope, audited.receive, send_with_headers)
                except DavitError as error:
                    audited.failed(error.message)
                    if isinstance(error, Internal):
                        log.error("%s %s: %s", scope["method"], scope["path"], error)
                    if started:
                        raise  # the server cuts the connection, so that the client sees a torn answer, not a short one
                    await answer(send_with_headers, status_of(error), error.message)
                except (ConnectionResetError, ClientDisconnect):
                    audited.failed("the client went away")
                    log.debug("%s %s: the client went away", scope["method"], scope["path"])
                except Exception as error:
                    audited.failed(f"{type(error).__name__}: {error}")
                    if started:
                        raise
                    log.exception("%s %s failed", scope["method"], scope["path"])
                    await answer(send_with_headers, 500, f"{type(error).__name__}: {error}")

    def _now(self) -> bytes:
        now = int(time.time())
        if now != self._date_at:
            self._date_at, self._date = now, formatdate(now, usegmt=True).encode()
        return self._date


async def answer(send: Send, status: int, message: str) -> None:
    """Send an error. 304 has no body, whatever the text."""
    content = b"" if status == 304 else body_of(message)
    headers = [] if status == 304 else [(b"Content-Type", b"application/json")]
    headers.append((b"Content-Length", str(len(content)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def clean_path(path: str) -> str:
    """A path without doubled slashes, ``.`` and ``..``, which Docker's router answers with a redirection to it."""
    if "//" not in path and "/." not in path:
        return path
    clean = posixpath.normpath("/" + path.lstrip("/"))
    return clean + "/" if path.endswith("/") and clean != "/" else clean


async def moved(send: Send, path: str, query: bytes) -> None:
    location = quote(path).encode() + (b"?" + query if query else b"")
    headers = [(b"Location", location), (b"Content-Length", b"0")]
    await send({"type": "http.response.start", "status": 301, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def actor_of(scope: Scope) -> str:
    """Who asks: ``uid:0`` over the unix socket, a certificate's common name over TLS, ``anonymous`` otherwise."""
    peer: dict[str, Any] | None = scope.get("extensions", {}).get(EXTENSION_PEER)
    if peer is None:
        return "anonymous"
    return f"uid:{peer['uid']}" if "uid" in peer else f"tls:{peer['subject']}"


def _header(scope: Scope, name: bytes) -> str:
    for key, value in scope["headers"]:
        if key == name and len(value) == 55:
            return str(value, "latin-1")
    return new_traceparent()
