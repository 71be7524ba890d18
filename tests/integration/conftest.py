"""Real servers for integration tests: NATS, SQLite, Postgres; each private to the run."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from shared.bus.client import Bus
from shared.errors import Unavailable
from tests.conftest import missing
from tests.lab.nats import NatsServer


@pytest.fixture(scope="session")
def nats_server() -> Iterator[NatsServer]:
    """One nats-server for the run; tests name their streams and subjects apart, or delete what they made."""
    try:
        with NatsServer() as server:
            yield server
    except Unavailable as error:
        missing(str(error))


@pytest.fixture
def own_nats() -> Iterator[NatsServer]:
    """A nats-server of the test's own, to be killed and emptied."""
    try:
        with NatsServer() as server:
            yield server
    except Unavailable as error:
        missing(str(error))


@pytest.fixture
async def bus(nats_server: NatsServer) -> AsyncIterator[Bus]:
    """A connection to the run's nats-server."""
    connection = await Bus.connect(nats_server.url, name="test")
    yield connection
    await connection.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a private Postgres cluster."""
    from tests.lab.postgres import BINARIES, Postgres

    if not BINARIES:
        missing("Postgres")
    if os.geteuid() != 0:
        missing("root, to run Postgres as another user,")
    with Postgres() as server:
        yield server.url


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a test may open databases: a directory for SQLite files, or a database in the Postgres cluster."""
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/db"
    server: str = request.getfixturevalue("postgres_server")
    return _new_postgres_database(server)


def _new_postgres_database(server: str) -> str:
    import asyncio
    import threading

    import asyncpg

    name = f"t{uuid.uuid4().hex[:12]}"

    async def create() -> None:
        connection = await asyncpg.connect(server)
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()

    # In a thread of its own, since the test's event loop may be running in this one.
    worker = threading.Thread(target=lambda: asyncio.run(create()))
    worker.start()
    worker.join()
    return server.rpartition("/")[0] + f"/{name}"
