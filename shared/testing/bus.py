"""A bus inside one process: the same contracts, errors, headers and streams, without a server.

Connections of one `MemoryHub` talk to each other as clients of one NATS server do. Requests and replies are encoded
and decoded as on the wire, so what does not survive the trip there does not survive it here.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from shared.bus.client import ANY_NODE, Contract, Handler, Rep, Req
from shared.bus.context import RequestContext, current_context, use_context
from shared.errors import DavitError, DeadlineExceeded, Internal, InvalidArgument, Unavailable, from_wire
from shared.state.reserve import spend

Received = Callable[[bytes], Awaitable[None]]


@dataclass
class MemoryHub:
    """What a server is to its clients. `published` has every plain message, for tests to look at.

    Attributes:
        drop: Messages for which it returns true are lost, as when a server dies.
    """

    listeners: dict[str, list[Received]] = field(default_factory=lambda: defaultdict(list))
    servers: dict[str, list[Callable[[RequestContext, bytes], Awaitable[bytes]]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    published: list[tuple[str, bytes]] = field(default_factory=list)
    drop: Callable[[str, bytes], bool] = lambda subject, data: False
    turns: Any = field(default_factory=itertools.count)

    def connect(self, name: str = "test") -> MemoryBus:
        return MemoryBus(self, name)


class _Subscription:
    """Delivers one subject's messages one after the other, in a task, like a client does."""

    def __init__(self, hub: MemoryHub, subject: str, received: Received) -> None:
        self._hub = hub
        self._subject = subject
        self._received = received
        self._queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._task = asyncio.get_running_loop().create_task(self._deliver())
        hub.listeners[subject].append(self._queue.put)

    async def _deliver(self) -> None:
        while True:
            await self._received(await self._queue.get())

    async def unsubscribe(self) -> None:
        if self._queue.put in self._hub.listeners[self._subject]:
            self._hub.listeners[self._subject].remove(self._queue.put)
        if self._task is not asyncio.current_task():
            self._task.cancel()


def _of_any_node(contract: Contract[Any, Any]) -> str:
    return contract.subject_for(ANY_NODE)


class MemoryBus:
    """A connection; has the methods of `shared.bus.client.Bus` that services use."""

    def __init__(self, hub: MemoryHub, name: str) -> None:
        self._hub = hub
        self.name = name
        self.stream_scope = ""
        self._subscriptions: list[_Subscription] = []

    async def request(
        self, contract: Contract[Req, Rep], payload: Req, *, node: str | None = None, deadline_s: float | None = None
    ) -> Rep:
        subject = contract.subject_for(node)
        servers = self._hub.servers[subject] or self._hub.servers[_of_any_node(contract)]
        if not servers:
            raise Unavailable(f"no service answers {subject}")
        serve = servers[next(self._hub.turns) % len(servers)]
        limit_s = contract.deadline_s if deadline_s is None else deadline_s
        data = payload.model_dump_json(by_alias=True, exclude_none=True).encode()
        try:
            async with asyncio.timeout(limit_s):
                answer = await serve(replace(current_context(), node=contract.node_in(subject)), data)
        except TimeoutError as error:
            raise DeadlineExceeded(f"{subject}: no answer in time") from error
        return contract.reply.model_validate_json(answer)

    async def serve(
        self, contract: Contract[Req, Rep], handler: Handler[Req, Rep], *, node: str | None = None, queue: str = ""
    ) -> None:
        async def answer(context: RequestContext, data: bytes) -> bytes:
            with use_context(context), spend(contract.frees):
                try:
                    request = contract.request.model_validate_json(data)
                except ValueError as error:
                    raise InvalidArgument(str(error)) from error
                try:
                    return (await handler(request)).model_dump_json(by_alias=True, exclude_none=True).encode()
                except DavitError as error:
                    raise from_wire(error.to_wire()) from None
                except Exception as error:
                    raise Internal(f"{type(error).__name__}: {error}") from error

        self._hub.servers[contract.subject_for(node)].append(answer)

    async def publish(self, subject: str, data: bytes, *, headers: dict[str, str] | None = None) -> None:
        self._hub.published.append((subject, data))
        if self._hub.drop(subject, data):
            return
        for deliver in list(self._hub.listeners[subject]):
            await deliver(data)

    async def listen(self, subject: str, received: Received) -> _Subscription:
        subscription = _Subscription(self._hub, subject, received)
        self._subscriptions.append(subscription)
        return subscription

    def on_reconnect(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Nothing to do: this connection is never lost."""

    async def close(self) -> None:
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
