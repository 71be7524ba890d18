"""Domain events: what happened, to what, by whom, in which order.

A service records an event in the transaction that makes it true (`shared.state.database`); the relay
(`shared.events.relay`) then publishes it to the JetStream stream `EVENTS`. Within one service, sequence numbers have no
gaps, so that a consumer can tell that it missed one.
"""

from __future__ import annotations

import re
import secrets
import time

from pydantic import BaseModel, Field

from shared.bus.context import current_context

STREAM = "EVENTS"
SUBJECTS = "davit.event.>"
HEADER_SERVICE = "Davit-Service"
HEADER_SEQUENCE = "Davit-Sequence"

_NOT_A_TOKEN = re.compile(r"[^a-z0-9_-]")


class DomainEvent(BaseModel):
    """One event, in Docker's terms.

    Attributes:
        type: ``container``, ``image``, ``network``, ``volume``, ``node``, …
        action: Docker's word, whole: ``start``, ``exec_create: sh``, ``health_status: healthy``.
        actor_id: The id of what it happened to.
        attributes: Name, image, labels, exit code, …: what ``Actor.Attributes`` shows.
        time_ns: When it was recorded, nanoseconds since the epoch.
        node: The node it happened on, if on one.
        service, sequence: Who recorded it, and its number there; 0 until recorded.
        message_id: Its identity: a second delivery has the same.
        actor: Who caused it.
        cause: Why the engine did it by itself, in words; empty when somebody asked for it.
        late: Whether it was recorded when the request that caused it had been answered.
    """

    type: str
    action: str
    actor_id: str
    attributes: dict[str, str] = Field(default_factory=dict)
    scope: str = "local"
    time_ns: int = Field(default_factory=time.time_ns)
    node: str | None = None
    service: str = ""
    sequence: int = 0
    message_id: str = Field(default_factory=lambda: secrets.token_hex(16))
    actor: str = Field(default_factory=lambda: current_context().actor)
    request_id: str = Field(default_factory=lambda: current_context().request_id)
    cause: str = ""
    late: bool = False

    @property
    def subject(self) -> str:
        """``davit.event.<type>.<first word of the action>``."""
        return f"davit.event.{_token(self.type)}.{_token(self.action)}"


def _token(text: str) -> str:
    """The first word of a text as one subject token; ``_`` for whatever NATS or a filter could trip over."""
    words = re.split(r"[\s:]", text.strip().lower(), maxsplit=1)
    return _NOT_A_TOKEN.sub("_", words[0]) or "_"
