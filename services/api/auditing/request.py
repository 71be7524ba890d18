"""One request, as it is recorded: received before anything comes of it, and complete when it has ended.

::

    recorded ────► route found ──► body parsed ──► first thing that is asked of a service, or first byte of the answer
                                                     │ before_effect: record "received"; enforced: on the disk
                                                     ▼
                                      work, perhaps a session (begin … end with bytes)
                                                     │
    end: record "complete", with status, error and what was changed
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from services.api.auditing import answers
from services.api.auditing.actions import UNKNOWN, Action, Effect, action_of
from services.api.auditing.identity import Identity, identity_of
from services.api.hijack import EXTENSION_HIJACK, EXTENSION_PEER
from shared.auditing import records
from shared.auditing.policy import BUILT_IN, Decision, Level, Policy
from shared.auditing.secret import Masking
from shared.errors import DavitError, Unavailable
from shared.events.changes import collecting

if TYPE_CHECKING:
    from services.api.hijack import Headers, RawConnection
    from shared.auditing.recorder import Recorder
    from shared.events.changes import Changes

_current: ContextVar[AuditedRequest | None] = ContextVar("davit_audited_request", default=None)
LabelsOf = Callable[[str, str], Awaitable[dict[str, str]]]


class Auditing:
    """What all requests of one edge share.

    Attributes:
        policy: Replaced when the configuration is read anew.
        labels_of: From a resource and the name of an object to its labels, for policies that ask for them.
    """

    def __init__(self, recorder: Recorder, policy: Policy = BUILT_IN, labels_of: LabelsOf | None = None) -> None:
        self.recorder = recorder
        self.policy = policy
        self.labels_of = labels_of

    async def close(self) -> None:
        self.recorder.close()


class AuditedRequest:
    """One request under way."""

    def __init__(self, auditing: Auditing, scope: Any, request_id: str, receive: Any, send: Any) -> None:
        self._auditing = auditing
        self._receive = receive
        self._send = send
        self._error = ""
        self._scope = scope
        self._id = request_id
        self._started_ns = time.time_ns()
        self._started = time.perf_counter_ns()
        self.identity: Identity = identity_of(scope["extensions"].get(EXTENSION_PEER))
        self.action: Action = UNKNOWN
        self._route = ""
        self._object = ""
        self._body: BaseModel | None = None
        self._query: BaseModel | None = None
        self._labels: dict[str, str] | None = None
        self._digest: Any = None
        self._body_bytes = 0
        self._masking = Masking()
        self._decision: Decision | None = None
        self._received = False
        self._refused = False
        self._status: int | None = None
        self._sent_bytes = 0
        self._answer: bytearray | None = None
        self._session: RawConnection | None = None
        self._session_since = 0
        self._watch_hijack()

    # -- what is learnt on the way --------------------------------------------------------------------------------

    def matched(self, route: str) -> None:
        """Which route it is, by its template; the scope has its parameters."""
        self._route = route
        self.action = action_of(self._scope["method"], route) or UNKNOWN
        parts = self._scope.get("path_params") or {}
        self._object = str(next(iter(parts.values()), ""))

    def parsed(self, body: BaseModel) -> None:
        """What the body says, as it is going to be carried out."""
        self._body = body
        labels = getattr(body, "labels", None)
        if isinstance(labels, dict):
            self._labels = labels

    def queried(self, query: BaseModel) -> None:
        """What the query says."""
        self._query = query

    def failed(self, error: str) -> None:
        """Why it has not succeeded."""
        self._error = error

    async def receive(self) -> Any:
        """A part of the body, of which a digest is kept."""
        message = await self._receive()
        if message["type"] == "http.request" and (chunk := message.get("body")):
            self._body_bytes += len(chunk)
            if self._decision is None or self._decision.level >= Level.REQUEST:
                self._digest = self._digest or hashlib.sha256()
                self._digest.update(chunk)
        return message

    async def send(self, message: Any) -> None:
        """A part of the answer."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
        else:
            chunk = message.get("body", b"")
            self._sent_bytes += len(chunk)
            if self._answer is not None and len(self._answer) <= answers.LARGEST_BYTES:
                self._answer += chunk
        await self._send(message)

    # -- received -------------------------------------------------------------------------------------------------

    async def before_effect(self) -> None:
        """Record that it was received, unless that was done. Raises Unavailable: it must not be carried out."""
        if self._received or self._refused:
            return
        self._received = True
        decision = await self._decide()
        if decision.level is Level.NONE:
            return
        recorder = self._auditing.recorder
        try:
            recorder.received(self._id, self._received_record(decision), spare=self._spare)
            if self.action.effect is not Effect.READS:
                await recorder.durable()
        except Unavailable:
            self._refused = True
            raise

    async def _decide(self) -> Decision:
        policy, names, action = self._auditing.policy, self.identity.names, self.action
        name = self._name()
        decision = policy.decide(names, action.verb, action.resource, name, self._labels)
        if decision is None:
            labels: dict[str, str] = {}
            if self._auditing.labels_of is not None and name:
                try:
                    labels = await self._auditing.labels_of(action.resource, name)
                except DavitError:  # there is no such object, or nobody knows
                    labels = {}
            decision = policy.decide(names, action.verb, action.resource, name, labels)
            assert decision is not None  # with labels there always is one
        self._decision = decision
        if decision.level is Level.REQUEST_RESPONSE:
            self._answer = bytearray()
        return decision

    def _name(self) -> str:
        """The name of the object, from the path, else from where the action says."""
        if self._object or not (key := self.action.named_by):
            return self._object
        for given in (self._query, self._body):
            value = given if given is None else getattr(given, key, None)
            if value:
                self._object = str(value[0] if isinstance(value, list) else value)
                break
        return self._object

    @property
    def _spare(self) -> bool:
        return self.action.effect is Effect.FREES

    def _received_record(self, decision: Decision) -> dict[str, Any]:
        scope = self._scope
        record = self._record(records.RECEIVED, self._started_ns)
        record["client"] = self._client()
        record["http"] = {"method": scope["method"], "path": scope["path"][:2048], "route": self._route}
        record["level"], record["rule"] = decision.level.word, decision.rule
        if decision.level >= Level.REQUEST:
            asked: dict[str, Any] = {}
            if self._query is not None and (query := self._masking.model(self._query)):
                asked["query"] = query
            if self._body is not None:
                asked["body"] = self._masking.model(self._body)
            if asked:
                record["asked"] = asked
        if self._digest is not None and self._body is not None:
            record["body"] = self._body_record()
        return record

    def _record(self, kind: str, time_ns: int) -> dict[str, Any]:
        action: dict[str, Any] = {"resource": self.action.resource, "verb": self.action.verb}
        if name := self._name():
            action["object"] = name[:1024]
        return {
            "kind": kind,
            "time": records.moment(time_ns),
            "request": self._id,
            "actor": self.identity.json,
            "action": action,
        }

    def _client(self) -> dict[str, Any]:
        client: dict[str, Any] = {"version": self._scope.get("davit.version") or ""}
        if isinstance(client["version"], tuple):
            client["version"] = ".".join(str(part) for part in client["version"])
        address = self._scope.get("client")
        if address:
            client["address"] = f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
        for name, value in self._scope["headers"]:
            if name == b"user-agent":
                client["agent"] = value.decode("latin-1")[:256]
                break
        return client

    def _body_record(self) -> dict[str, Any]:
        return {"bytes": self._body_bytes, "sha256": self._digest.hexdigest()}

    # -- sessions --------------------------------------------------------------------------------------------------

    def _watch_hijack(self) -> None:
        """Record a session when the request takes its connection out of HTTP."""
        original = self._scope["extensions"].get(EXTENSION_HIJACK)
        if original is None:
            return

        async def hijack(status: int, headers: Headers) -> RawConnection:
            await self.before_effect()
            connection: RawConnection = await original(status, headers)
            self._status = status
            self._session, self._session_since = connection, time.perf_counter_ns()
            if self._recorded:
                self._auditing.recorder.record(self._record(records.BEGIN, time.time_ns()), happened=True)
            return connection

        self._scope["extensions"] = self._scope["extensions"] | {EXTENSION_HIJACK: hijack}

    @property
    def _recorded(self) -> bool:
        return self._decision is not None and self._decision.level is not Level.NONE

    # -- complete -------------------------------------------------------------------------------------------------

    async def end(self, changes: Changes) -> None:
        """Record how it ended."""
        with contextlib.suppress(Unavailable):  # it was refused for that
            await self.before_effect()
        if not self._recorded or self._refused:
            return
        recorder, spare = self._auditing.recorder, self._spare
        if self._session is not None:
            recorder.record(self._session_record(self._session), spare=spare, happened=True)
        recorder.complete(self._id, self._complete_record(changes), spare=spare)

    def _session_record(self, session: RawConnection) -> dict[str, Any]:
        record = self._record(records.END, time.time_ns())
        record["session"] = {
            "received_bytes": session.received_bytes,
            "sent_bytes": session.sent_bytes,
            "duration_us": (time.perf_counter_ns() - self._session_since) // 1000,
        }
        return record

    def _complete_record(self, changes: Changes) -> dict[str, Any]:
        record = self._record(records.COMPLETE, time.time_ns())
        outcome: dict[str, Any] = {
            "status": self._status,
            "duration_us": (time.perf_counter_ns() - self._started) // 1000,
        }
        if self._sent_bytes:
            outcome["sent_bytes"] = self._sent_bytes
        if self._error:
            outcome["error"] = self._masking.text(self._error)
        record["outcome"] = outcome
        if changes.count:
            record["changed"] = [{"type": kind, "action": act, "id": identity} for kind, act, identity in changes.named]
            if changes.count > len(changes.named):
                record["changed_count"] = changes.count
        if self._digest is not None and self._body is None:
            record["body"] = self._body_record()
        if self._answer:
            record["answer"] = answers.recorded(bytes(self._answer), self._masking)
        return record


