"""Requests to the registry in the audit log: received before they have an effect, complete with bytes and outcome.

The user is known once the registry has checked who it is, and so is in the second of the two records.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from services.image.server.answers import failure
from shared.auditing import records
from shared.auditing.policy import Decision, Level, Policy
from shared.bus.context import new_request_id
from shared.errors import Unavailable

if TYPE_CHECKING:
    from shared.auditing.recorder import Recorder

RESOURCE = "registry"
_VERBS = {"GET": "pull", "HEAD": "pull", "DELETE": "remove", "PUT": "push", "POST": "push", "PATCH": "push"}


class AuditedRegistry:
    """An ASGI application around the registry.

    Attributes:
        policy: Replaced when the configuration is read anew.
    """

    def __init__(self, app: Any, recorder: Recorder, policy: Policy) -> None:
        self._app = app
        self.recorder = recorder
        self.policy = policy

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        verb, name = action_of(scope["method"], scope["path"])
        decision = self.policy.decide(("anonymous",), verb, RESOURCE, name, {})
        assert decision is not None  # no labels are missing
        if decision.level is Level.NONE:
            await self._app(scope, receive, send)
            return
        request = _Request(self.recorder, scope, receive, send, verb, name)
        try:
            await request.received(decision)
        except Unavailable as error:
            await failure(error)(scope, receive, send)
            return
        try:
            await self._app(scope, request.receive, request.send)
        finally:
            request.complete()


class _Request:
    def __init__(self, recorder: Recorder, scope: Any, receive: Any, send: Any, verb: str, name: str) -> None:
        self._recorder = recorder
        self._scope = scope
        self._receive = receive
        self._send = send
        self._action = {"resource": RESOURCE, "verb": verb, "object": name}
        self._id = new_request_id()
        self._started = time.perf_counter_ns()
        self._in = self._out = 0
        self._status: int | None = None

    async def received(self, decision: Decision) -> None:
        """Raises Unavailable: it must not be carried out."""
        scope = self._scope
        record = self._record(records.RECEIVED, "unverified")
        record["http"] = {"method": scope["method"], "path": scope["path"][:2048], "route": "/v2/"}
        record["level"], record["rule"] = decision.level.word, decision.rule
        self._recorder.received(self._id, record, spare=scope["method"] == "DELETE")
        if scope["method"] not in ("GET", "HEAD"):
            await self._recorder.durable()

    def _record(self, kind: str, who: str) -> dict[str, Any]:
        client = self._scope.get("client")
        agent = next((value for key, value in self._scope["headers"] if key == b"user-agent"), b"")
        return {
            "kind": kind,
            "time": records.moment(time.time_ns()),
            "request": self._id,
            "actor": {"name": who},
            "action": self._action,
            "client": {"address": f"{client[0]}:{client[1]}" if client else "", "agent": agent.decode("latin-1")[:256]},
        }

    async def receive(self) -> Any:
        message = await self._receive()
        self._in += len(message.get("body", b""))
        return message

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
        self._out += len(message.get("body", b""))
        await self._send(message)

    def complete(self) -> None:
        visitor = (self._scope.get("state") or {}).get("visitor")
        user = getattr(visitor, "user", "")
        record = self._record(records.COMPLETE, f"registry:{user}" if user else "anonymous")
        record["outcome"] = {"status": self._status, "duration_us": (time.perf_counter_ns() - self._started) // 1000}
        record["session"] = {"received_bytes": self._in, "sent_bytes": self._out}
        self._recorder.complete(self._id, record, spare=self._scope["method"] == "DELETE")


def action_of(method: str, path: str) -> tuple[str, str]:
    """Verb and repository of a request."""
    rest = path.removeprefix("/v2/")
    for part in ("/manifests/", "/blobs/", "/tags/", "/referrers/"):
        name, found, _ = rest.partition(part)
        if found:
            verb = "list" if part in ("/tags/", "/referrers/") else _VERBS.get(method, method.lower())
            return verb, name
    return ("list" if rest.startswith("_catalog") else "login"), ""
