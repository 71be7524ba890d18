"""A session inside a call: bytes of its connection as messages of ``Control/Session``.

Clients that share one session between several builds open it this way.

Source: moby/buildkit, control/control.go (Session) and session/grpchijack.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from services.image.buildkit.sessions import Session, Sessions
from services.image.buildkit.wire import control_pb2
from shared.errors import InvalidArgument

SESSION_ID, SESSION_KEY = "x-docker-expose-session-uuid", "x-docker-expose-session-sharedkey"
SESSION_METHOD = "x-docker-expose-session-grpc-method"
# A client that takes in nothing is waited for once so much is on its way to it.
WAITING_BYTES = 1 << 20
MESSAGE_BYTES = 32 * 1024


class TunnelTransport(asyncio.Transport):
    """Writes into a call; what the call delivers goes to the protocol that `serve` has."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._protocol = protocol
        self._waiting = bytearray()
        self._written = asyncio.Event()
        self._closing = False
        self._paused = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True
        self._written.set()

    def abort(self) -> None:
        self.close()

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self._waiting += data
        self._written.set()
        if len(self._waiting) > WAITING_BYTES and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    async def send_to(self, stream: Any) -> None:
        """Send what is written until the transport is closed."""
        while True:
            await self._written.wait()
            self._written.clear()
            while self._waiting:
                data = bytes(self._waiting[:MESSAGE_BYTES])
                del self._waiting[: len(data)]
                await stream.send_message(control_pb2.BytesMessage(data=data))
            if self._paused:
                self._paused = False
                self._protocol.resume_writing()
            if self._closing:
                return


def session_of(metadata: Mapping[str, Any]) -> Session:
    """The session that a call's metadata describe. Raises InvalidArgument."""
    identifier = metadata.get(SESSION_ID)
    if not identifier:
        raise InvalidArgument(f"the session has no id: {SESSION_ID} is missing", field=SESSION_ID)
    methods = metadata.getall(SESSION_METHOD, []) if hasattr(metadata, "getall") else [metadata.get(SESSION_METHOD, "")]
    return Session(str(identifier), str(metadata.get(SESSION_KEY) or ""), [str(method) for method in methods])


async def serve(stream: Any, metadata: Mapping[str, Any], sessions: Sessions) -> None:
    """Let builds use a session until its client is gone."""
    session = session_of(metadata)
    protocol = session.channel.protocol
    transport = TunnelTransport(protocol)
    protocol.connection_made(transport)
    sending = asyncio.create_task(transport.send_to(stream), name=f"session {session.id} out")
    serving = asyncio.create_task(sessions.serve(session), name=f"session {session.id}")
    try:
        while (message := await stream.recv_message()) is not None:
            protocol.data_received(message.data)
    finally:
        protocol.connection_lost(None)
        transport.close()
        sending.cancel()
        serving.cancel()
        await asyncio.gather(sending, serving, return_exceptions=True)
