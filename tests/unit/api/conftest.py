"""An edge on a real unix socket, with the rest of the engine replaced by an in-memory bus."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from services.api.app import build_app
from services.api.auditing.bus import AuditedBus, labels_of
from services.api.auditing.request import Auditing
from services.api.call import Deps, EngineFacts
from services.api.reads import Reads
from services.api.server import EdgeServer, open_listener
from shared.auditing.recorder import Recorder
from shared.bus import streams
from shared.bus.client import Contract
from shared.bus.context import RequestContext, current_context
from shared.errors import Unavailable
from shared.events.record import DomainEvent
from shared.testing.auditing import MemorySink


class MemorySubscription:
    def __init__(self, bus: MemoryBus, subject: str) -> None:
        self._bus = bus
        self._subject = subject

    async def unsubscribe(self) -> None:
        self._bus.listeners.pop(self._subject, None)


class MemoryBus:
    """Contracts answered by functions; streams carried in memory, in order."""

    def __init__(self) -> None:
        self.handlers: dict[str, Callable[[Any], Awaitable[BaseModel]]] = {}
        self.listeners: dict[str, Callable[[bytes], Awaitable[None]]] = {}
        self.requests: list[tuple[str, BaseModel]] = []
        self.contexts: list[RequestContext] = []
        self.stream_scope = ""

    def answer(self, contract: Contract[Any, Any], reply: BaseModel | Exception | Callable[[Any], Any]) -> None:
        """Answer a contract with a model, an error to raise, or what a function makes of the request."""

        async def handler(request: Any) -> BaseModel:
            result = reply(request) if callable(reply) and not isinstance(reply, BaseModel) else reply
            if asyncio.iscoroutine(result):
                result = await result
            if isinstance(result, Exception):
                raise result
            assert isinstance(result, BaseModel)
            return result

        self.handlers[contract.subject] = handler

    async def request(
        self,
        contract: Contract[Any, Any],
        payload: BaseModel,
        *,
        node: str | None = None,
        deadline_s: float | None = None,
    ) -> Any:
        self.requests.append((contract.subject, payload))
        self.contexts.append(current_context())
        handler = self.handlers.get(contract.subject)
        if handler is None:
            raise Unavailable(f"no service answers {contract.subject}")
        sent = payload.model_dump_json(by_alias=True, exclude_none=True)
        reply = await handler(contract.request.model_validate_json(sent))
        return contract.reply.model_validate_json(reply.model_dump_json(by_alias=True, exclude_none=True))

    async def publish(self, subject: str, data: bytes) -> None:
        listener = self.listeners.get(subject)
        if listener is not None:
            await listener(data)

    async def listen(self, subject: str, received: Callable[[bytes], Awaitable[None]]) -> MemorySubscription:
        self.listeners[subject] = received
        return MemorySubscription(self, subject)


class Events:
    """A history and what comes after it."""

    def __init__(self) -> None:
        self.history: list[DomainEvent] = []
        self.live: asyncio.Queue[DomainEvent] = asyncio.Queue()
        # How long each event of the history takes to come.
        self.pause_s = 0.0

    async def follow(self, *, since_ns: int, replay_only: bool) -> AsyncGenerator[DomainEvent, None]:
        for event in self.history:
            if event.time_ns >= since_ns:
                await asyncio.sleep(self.pause_s)
                yield event
        while not replay_only:
            yield await self.live.get()


class Reply:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body


class Client:
    """Raw HTTP over the socket: what it sends is under the test's control."""

    def __init__(self, path: str) -> None:
        self.path = path

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(self.path)

    @staticmethod
    def head(method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b"") -> bytes:
        lines = [f"{method} {target} HTTP/1.1", "Host: test"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*lines, "", ""]).encode() + body

    async def request(
        self, method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None, *, json: bool = True
    ) -> Reply:
        headers = {"Connection": "close", **(headers or {})}
        if body and json:
            headers.setdefault("Content-Type", "application/json")
        reader, writer = await self.open()
        writer.write(self.head(method, target, headers, body))
        async with asyncio.timeout(10):
            data = await reader.read()
        writer.close()
        return parse(data)


def parse(data: bytes) -> Reply:
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    if headers.get("transfer-encoding") == "chunked":
        body = dechunk(body)
    return Reply(int(lines[0].split()[1]), headers, body)


def dechunk(data: bytes) -> bytes:
    parts = []
    while data:
        size_text, _, data = data.partition(b"\r\n")
        size = int(size_text, 16)
        if not size:
            break
        parts.append(data[:size])
        data = data[size + 2 :]
    return b"".join(parts)


class EdgeUnderTest:
    """Attributes: data_root: the engine's, which is not there: make it for what needs it."""

    def __init__(
        self,
        bus: MemoryBus,
        events: Events,
        client: Client,
        app: Any,
        data_root: Path,
        auditing: Auditing,
        reads: Reads,
    ) -> None:
        self.auditing = auditing
        self.reads = reads
        self.data_root = data_root
        self.app = app
        self.bus = bus
        self.events = events
        self.client = client


@pytest.fixture
async def edge() -> AsyncIterator[EdgeUnderTest]:
    bus, events = MemoryBus(), Events()

    async def offer() -> streams.ByteStream:
        return await streams.offer(bus)

    with tempfile.TemporaryDirectory(prefix="davit-api-") as directory:
        facts = EngineFacts(node="n1", data_root=f"{directory}/data")
        kept = MemorySink()
        auditing = Auditing(Recorder(lambda _: kept, "best-effort"), labels_of=partial(labels_of, bus))
        deps = Deps(bus=AuditedBus(bus), offer=offer, follow=events.follow, facts=facts)
        app = build_app(deps, auditing)
        server = EdgeServer(app)
        path = str(Path(directory) / "a.sock")
        await server.listen(open_listener(f"unix://{path}", tls=None, allow_insecure=False))
        yield EdgeUnderTest(bus, events, Client(path), app, Path(facts.data_root), auditing, deps.reads)
        await server.close()
