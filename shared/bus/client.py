"""The message bus: typed request-reply between services over NATS.

A subject, its request and its reply are declared once, as a `Contract`, and both ends use that declaration. A
handler is an async function from request to reply; a `DavitError` it raises comes out of `Bus.request` as the same
class on the other side.

::

    caller                                   server (queue group = its service)
      │ request  subject, JSON, headers: request id, traceparent, actor, deadline, name of the call
      ├────────────────────────────────────────►│ deadline passed? drop: nobody waits
      │                                         │ decode, use_context, handler(request)
      │◄────────────────────────────────────────┤ JSON, or header Davit-Error: 1 and {code, message, detail}

Source: NATS client protocol, request-reply and queue groups.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import nats.aio.client
import nats.errors
import orjson
from pydantic import BaseModel, ValidationError

from shared.bus.context import RequestContext, current_context, use_context
from shared.bus.envelope import packed, unpacked
from shared.bus.inflight import HEADER_CALL, Waiting, Working
from shared.errors import (
    DavitError,
    DeadlineExceeded,
    Internal,
    Interrupted,
    InvalidArgument,
    Unavailable,
    from_wire,
)
from shared.events import changes
from shared.logs import hide_secrets
from shared.state.reserve import spend

if TYPE_CHECKING:
    import ssl

    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription
    from nats.js import JetStreamContext

log = logging.getLogger(__name__)

Req = TypeVar("Req", bound=BaseModel)
Rep = TypeVar("Rep", bound=BaseModel)
Handler = Callable[[Req], Awaitable[Rep]]

HEADER_ERROR = "Davit-Error"
RETRY_PAUSE_S = 0.1
# More than the headers of a message take; they count as a part of it.
HEADERS_BYTES = 64 * 1024
# Grace between the deadline a server sees and the time a caller stops waiting, so that the server's own
# DeadlineExceeded, which says what was slow, arrives before the caller gives up.
REPLY_GRACE_S = 0.25


class Empty(BaseModel):
    """A request or reply that says nothing but that it happened."""


EMPTY = Empty()
# For `Bus.serve`: requests that come from any node.
ANY_NODE = "*"


def node_token(node: str) -> str:
    """A node's name as one token of a subject."""
    return node.replace(".", "%2E")


def node_of_token(token: str) -> str:
    return token.replace("%2E", ".")


@dataclass(frozen=True, slots=True)
class Contract(Generic[Req, Rep]):
    """One message kind: its subject, what is asked and what is answered.

    Attributes:
        subject: ``davit.<service>.<resource>.<verb>``, or ``davit.node.{node}.<resource>.<verb>`` for one node, or
            ``davit.<service>.<resource>.<verb>.{node}`` from one: who serves that for all nodes (`ANY_NODE`) finds in
            the context's `node` who asks, since a node may only publish what bears its name.
        deadline_s: How long a caller waits unless it says otherwise; None waits for ever (waits and follows).
        idempotent: Whether the caller may send it again when the bus or the server went away meanwhile.
        frees: Whether it ends or removes something, and so is served also when the disk is full
            (`shared.state.reserve`).
    """

    subject: str
    request: type[Req]
    reply: type[Rep]
    deadline_s: float | None = 10.0
    idempotent: bool = False
    frees: bool = False

    def subject_for(self, node: str | None) -> str:
        if "{node}" not in self.subject:
            return self.subject
        if not node:
            raise Internal(f"{self.subject} is for one node and none was named")
        return self.subject.replace("{node}", node_token(node))

    def node_in(self, subject: str) -> str:
        """The node that a subject of this contract names; empty when none does."""
        if "{node}" not in self.subject:
            return ""
        return node_of_token(subject.split(".")[self.subject.split(".").index("{node}")])


