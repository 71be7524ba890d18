"""Who is there: every copy of every service answers on the bus when it is ready."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Set
from typing import TYPE_CHECKING

import nats.errors
from pydantic import BaseModel, ValidationError

from shared.bus.client import Contract, Empty

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from shared.bus.client import Bus

SERVICES = ("api", "image", "network", "volume", "control", "agent", "audit")


# For those that nobody expects: copies, and other nodes.
LINGER_S = 0.1


class Health(BaseModel):
    """One copy of a service.

    Attributes:
        healthy: Whether it can do its work now; problem says why not.
        started_ns: When it started, nanoseconds since the epoch.
        database: ``sqlite``, ``postgresql`` or empty for a service without one.
        published, recorded: Events in the stream and in the outbox, of the copy that publishes.
    """

    service: str
    pid: int
    node: str
    version: str
    started_ns: int
    healthy: bool = True
    problem: str = ""
    database: str = ""
    published: int | None = None
    recorded: int | None = None


def contract(service: str) -> Contract[Empty, Health]:
    """Asks any copy of the service how it is."""
    return Contract(f"davit.health.{service}", Empty, Health, deadline_s=2, idempotent=True)


async def ask_all(bus: Bus, *, wait_s: float = 0.5, expected: Set[tuple[str, int]] = frozenset()) -> list[Health]:
    """What every copy of every service says within the time, or until all that are expected have answered.

    Args:
        expected: Node and pid of each; empty: wait for the whole time.
    """
    answers: list[Health] = []
    enough = asyncio.Event()

    async def answered(message: Msg) -> None:
        if not message.data:
            return  # "no responders" for a service that is not there
        with contextlib.suppress(ValidationError):
            answers.append(Health.model_validate_json(message.data))
        if expected and expected <= {(health.node, health.pid) for health in answers}:
            enough.set()

    inbox = bus.nats.new_inbox()
    subscription = await bus.nats.subscribe(inbox, cb=answered)
    try:
        for service in SERVICES:
            await bus.nats.publish(contract(service).subject, b"{}", reply=inbox)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(enough.wait(), wait_s)
            await asyncio.sleep(LINGER_S)
    finally:
        with contextlib.suppress(nats.errors.Error):
            await subscription.unsubscribe()
    return sorted(answers, key=lambda health: (health.service, health.pid))
