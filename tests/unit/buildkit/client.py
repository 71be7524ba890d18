"""The client's side of a session: directories, secrets, credentials, served from memory over a real connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grpclib import GRPCError
from grpclib.const import Status
from grpclib.server import Server

from services.image.buildkit.sessions import Session
from services.image.buildkit.wire import (
    filesync_grpc,
    filesync_pb2,
    fsutil_pb2,
    secrets_grpc,
    secrets_pb2,
    ssh_grpc,
    ssh_pb2,
)

Packet = fsutil_pb2.Packet
GO_DIR, GO_SYMLINK = 1 << 31, 1 << 27


def stat(path: str, **values: Any) -> fsutil_pb2.Stat:
    return fsutil_pb2.Stat(path=path, **{"mode": 0o644, "modTime": 1_700_000_000_000_000_000} | values)


@dataclass
class Directory:
    """What the client has: what it says of its files, and their content by path."""

    listing: list[fsutil_pb2.Stat]
    content: Mapping[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    metadata: list[Mapping[str, Any]] = field(default_factory=list)


class Files(filesync_grpc.FileSyncBase):
    def __init__(self, directories: Mapping[str, Directory]) -> None:
        self.directories = directories

    async def DiffCopy(self, stream: Any) -> None:
        name = stream.metadata["dir-name"]
        directory = self.directories.get(name)
        if directory is None:
            raise GRPCError(Status.NOT_FOUND, f"no access allowed to dir {name!r}")
        directory.metadata.append(stream.metadata)
        for item in directory.listing:
            await stream.send_message(Packet(type=Packet.PACKET_STAT, stat=item))
        await stream.send_message(Packet(type=Packet.PACKET_STAT))
        while (packet := await stream.recv_message()) is not None:
            if packet.type == Packet.PACKET_FIN:
                await stream.send_message(Packet(type=Packet.PACKET_FIN))
                return
            path = directory.listing[packet.ID].path
            directory.asked.append(path)
            data = directory.content[path]
            for start in range(0, len(data), 1000):
                part = data[start : start + 1000]
                await stream.send_message(Packet(type=Packet.PACKET_DATA, ID=packet.ID, data=part))
            await stream.send_message(Packet(type=Packet.PACKET_DATA, ID=packet.ID))


class Secrets(secrets_grpc.SecretsBase):
    async def GetSecret(self, stream: Any) -> None:
        request = await stream.recv_message()
        if request.ID != "known":
            raise GRPCError(Status.NOT_FOUND, f"secret {request.ID}: not found")
        await stream.send_message(secrets_pb2.GetSecretResponse(data=b"value"))


class Auth(filesync_grpc.AuthBase):
    async def Credentials(self, stream: Any) -> None:
        request = await stream.recv_message()
        known = request.Host == "r.example"
        answer = filesync_pb2.CredentialsResponse(Username="me", Secret="pw") if known else None
        await stream.send_message(answer or filesync_pb2.CredentialsResponse())

    async def FetchToken(self, stream: Any) -> None: ...

    async def GetTokenAuthority(self, stream: Any) -> None: ...

    async def VerifyTokenAuthority(self, stream: Any) -> None: ...


class Agent(ssh_grpc.SSHBase):
    async def CheckAgent(self, stream: Any) -> None:
        request = await stream.recv_message()
        if request.ID != "default":
            raise GRPCError(Status.UNKNOWN, f"unset ssh forward key {request.ID}")
        await stream.send_message(ssh_pb2.CheckAgentResponse())

    async def ForwardAgent(self, stream: Any) -> None:
        name = stream.metadata["buildkit.ssh.id"].encode()
        while (message := await stream.recv_message()) is not None:
            await stream.send_message(ssh_pb2.BytesMessage(data=name + b":" + message.data))


@asynccontextmanager
async def session(directory: Path, directories: Mapping[str, Directory]) -> AsyncIterator[Session]:
    """A session with such a client, over a unix socket."""
    services: list[Any] = [Files(directories), Secrets(), Auth(), Agent()]
    server = Server(services)
    path = str(directory / "client.sock")
    await server.start(path=path)
    methods = [method for service in services for method in service.__mapping__()]
    found = Session("s1", "key", methods)
    protocol = found.channel.protocol
    await asyncio.get_running_loop().create_unix_connection(lambda: protocol, path)
    try:
        yield found
    finally:
        found.channel.close()
        server.close()
        await server.wait_closed()
