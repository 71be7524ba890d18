"""/grpc and /session: BuildKit's protocol, whose bytes go on to the process that serves builds.

Source: Docker Engine API 1.50, Session; moby, daemon/server/router/grpc and router/session.
"""

from __future__ import annotations

import asyncio
import contextlib

from starlette.responses import Response

from services.api.call import Call
from services.api.declared import may
from services.api.hijack import RawConnection
from services.api.routes.attach import HIJACKED
from services.api.routing import EdgeRouter
from shared.contracts.builds import GREETING_END, Greeting
from shared.errors import InvalidArgument, Unsupported

CHUNK_BYTES = 256 * 1024
SESSION_ID, SESSION_KEY = "x-docker-expose-session-uuid", "x-docker-expose-session-sharedkey"
SESSION_METHOD = "x-docker-expose-session-grpc-method"
router = EdgeRouter("System")
UPGRADED = [(b"Connection", b"Upgrade"), (b"Upgrade", b"h2c")]


@router.post("/grpc", operation_id="Grpc", response_class=Response, responses=HIJACKED | may(501))
async def grpc(call: Call) -> Response | None:
    """Call the engine about builds: BuildKit's Control and LLBBridge."""
    check_upgrade(call)
    await _pass_on(call, Greeting(kind="grpc"))
    return None


@router.post("/session", operation_id="Session", response_class=Response, responses=HIJACKED | may(501))
async def session(call: Call) -> Response | None:
    """Let the engine call the client of a build, for files, secrets and credentials."""
    check_upgrade(call)
    identifier = call.headers.get(SESSION_ID, "")
    if not identifier:
        raise InvalidArgument("the session has no id: X-Docker-Expose-Session-Uuid is missing", field=SESSION_ID)
    greeting = Greeting(
        kind="session",
        session_id=identifier,
        shared_key=call.headers.get(SESSION_KEY, ""),
        methods=[value for item in call.headers.getlist(SESSION_METHOD) for value in item.split(",") if value],
    )
    await _pass_on(call, greeting)
    return None


def check_upgrade(call: Call) -> None:
    """Raises InvalidArgument in the reference engine's words."""
    upgrade = call.headers.get("upgrade", "")
    if not upgrade:
        raise InvalidArgument("no upgrade protocol", field="Upgrade")
    if upgrade != "h2c":
        raise InvalidArgument(f"protocol {upgrade} not supported", field="Upgrade")


async def _pass_on(call: Call, greeting: Greeting) -> None:
    try:
        reader, writer = await asyncio.open_unix_connection(call.deps.facts.builds, limit=CHUNK_BYTES)
    except OSError as error:
        raise Unsupported(
            "BuildKit's protocol is not served here: build with DOCKER_BUILDKIT=0", field="buildkit"
        ) from error
    try:
        connection = await call.hijack_raw(101, UPGRADED)
        writer.write(greeting.model_dump_json().encode() + GREETING_END)
        outward = asyncio.create_task(_outward(connection, reader), name="buildkit answers")
        try:
            await _inward(connection, writer)
            await outward
        finally:
            outward.cancel()
            await asyncio.gather(outward, return_exceptions=True)
            connection.close()
    finally:
        writer.close()


async def _inward(connection: RawConnection, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):  # the other side has gone, and says so on its own direction
        while data := await connection.read():
            writer.write(data)
            await writer.drain()
        writer.write_eof()


async def _outward(connection: RawConnection, reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):  # the client has gone: its direction ends too
        while data := await reader.read(CHUNK_BYTES):
            await connection.write(data)
    connection.close()
