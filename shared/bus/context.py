"""Who asks, on whose behalf, until when: what travels with every message.

Source: W3C Trace Context, section 3.2 (traceparent).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

from shared.errors import Forbidden

HEADER_REQUEST_ID = "Davit-Request-Id"
HEADER_ACTOR = "Davit-Actor"
HEADER_DEADLINE = "Davit-Deadline"
HEADER_TRACEPARENT = "traceparent"


def new_request_id() -> str:
    return secrets.token_hex(8)


def new_traceparent() -> str:
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


@dataclass(frozen=True, slots=True)
class RequestContext:
    """What every message carries in its headers.

    Attributes:
        request_id: Names one request of one client through all services.
        actor: Who asked: ``uid:0``, a certificate's subject, or ``system:<service>`` for the engine's own work.
        deadline: Wall-clock seconds since the epoch after which nobody waits for the answer; None is no limit.
        node: The node that asks, by a contract for nodes: proven by the subject, not told by a header.
    """

    request_id: str = field(default_factory=new_request_id)
    actor: str = "system"
    traceparent: str = field(default_factory=new_traceparent)
    deadline: float | None = None
    node: str = ""

    def headers(self) -> dict[str, str]:
        headers = {
            HEADER_REQUEST_ID: self.request_id,
            HEADER_ACTOR: self.actor,
            HEADER_TRACEPARENT: self.traceparent,
        }
        if self.deadline is not None:
            headers[HEADER_DEADLINE] = f"{self.deadline:.6f}"
        return headers

    @classmethod
    def from_headers(cls, headers: dict[str, str] | None, *, node: str = "") -> RequestContext:
        headers = headers or {}
        deadline = headers.get(HEADER_DEADLINE)
        return cls(
            request_id=headers.get(HEADER_REQUEST_ID) or new_request_id(),
            actor=headers.get(HEADER_ACTOR) or "system",
            traceparent=headers.get(HEADER_TRACEPARENT) or new_traceparent(),
            deadline=float(deadline) if deadline else None,
            node=node,
        )

    def remaining_s(self) -> float | None:
        """Seconds until the deadline; negative when it has passed, None without one."""
        return None if self.deadline is None else self.deadline - time.time()

    def with_deadline(self, deadline: float | None) -> RequestContext:
        return replace(self, deadline=deadline)


def check_node(named: str) -> None:
    """Refuse what a node says in another's name.

    Raises:
        Forbidden: The request being served comes from another node than it names.
    """
    sender = current_context().node
    if sender and sender != named:
        raise Forbidden(f"node {sender} spoke for node {named}", node=sender)


_current: ContextVar[RequestContext | None] = ContextVar("davit_request_context", default=None)


def current_context() -> RequestContext:
    """The context of the request being served, or a fresh one of the system's own."""
    return _current.get() or RequestContext()


def is_own_work() -> bool:
    """Whether the engine does it by itself, and nobody has asked."""
    actor = current_context().actor
    return actor == "system" or actor.startswith("system:")


def current_request_id() -> str:
    """The id of the request being served, or nothing outside of any."""
    context = _current.get()
    return context.request_id if context is not None else ""


@contextmanager
def use_context(context: RequestContext) -> Iterator[RequestContext]:
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)
