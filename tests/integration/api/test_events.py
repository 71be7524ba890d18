"""A client of /events while the bus under it dies and comes back."""

from __future__ import annotations

import asyncio
import functools
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from services.api.app import build_app
from services.api.call import Deps
from services.api.server import EdgeServer, open_listener
from shared.bus import streams
from shared.bus.client import Bus
from shared.events import stream
from shared.events.record import HEADER_SEQUENCE, HEADER_SERVICE, DomainEvent
from tests.conftest import missing

NATS = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")


class Nats:
    """A server with JetStream that keeps its port and its store when it is killed and started again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        assert NATS is not None
        self._process = subprocess.Popen(
            [NATS, "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self._directory)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert time.monotonic() < deadline, "nats-server does not start"
                time.sleep(0.02)

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture
async def nats(tmp_path: Path) -> AsyncIterator[Nats]:
    if NATS is None:
        missing("nats-server")
    server = Nats(tmp_path / "js")
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def bus(nats: Nats) -> AsyncIterator[Bus]:
    bus = await Bus.connect(nats.url, name="test")
    await stream.ensure_stream(bus, 3600)
    yield bus
    await bus.close()


@pytest.fixture
async def socket_path(bus: Bus, tmp_path: Path) -> AsyncIterator[str]:
    deps = Deps(bus=bus, offer=functools.partial(streams.offer, bus), follow=functools.partial(stream.follow, bus))
    server = EdgeServer(build_app(deps))
    path = str(tmp_path / "a.sock")
    await server.listen(open_listener(f"unix://{path}", tls=None, allow_insecure=False))
    yield path
    await server.close()


async def publish(bus: Bus, number: int) -> None:
    """As the relay does: again until it is stored, under one message id."""
    event = DomainEvent(type="container", action="start", actor_id=f"c{number}", service="control", sequence=number)
    headers = {HEADER_SERVICE: "control", HEADER_SEQUENCE: str(number), "Nats-Msg-Id": event.message_id}
    while True:
        try:
            await bus.jetstream.publish(event.subject, event.model_dump_json().encode(), headers=headers, timeout=1)
            return
        except Exception:
            await asyncio.sleep(0.1)


async def ask(path: str, target: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    return reader, writer


async def read_ids(reader: asyncio.StreamReader, count: int) -> list[str]:
    """Actor ids of the next lines; each event is a chunk of its own."""
    ids: list[str] = []
    async with asyncio.timeout(30):
        while len(ids) < count:
            size = int(await reader.readuntil(b"\r\n"), 16)
            if not size:
                break
            chunk = await reader.readexactly(size + 2)
            ids.append(orjson.loads(chunk)["Actor"]["ID"])
    return ids


async def test_nothing_is_lost_or_doubled_when_the_bus_restarts(nats: Nats, bus: Bus, socket_path: str) -> None:
    reader, writer = await ask(socket_path, "/events")
    await asyncio.sleep(0.3)
    for number in (1, 2):
        await publish(bus, number)
    assert await read_ids(reader, 2) == ["c1", "c2"]
    nats.kill()
    await asyncio.sleep(0.5)
    nats.start()
    for number in (3, 4, 5):
        await publish(bus, number)
    assert await read_ids(reader, 3) == ["c3", "c4", "c5"]
    writer.close()


async def test_a_restart_before_the_first_event_loses_none(nats: Nats, bus: Bus, socket_path: str) -> None:
    reader, writer = await ask(socket_path, "/events")
    nats.kill()
    nats.start()
    await publish(bus, 1)
    assert await read_ids(reader, 1) == ["c1"]
    writer.close()


async def test_the_history_is_replayed_and_ends(bus: Bus, socket_path: str) -> None:
    before = time.time()
    for number in range(1, 301):
        await publish(bus, number)
    reader, writer = await ask(socket_path, f"/events?since={before:.6f}&until={time.time():.6f}")
    assert await read_ids(reader, 1000) == [f"c{number}" for number in range(1, 301)]
    writer.close()
