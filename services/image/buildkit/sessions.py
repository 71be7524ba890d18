"""Sessions: what clients of builds serve to the engine, by the ids they gave them.

Source: moby/buildkit, session/manager.go (headers), session/grpc.go (health checks); the services' own .proto files.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import Message
from grpclib import GRPCError
from grpclib.client import Stream
from grpclib.const import Cardinality, Status
from grpclib.exceptions import ProtocolError, StreamTerminatedError
from grpclib.health.v1 import health_pb2
from h2.exceptions import StreamClosedError

from services.image.buildkit.transport import BulkStream, SessionChannel
from services.image.buildkit.wire import filesync_pb2, secrets_pb2, ssh_pb2, upload_pb2
from shared.contracts.images import RegistryAuth
from shared.errors import DavitError, Forbidden, NotFound, Unavailable, Unsupported

log = logging.getLogger(__name__)

APPEARS_WITHIN_S = 15.0
CALL_S = 60.0
HEALTH_EVERY_S, HEALTH_WITHIN_S, HEALTH_FAILURES = 5.0, 15.0, 2
AGENT_CHUNK_BYTES = 32 * 1024

_CHECK = "/grpc.health.v1.Health/Check"
_SECRET = "/moby.buildkit.secrets.v1.Secrets/GetSecret"
_CREDENTIALS = "/moby.filesync.v1.Auth/Credentials"
_CHECK_AGENT = "/moby.sshforward.v1.SSH/CheckAgent"
_FORWARD_AGENT = "/moby.sshforward.v1.SSH/ForwardAgent"
DIFF_COPY = "/moby.filesync.v1.FileSync/DiffCopy"
SEND_FILE = "/moby.filesync.v1.FileSend/DiffCopy"
PULL_UPLOAD = "/moby.upload.v1.Upload/Pull"

Reply = TypeVar("Reply", bound=Message)


class Session:
    """One client, as it can be called.

    Attributes:
        methods: Paths of what it serves.
        shared_key: Names the client's files, so that those of its earlier builds are known again.
    """

    def __init__(self, identifier: str, shared_key: str, methods: Collection[str]) -> None:
        self.id = identifier
        self.shared_key = shared_key
        self.methods = frozenset(methods)
        self.channel = SessionChannel()

    @property
    def lost(self) -> asyncio.Event:
        """Set once the client is gone."""
        return self.channel.protocol.lost

    async def call(self, method: str, request: Message, reply: type[Reply], *, timeout_s: float = CALL_S) -> Reply:
        """One question, one answer.

        Raises:
            Unsupported: The client does not serve the method.
            DavitError: Its own error, or it is gone.
        """
        with translated(method):
            stream: Stream[Any, Any] = self.channel.request(
                method, Cardinality.UNARY_UNARY, type(request), reply, timeout=timeout_s
            )
            async with stream:
                await stream.send_message(request, end=True)
                answer: Reply | None = await stream.recv_message()
        if answer is None:
            raise Unavailable(f"the client gave no answer to {method}")
        return answer

    def stream(
        self, method: str, request: type[Message], reply: type[Message], metadata: Collection[tuple[str, str]] = ()
    ) -> Stream[Any, Any]:
        """A conversation; to be used as a context."""
        return self.channel.request(method, Cardinality.STREAM_STREAM, request, reply, metadata=list(metadata))

    @asynccontextmanager
    async def bulk(
        self, method: str, request: type[Message], reply: type[Message], metadata: Collection[tuple[str, str]]
    ) -> AsyncIterator[tuple[Stream[Any, Any], BulkStream]]:
        """A conversation whose answers come through the fast lane."""
        with translated(method):
            async with self.stream(method, request, reply, metadata) as stream:
                await stream.send_request()
                bulk = self.channel.protocol.mark(_stream_id(stream))
                try:
                    yield stream, bulk
                finally:
                    bulk.close()

    async def secret(self, identifier: str) -> bytes | None:
        """The value of a secret; None when the client has none of that name."""
        if _SECRET not in self.methods:
            return None
        try:
            request = secrets_pb2.GetSecretRequest(ID=identifier)
            return (await self.call(_SECRET, request, secrets_pb2.GetSecretResponse)).data
        except NotFound:
            return None

    async def credentials(self, host: str) -> RegistryAuth | None:
        """What the client would log in to a registry with; None when it knows nothing for it."""
        if _CREDENTIALS not in self.methods:
            return None
        request = filesync_pb2.CredentialsRequest(Host=host)
        answer = await self.call(_CREDENTIALS, request, filesync_pb2.CredentialsResponse)
        if not answer.Secret:
            return None
        if not answer.Username:
            return RegistryAuth(identity_token=answer.Secret)
        return RegistryAuth(username=answer.Username, password=answer.Secret)

    async def has_agent(self, identifier: str) -> bool:
        """Whether the client forwards an SSH agent of that name."""
        if _CHECK_AGENT not in self.methods:
            return False
        try:
            await self.call(_CHECK_AGENT, ssh_pb2.CheckAgentRequest(ID=identifier), ssh_pb2.CheckAgentResponse)
        except NotFound:
            return False
        except DavitError as error:
            if "unset ssh forward key" in str(error):
                return False
            raise
        return True

    async def listen(self, identifier: str, place: Path, stack: AsyncExitStack) -> bool:
        """See `Agents`."""
        if not await self.has_agent(identifier):
            return False

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await self._forward(identifier, reader, writer)
            except DavitError as error:
                log.info("the connection to an SSH agent ended: %s", error)
            finally:
                writer.close()

        server = await asyncio.start_unix_server(serve, str(place))
        stack.callback(place.unlink, missing_ok=True)
        stack.callback(server.close)
        return True

    async def _forward(self, identifier: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        metadata = [("buildkit.ssh.id", identifier)]
        with translated(_FORWARD_AGENT):
            async with self.stream(_FORWARD_AGENT, ssh_pb2.BytesMessage, ssh_pb2.BytesMessage, metadata) as stream:
                await stream.send_request()

                async def outward() -> None:
                    while data := await reader.read(AGENT_CHUNK_BYTES):
                        await stream.send_message(ssh_pb2.BytesMessage(data=data))
                    await stream.end()

                sending = asyncio.create_task(outward(), name="ssh agent")
                try:
                    while (message := await stream.recv_message()) is not None:
                        writer.write(message.data)
                        await writer.drain()
                finally:
                    sending.cancel()
                    await asyncio.gather(sending, return_exceptions=True)

    async def upload(self, path: str) -> AsyncIterator[bytes]:
        """What the client has on its standard input; `path` is what it called it."""
        with translated(PULL_UPLOAD):
            metadata = [("urlpath", path)]
            async with self.stream(PULL_UPLOAD, upload_pb2.BytesMessage, upload_pb2.BytesMessage, metadata) as stream:
                await stream.send_request()
                while (message := await stream.recv_message()) is not None:
                    yield message.data
                await end(stream)

    async def watch(self) -> None:
        """Return when the client is gone, or answers no more."""
        failures = 0
        while not self.lost.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.lost.wait(), HEALTH_EVERY_S)
                return
            try:
                request = health_pb2.HealthCheckRequest()
                await self.call(_CHECK, request, health_pb2.HealthCheckResponse, timeout_s=HEALTH_WITHIN_S)
                failures = 0
            except DavitError as error:
                failures += 1
                log.info("session %s does not answer: %s", self.id, error)
                if failures >= HEALTH_FAILURES:
                    self.channel.close()
                    return


def _stream_id(stream: Stream[Any, Any]) -> int:
    """grpclib keeps the number of its HTTP/2 stream to itself."""
    identifier = stream._stream.id
    assert identifier is not None
    return identifier


async def send_raw(stream: Stream[Any, Any], data: bytes) -> None:
    """Send messages that are encoded already, several in one piece."""
    await stream._stream.send_data(data)


async def end(stream: Stream[Any, Any]) -> None:
    """Say that nothing more is sent, also to a client that has answered and closed the stream already."""
    try:
        await stream.end()
    except StreamClosedError:
        stream._end_done = True


@contextlib.contextmanager
def translated(method: str) -> Any:
    """gRPC's errors as the engine's own."""
    try:
        yield
    except GRPCError as error:
        raise from_grpc(error) from error
    except (StreamTerminatedError, ProtocolError, ConnectionError, TimeoutError) as error:
        log.debug("%s: %r", method, error, exc_info=error)
        raise Unavailable(f"the client of the build is gone ({method.rpartition('/')[2]})") from error


_KINDS: Mapping[Status, type[DavitError]] = {
    Status.NOT_FOUND: NotFound,
    Status.UNIMPLEMENTED: Unsupported,
    Status.PERMISSION_DENIED: Forbidden,
}


def from_grpc(error: GRPCError) -> DavitError:
    return _KINDS.get(error.status, Unavailable)(error.message or error.status.name)


class Sessions:
    """The sessions that are connected."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._changed = asyncio.Condition()

    async def serve(self, session: Session) -> None:
        """Let builds find a session until its client is gone."""
        async with self._changed:
            self._sessions[session.id] = session
            self._changed.notify_all()
        try:
            await session.watch()
        finally:
            if self._sessions.get(session.id) is session:
                del self._sessions[session.id]
            session.channel.close()

    async def get(self, identifier: str) -> Session:
        """A session, which its client may be just about to open.

        Raises:
            NotFound: It does not appear.
        """
        try:
            async with asyncio.timeout(APPEARS_WITHIN_S), self._changed:
                await self._changed.wait_for(lambda: identifier in self._sessions)
                return self._sessions[identifier]
        except TimeoutError:
            raise NotFound(f"no active session for {identifier}: context deadline exceeded") from None
