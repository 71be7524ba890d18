"""Control on a real bus and a real database; around it, fakes of the services and the node it talks to."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from tests.conftest import missing
from tests.integration.control.world import World
from tests.lab.postgres import BINARIES, Postgres


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def nats_url() -> Iterator[str]:
    binary = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")
    if binary is None:
        missing("nats-server")
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="davit-control-") as store:
        process = subprocess.Popen(
            [binary, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", store], stderr=subprocess.DEVNULL
        )
        try:
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
            yield f"nats://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    if not BINARIES:
        missing("Postgres")
    server = Postgres()
    server.port = _free_port()
    with server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/db"
    server: Postgres = request.getfixturevalue("postgres")
    name = f"t{uuid.uuid4().hex[:12]}"
    engine = create_async_engine(server.url.replace("postgresql:", "postgresql+asyncpg:"), isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(sa.text(f"CREATE DATABASE {name}"))
    await engine.dispose()
    return server.url.replace("/postgres", f"/{name}")


@pytest.fixture
async def world(nats_url: str, database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    async with World(nats_url, database_url, tmp_path) as world:
        yield world
