"""A client of BuildKit's protocol of our own, for what no command of Docker's says."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from grpclib.client import Channel
from grpclib.protocol import H2Protocol

UPGRADE = "POST /{path} HTTP/1.1\r\nHost: engine\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n{headers}\r\n"


class _Upgrading(asyncio.Protocol):
    """Asks for an upgrade and keeps what comes after the answer's head."""

    def __init__(self) -> None:
        self.data = b""
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(UPGRADE.format(path="grpc", protocol="h2c", headers="").encode())

    def data_received(self, data: bytes) -> None:
        self.data += data
        if b"\r\n\r\n" in self.data and not self.answered.done():
            self.answered.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.answered.done():
            self.answered.set_exception(exc or ConnectionError("the engine gave no answer"))


class EngineChannel(Channel):
    """Calls an engine on a connection of its socket that was upgraded."""

    def __init__(self, socket: Path) -> None:
        super().__init__()
        self._socket = socket

    async def _create_connection(self) -> H2Protocol:
        transport, asked = await asyncio.get_running_loop().create_unix_connection(_Upgrading, str(self._socket))
        await asked.answered
        head, _, rest = asked.data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101"), head
        protocol = self._protocol_factory()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if rest:
            protocol.data_received(rest)
        return protocol


async def upgrade(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    path: str,
    *,
    protocol: str = "h2c",
    headers: Sequence[tuple[str, str]] = (),
) -> str:
    """Ask for an upgrade; the head of the answer."""
    text = "".join(f"{name}: {value}\r\n" for name, value in headers)
    writer.write(UPGRADE.format(path=path, protocol=protocol, headers=text).encode())
    await writer.drain()
    return (await reader.readuntil(b"\r\n\r\n")).decode()


@asynccontextmanager
async def engine_channel(socket: Path) -> AsyncIterator[EngineChannel]:
    channel = EngineChannel(socket)
    try:
        yield channel
    finally:
        channel.close()


def new_ref() -> str:
    return secrets.token_hex(12)