class NotRecorded:
    """Stands for a request where nothing is recorded."""

    def __init__(self, receive: Any, send: Any) -> None:
        self.receive = receive
        self.send = send

    async def before_effect(self) -> None:
        """Nothing is to be done before."""

    def failed(self, error: str) -> None:
        """Nobody is told."""


@asynccontextmanager
async def recorded(
    auditing: Auditing | None, scope: Any, request_id: str, receive: Any, send: Any
) -> AsyncIterator[AuditedRequest | NotRecorded]:
    """Serve a request within: it is recorded before it has an effect, and when it has ended."""
    if auditing is None:
        yield NotRecorded(receive, send)
        return
    request = AuditedRequest(auditing, scope, request_id, receive, send)
    token = _current.set(request)
    try:
        with collecting() as changes:
            try:
                yield request
            finally:
                await request.end(changes)
    finally:
        _current.reset(token)


def current() -> AuditedRequest | None:
    """The request that is being served."""
    return _current.get()


def matched(route: str) -> None:
    """The request that is being served is for the route with this template."""
    if (request := _current.get()) is not None:
        request.matched(route)


def queried(query: BaseModel) -> None:
    """The request that is being served asks for that, too."""
    if (request := _current.get()) is not None:
        request.queried(query)


def parsed(body: BaseModel) -> None:
    """The request that is being served asks for that."""
    if (request := _current.get()) is not None:
        request.parsed(body)
