"""One request and what serves it: the form in which routes see both.

Starlette's request and responses are used as they are; decoding is ours, because Docker's rules for query values and
JSON bodies are its own.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import orjson
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from services.api import body
from services.api.auditing.following import Follower
from services.api.hijack import EXTENSION_HIJACK, Headers, RawConnection
from services.api.reads import Answer, Fixed, Reads
from services.api.versions import Version
from shared.bus.client import Contract
from shared.docker.status import FOR_EVER_NS
from shared.errors import InvalidArgument

if TYPE_CHECKING:
    from shared.bus.streams import ByteStream
    from shared.cluster.membership import Membership
    from shared.events.record import DomainEvent

Req = TypeVar("Req", bound=BaseModel)
Rep = TypeVar("Rep", bound=BaseModel)
Model = TypeVar("Model", bound=BaseModel)

JSON = b"application/json"
TEXT = b"text/plain; charset=utf-8"


class Requester(Protocol):
    """What routes need of the bus."""

    async def request(
        self, contract: Contract[Req, Rep], payload: Req, *, node: str | None = None, deadline_s: float | None = None
    ) -> Rep: ...


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What the edge itself knows of the engine, for `version` and `info`."""

    version: str = "0.1.0"
    engine_id: str = ""
    node: str = ""
    data_root: str = ""
    labels: tuple[str, ...] = ()
    registry_mirrors: tuple[str, ...] = ()
    insecure_registries: tuple[str, ...] = ()
    log_driver: str = "json-file"
    debug: bool = False
    live_restore: bool = True
    experimental: bool = False
    address_pools: tuple[dict[str, Any], ...] = ()
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""
    builds: str = ""


class Follow(Protocol):
    """Events since a moment (nanoseconds since the epoch), then, without a break, as they happen."""

    def __call__(self, *, since_ns: int, replay_only: bool) -> AsyncGenerator[DomainEvent, None]: ...


@dataclass(slots=True)
class Deps:
    """The edge's dependencies, joined in `bootstrap`.

    Attributes:
        facts: Replaced when the configuration is reloaded.
        membership: Which cluster this machine is in; replaced when that changes.
        offer: Opens a byte stream whose reference is put into a request.
        reads: What has been answered and may be answered again.
        records: Follows the audit log, once for all who do.
    """

    bus: Requester
    offer: Callable[[], Awaitable[ByteStream]]
    follow: Follow
    facts: EngineFacts = field(default_factory=EngineFacts)
    reads: Reads = field(default_factory=Reads)
    membership: Membership | None = None
    records: Follower = field(init=False)

    def __post_init__(self) -> None:
        self.records = Follower(self.bus)


class Call(Request):
    """A request and the dependencies that serve it."""

    def __init__(self, scope: Any, receive: Any, send: Any, deps: Deps) -> None:
        super().__init__(scope, receive, send)
        self.deps = deps
        self.reply = send

    @property
    def version(self) -> Version:
        """The API version in force, as (major, minor)."""
        version: Version = self.scope["davit.version"]
        return version

    async def ask(self, contract: Contract[Req, Rep], payload: Req, *, deadline_s: float | None = None) -> Rep:
        return await self.deps.bus.request(contract, payload, deadline_s=deadline_s)

    async def read(self, services: Sequence[str], ask: Callable[[], Awaitable[Answer]]) -> Response:
        """A GET's answer, made from these services' databases alone: a kept one while nothing in them has changed."""
        key = self.scope["path"], self.scope["query_string"], self.version
        return await self.deps.reads.answer(key, services, ask)

    async def read_json(
        self, services: Sequence[str], ask: Callable[[], Awaitable[Any]], *, keep: bool = True
    ) -> Response:
        """As `read`, of what `ask` gives as JSON.

        Args:
            keep: False when it also comes from elsewhere, or changes by itself.
        """

        async def answer() -> Answer:
            return Answer(Fixed(encoded(await ask())), until_ns=FOR_EVER_NS if keep else 0)

        return await self.read(services, answer)

    def has_body(self) -> bool:
        length = self.headers.get("content-length")
        return length not in (None, "0") or "transfer-encoding" in self.headers

    async def read_body(self, limit_bytes: int = body.LIMIT_BYTES) -> bytes:
        chunks: list[bytes] = []
        size = 0
        async for chunk in self.stream():
            size += len(chunk)
            if size > limit_bytes:
                raise InvalidArgument(f"request body is larger than {limit_bytes} bytes")
            chunks.append(chunk)
        return b"".join(chunks)

    async def json_body(self, model: type[Model]) -> Model:
        """The JSON body. Raises InvalidArgument when there is none, or it is not what it should be."""
        data = await self.read_body()
        body.check_content_type(self.headers.get("content-type"), bool(data))
        if not data.strip():
            raise InvalidArgument(body.EOF_TEXT)
        return body.decode(data, model, self.version)

    async def optional_json_body(self, model: type[Model]) -> Model | None:
        """As `json_body`, but None when there is no body."""
        return await self.json_body(model) if self.has_body() else None

    async def hijack(self, content_type: bytes) -> RawConnection:
        """Leave HTTP: 101 when the client asked for an upgrade, else 200, as clients before 1.21 expect."""
        headers: Headers = [(b"Content-Type", content_type)]
        if self.headers.get("upgrade"):
            headers = [*headers, (b"Connection", b"Upgrade"), (b"Upgrade", b"tcp")]
            return await self.hijack_raw(101, headers)
        return await self.hijack_raw(200, headers)

    async def hijack_raw(self, status: int, headers: Headers) -> RawConnection:
        extension = self.scope["extensions"].get(EXTENSION_HIJACK)
        connection: RawConnection = await extension(status, headers)
        return connection

    async def wait_disconnect(self) -> None:
        """Return when the client has gone. Only after the body has been read."""
        message = await self.receive()
        while message["type"] != "http.disconnect":
            message = await self.receive()


def encoded(content: Any) -> bytes:
    return orjson.dumps(content) + b"\n"


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(encoded(content), status, headers, media_type="application/json")


def empty_response(status: int = 204) -> Response:
    return Response(status_code=status)