class Bus:
    """A connection to the bus.

    Attributes:
        stream_scope: What begins the subjects on which this end of byte streams listens; a node's own, for its agent.

    Raises:
        Unavailable: From `connect` when no server answers, from `request` when nobody serves the subject.
    """

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self._jetstream: JetStreamContext | None = None
        self.name = name
        self.stream_scope = ""
        self._subscriptions: list[Subscription] = []
        self._reconnected: list[Callable[[], Awaitable[None]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting = Waiting(client)
        self._working = Working(client)

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        name: str,
        user: str | None = None,
        password: str | None = None,
        tls: ssl.SSLContext | None = None,
        connect_timeout_s: float = 10.0,
    ) -> Bus:
        """Connect, and stay connected: the client reconnects for ever, every 200 ms.

        Args:
            url: One server, or several with commas between them, of which one is chosen.
            user: Also names the inbox, since a user may only listen to its own.
            password: None where a certificate says who the user is.
            tls: For a server on another machine.
        """
        callbacks: list[Callable[[], Awaitable[None]]] = []
        last_error: list[Exception] = []

        async def reconnected() -> None:
            log.info("bus connection is back")
            for callback in callbacks:
                await callback()

        async def disconnected() -> None:
            log.warning("bus connection lost")

        async def failed(error: Exception) -> None:
            last_error[:] = [error]
            forbidden = "permissions violation" in str(error)
            log.log(logging.ERROR if forbidden else logging.DEBUG, "bus client: %s", error)

        options: dict[str, Any] = {}
        if user is not None:
            options = {"inbox_prefix": inbox_prefix(user)}
            if password is not None:
                options |= {"user": user, "password": password}
        if tls is not None:
            options["tls"] = tls
        client = nats.aio.client.Client()
        try:
            # The client itself tries for ever; the first connection is limited in time.
            async with asyncio.timeout(connect_timeout_s):
                await client.connect(
                    url.split(","),
                    name=name,
                    allow_reconnect=True,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=0.2,  # type: ignore[arg-type]  # seconds; fractions work
                    connect_timeout=2,
                    ping_interval=5,
                    max_outstanding_pings=2,
                    pending_size=64 * 1024 * 1024,
                    reconnected_cb=reconnected,
                    disconnected_cb=disconnected,
                    error_cb=failed,
                    **options,
                )
        except (OSError, nats.errors.Error, TimeoutError) as error:
            with contextlib.suppress(nats.errors.Error, OSError):
                await client.close()
            reason = last_error[-1] if last_error else error
            raise Unavailable(f"the message bus at {hide_secrets(url)} does not answer: {reason}") from error
        bus = cls(client, name)
        bus._reconnected = callbacks
        return bus

    @property
    def nats(self) -> Client:
        """The raw client, for shared modules that build on it (streams, outbox, leases)."""
        return self._client

    @property
    def jetstream(self) -> JetStreamContext:
        if self._jetstream is None:
            self._jetstream = self._client.jetstream()
        return self._jetstream

    def on_reconnect(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Call a function after each reconnection, for whoever must compare notes with the server."""
        self._reconnected.append(callback)

    @property
    def _room_bytes(self) -> int:
        """The largest body that the server takes, headers being there too."""
        return int(self._client.max_payload) - HEADERS_BYTES

    @property
    def connected(self) -> bool:
        return bool(self._client.is_connected)

    async def request(
        self, contract: Contract[Req, Rep], payload: Req, *, node: str | None = None, deadline_s: float | None = None
    ) -> Rep:
        """Ask and wait for the answer.

        Args:
            node: The node, for contracts whose subject names one.
            deadline_s: Seconds to wait at most; the contract's own when None. A deadline already on the current
                request, when nearer, wins.

        Raises:
            DavitError: Whatever the handler raised, as the same class.
            Unavailable: Nobody serves the subject, or the bus is away.
            DeadlineExceeded: No answer in time; whether the work was done is unknown.
            Interrupted: The server died over it, likewise; an idempotent request is sent again instead.
        """
        context = current_context()
        deadline = _nearest_deadline(context, contract.deadline_s if deadline_s is None else deadline_s)
        context = context.with_deadline(deadline)
        subject = contract.subject_for(node)
        data, encoding = await packed(payload.model_dump_json(by_alias=True, exclude_none=True).encode())
        if len(data) > self._room_bytes:
            raise InvalidArgument(
                f"the request takes {len(data)} bytes on the message bus, which takes at most {self._room_bytes}"
            )
        queue = _queue_of(subject)
        headers = context.headers() | encoding
        while True:
            remaining = context.remaining_s()
            if remaining is not None and remaining <= 0:
                raise DeadlineExceeded(f"{subject}: deadline passed before the request was sent")
            name = headers[HEADER_CALL] = self._waiting.new_name()
            try:
                async with self._waiting.watched(name, queue) as call:
                    message = await self._client.request(
                        subject, data, timeout=1e9 if remaining is None else remaining + REPLY_GRACE_S, headers=headers
                    )
                return await _decode_reply(contract, message)
            except nats.errors.NoRespondersError as error:
                # Nobody received it, so sending it again is safe: a service being restarted is back in a moment.
                if remaining is None or remaining < RETRY_PAUSE_S * 2:
                    raise Unavailable(f"no service answers {subject}") from error
                await asyncio.sleep(RETRY_PAUSE_S)
            except (TimeoutError, nats.errors.TimeoutError) as error:
                if not call.lost:
                    raise DeadlineExceeded(f"{subject}: no answer in time") from error
                if not contract.idempotent:
                    raise Interrupted(f"{subject}: whoever worked on it has died; how far it got is unknown") from error
            except (nats.errors.ConnectionClosedError, nats.errors.StaleConnectionError, OSError) as error:
                if not contract.idempotent or remaining is None or remaining < RETRY_PAUSE_S * 2:
                    raise Unavailable(f"{subject}: the message bus is away") from error
                await asyncio.sleep(RETRY_PAUSE_S)

    async def serve(
        self, contract: Contract[Req, Rep], handler: Handler[Req, Rep], *, node: str | None = None, queue: str = ""
    ) -> None:
        """Answer a contract's requests, each in a task of its own.

        Args:
            node: The node whose requests these are; `ANY_NODE` for contracts that nodes ask by.
            queue: The queue group; copies of a service share one so that each request has one server.
        """
        subject = contract.subject_for(node)

        async def received(message: Msg) -> None:
            name = (message.headers or {}).get(HEADER_CALL, "")
            self._working.begin(name)
            task = asyncio.create_task(self._answer(contract, handler, message), name=subject)
            self._tasks.add(task)

            def ended(_: asyncio.Task[None]) -> None:
                self._tasks.discard(task)
                self._working.end(name)

            task.add_done_callback(ended)

        if not queue:
            await self._working.answer_for(_queue_of(subject))
        subscription = await self._client.subscribe(
            subject, queue=queue or _queue_of(subject), cb=received, pending_msgs_limit=0, pending_bytes_limit=0
        )
        self._subscriptions.append(subscription)

    async def _answer(self, contract: Contract[Req, Rep], handler: Handler[Req, Rep], message: Msg) -> None:
        context = RequestContext.from_headers(message.headers, node=contract.node_in(message.subject))
        remaining = context.remaining_s()
        if remaining is not None and remaining <= 0:
            log.info("dropped %s: its deadline had passed", message.subject)
            return
        headers: dict[str, str] = {}
        with use_context(context), spend(contract.frees), changes.collecting() as changed:
            try:
                request = contract.request.model_validate_json(await unpacked(message.data, message.headers))
                reply = await handler(request)
                body, headers = await packed(reply.model_dump_json(by_alias=True, exclude_none=True).encode())
                if len(body) > self._room_bytes:
                    raise Internal(f"the answer is larger than the {self._room_bytes} bytes that the message bus takes")
            except ValidationError as error:
                headers, body = _error_reply(_invalid(error))
            except DavitError as error:
                if isinstance(error, Internal):
                    log.error("%s: %s", message.subject, error, exc_info=error)
                headers, body = _error_reply(error)
            except Exception as error:  # the handler's edge: a defect is reported once, here, and answered
                log.exception("%s failed", message.subject)
                headers, body = _error_reply(Internal(f"{type(error).__name__}: {error}"))
        if message.reply:
            headers = headers | changed.header()
            try:
                await self._client.publish(message.reply, body, headers=headers or None)
            except (nats.errors.Error, OSError) as error:
                log.warning("reply to %s could not be sent: %s", message.subject, error)

    async def publish(self, subject: str, data: bytes, *, headers: dict[str, str] | None = None) -> None:
        """Send without waiting for anyone. Raises Unavailable when the bus is closed."""
        try:
            await self._client.publish(subject, data, headers=headers)
        except (nats.errors.Error, OSError) as error:
            raise Unavailable(f"{subject}: the message bus is away") from error

    async def listen(self, subject: str, received: Callable[[bytes], Awaitable[None]]) -> Subscription:
        """Receive every message of a subject, one after the other, until the subscription is given back."""

        async def message_received(message: Msg) -> None:
            await received(message.data)

        return await self._client.subscribe(subject, cb=message_received, pending_msgs_limit=0, pending_bytes_limit=0)

    async def listen_to_nodes(self, subject: str, received: Callable[[str, bytes], Awaitable[None]]) -> Subscription:
        """Receive what nodes say on a subject, each below its own name; the name comes with the message."""

        async def message_received(message: Msg) -> None:
            await received(node_of_token(message.subject.removeprefix(f"{subject}.")), message.data)

        return await self._client.subscribe(
            f"{subject}.*", cb=message_received, pending_msgs_limit=0, pending_bytes_limit=0
        )

    async def stop_serving(self) -> None:
        """Take no more requests and let those in work finish."""
        for subscription in self._subscriptions:
            try:
                await subscription.unsubscribe()
            except nats.errors.Error:  # already gone with the connection
                continue
        self._subscriptions.clear()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)

    async def close(self) -> None:
        """Finish what is being served, send what is pending, and disconnect."""
        self._waiting.close()
        await self.stop_serving()
        if self._client.is_closed:
            return
        if self.connected:
            try:
                await asyncio.wait_for(self._client.flush(), 1)
            except (TimeoutError, OSError, nats.errors.Error):
                log.debug("bus not flushed before closing")
        with contextlib.suppress(OSError, nats.errors.Error):  # the connection was lost already
            await self._client.close()


def inbox_prefix(user: str) -> str:
    """The subjects on which a user's replies arrive."""
    return f"_INBOX_{user}"


def _queue_of(subject: str) -> str:
    """The queue group of a subject: its service, or its node's agent."""
    parts = subject.split(".")
    return ".".join(parts[1:3]) if parts[1] == "node" else parts[1]


def _nearest_deadline(context: RequestContext, seconds: float | None) -> float | None:
    if seconds is None:
        return context.deadline
    own = time.time() + seconds
    return own if context.deadline is None else min(own, context.deadline)


async def _decode_reply(contract: Contract[Any, Rep], message: Msg) -> Rep:
    changes.told(message.headers)
    if message.headers and HEADER_ERROR in message.headers:
        raise from_wire(orjson.loads(message.data))
    try:
        return contract.reply.model_validate_json(await unpacked(message.data, message.headers))
    except ValidationError as error:
        raise Internal(f"{contract.subject}: the reply cannot be read: {error}") from error


def _error_reply(error: DavitError) -> tuple[dict[str, str], bytes]:
    return {HEADER_ERROR: "1"}, orjson.dumps(error.to_wire(), default=str)


def _invalid(error: ValidationError) -> InvalidArgument:
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    return InvalidArgument(f"invalid value for {field}: {first['msg']}", field=field)
