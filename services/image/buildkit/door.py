"""How clients get here: the edge connects a client's upgraded connection to this process's socket and says what it is.

::

    client ── POST /grpc, /session ──► edge ── unix socket ──► greeting, one line of JSON
                                                               then the client's bytes, untouched, in both directions

Whoever can connect to the socket is the engine: it lies in the run directory and only its user may.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import cast

import orjson
from pydantic import ValidationError

from services.image.buildkit.sessions import Session, Sessions
from services.image.buildkit.transport import EngineServer
from shared.contracts.builds import GREETING_END, Greeting

log = logging.getLogger(__name__)

MAX_GREETING_BYTES = 64 * 1024


class Door:
    """Takes connections; knows how many there are.

    Args:
        server: Serves those on which clients call the engine.
    """

    def __init__(self, server: EngineServer, sessions: Sessions) -> None:
        self._server = server
        self._sessions = sessions
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = 0
        self._changed = asyncio.Event()

    def protocol(self) -> asyncio.Protocol:
        return _Arrival(self)

    def opened(self) -> None:
        self._open += 1
        self._changed.set()

    def closed(self) -> None:
        self._open -= 1
        self._changed.set()

    async def idle(self, for_s: float) -> None:
        """Return once nobody has been connected for so long."""
        while True:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), None if self._open else for_s)
            except TimeoutError:
                return

    def take(self, transport: asyncio.Transport, greeting: Greeting, rest: bytes) -> None:
        """Hand a connection to whom it is for."""
        if greeting.kind == "grpc":
            protocol: asyncio.Protocol = self._server.take()
        else:
            session = Session(greeting.session_id, greeting.shared_key, greeting.methods)
            protocol = session.channel.protocol
            task = asyncio.create_task(self._sessions.serve(session), name=f"session {session.id}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        counted = _Counted(protocol, self.closed)
        transport.set_protocol(counted)
        counted.connection_made(transport)
        if rest:
            counted.data_received(rest)


class _Arrival(asyncio.Protocol):
    """A connection whose greeting has not come yet."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._data = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._door.opened()

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._data += data
        head, end, rest = bytes(self._data).partition(GREETING_END)
        if not end:
            if len(self._data) > MAX_GREETING_BYTES:
                self._transport.abort()
            return
        try:
            greeting = Greeting.model_validate(orjson.loads(head))
        except (ValidationError, orjson.JSONDecodeError) as error:
            log.warning("a connection without a proper greeting: %s", error)
            self._transport.abort()
            return
        self._door.take(self._transport, greeting, rest)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._door.closed()


class _Counted(asyncio.Protocol):
    """Another protocol, whose end is told."""

    def __init__(self, inner: asyncio.Protocol, ended: Callable[[], None]) -> None:
        self._inner = inner
        self._ended = ended
        self.connection_made = inner.connection_made  # type: ignore[method-assign]
        self.data_received = inner.data_received  # type: ignore[method-assign]
        self.pause_writing = inner.pause_writing  # type: ignore[method-assign]
        self.resume_writing = inner.resume_writing  # type: ignore[method-assign]

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended()
        self._inner.connection_lost(exc)
