"""A service's own database: one SQLite file, or one schema of a Postgres database, behind the same code.

Writes are serial per service on both: SQLite has one writer, and on Postgres a transaction takes the service's
advisory lock. A handler that reads and then writes in one transaction therefore needs no retry and cannot deadlock,
and events are numbered in commit order.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import sqlalchemy.exc
from sqlalchemy.engine import CursorResult, ScalarResult
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from shared import migrate, outbox
from shared.errors import Conflict, Internal, InvalidArgument, Unavailable
from shared.events import DomainEvent

Parameters = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None

# SQLite result codes (low byte) and Postgres states that trying again may cure.
_TRANSIENT_SQLITE = frozenset({5, 6, 10, 13, 14})  # BUSY, LOCKED, IOERR, FULL, CANTOPEN
_TRANSIENT_SQLSTATE = ("08", "40", "53", "55P03", "57", "58")

_lock_service = sa.text("SELECT pg_advisory_xact_lock(:key)")


class Transaction:
    """An open write transaction. Statements see its own changes; nobody else does until it commits."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.connection = connection
        self.events: list[DomainEvent] = []

    async def execute(self, statement: sa.Executable, parameters: Parameters = None) -> CursorResult[Any]:
        with translated_errors():
            return await self.connection.execute(statement, parameters)

    async def scalar(self, statement: sa.Executable, parameters: Mapping[str, Any] | None = None) -> Any:
        with translated_errors():
            return await self.connection.scalar(statement, parameters)

    async def scalars(self, statement: sa.Executable, parameters: Mapping[str, Any] | None = None) -> ScalarResult[Any]:
        with translated_errors():
            return await self.connection.scalars(statement, parameters)

    def emit(self, event: DomainEvent) -> None:
        """Record an event with this transaction; it gets its sequence number at the commit."""
        self.events.append(event)


class Database:
    """Opened with `Database.open`; closed with `close`."""

    def __init__(self, service: str, writer: AsyncEngine, readers: AsyncEngine, lock_file: Path | None) -> None:
        self.service = service
        self.lock_file = lock_file
        self._writer = writer
        self._readers = readers
        self._write_lock = asyncio.Lock()
        self._connection: AsyncConnection | None = None
        self._committed: list[Callable[[], None]] = []

    @classmethod
    async def open(cls, url: str, *, service: str, migrations: Path) -> Database:
        """Open the service's database and bring its schema up to date.

        Args:
            url: ``sqlite:///<directory>`` (the file is ``<directory>/<service>.sqlite3``) or
                ``postgresql://…`` (the schema is the service's name).
            migrations: The directory with ``versions/NNNN_*.py``.

        Raises:
            Conflict: A newer version of the engine wrote the database.
            Unavailable: The database server does not answer, or the file cannot be opened.
        """
        database = cls._sqlite(url, service) if url.startswith("sqlite:") else cls._postgres(url, service)
        try:
            with translated_errors():
                await migrate.upgrade(database, migrations)
        except OSError as error:
            await database.close()
            raise Unavailable(f"the database of service {service} cannot be opened: {error}") from error
        except BaseException:
            await database.close()
            raise
        return database

    @classmethod
    def _sqlite(cls, url: str, service: str) -> Database:
        from shared.sqlite import create_engines

        directory = Path(url.removeprefix("sqlite://"))
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise Unavailable(f"the database directory {directory} cannot be created: {error.strerror}") from error
        writer, readers = create_engines(directory / f"{service}.sqlite3")
        return cls(service, writer, readers, directory / f"{service}.lock")

    @classmethod
    def _postgres(cls, url: str, service: str) -> Database:
        scheme, _, rest = url.partition("://")
        if scheme not in ("postgresql", "postgres", "postgresql+asyncpg"):
            raise InvalidArgument(f"database URL scheme {scheme} is not supported: use postgresql:// or sqlite://")
        engine = create_async_engine(
            f"postgresql+asyncpg://{rest}",
            pool_size=4,
            max_overflow=4,
            pool_pre_ping=False,
            connect_args={"server_settings": {"search_path": service, "application_name": f"davit-{service}"}},
        )
        return cls(service, engine, engine, None)

    @property
    def is_sqlite(self) -> bool:
        return self.lock_file is not None

    @property
    def writer(self) -> AsyncEngine:
        """The engine that may write, for `shared.migrate` and `shared.relay`."""
        return self._writer

    def advisory_key(self, purpose: str) -> int:
        """The service's key for one of Postgres's advisory locks: 64 bits, signed."""
        digest = hashlib.blake2b(f"davit:{self.service}:{purpose}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big", signed=True)

    def on_commit(self, wake: Callable[[], None]) -> None:
        """Call a function after each commit that recorded events."""
        self._committed.append(wake)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """A write transaction: commits at the end of the block, rolls back when the block raises.

        Raises:
            Conflict: A constraint of the schema refused a row.
            Unavailable: The database is locked or away; nothing was changed (or, when the connection was lost
                during the commit, it is unknown whether it was).
        """
        async with self._sqlite_writer() if self.is_sqlite else self._postgres_writer() as connection:
            transaction = Transaction(connection)
            yield transaction
            if transaction.events:
                await outbox.store(connection, self.service, transaction.events)
        if transaction.events:
            for wake in self._committed:
                wake()

    @asynccontextmanager
    async def _sqlite_writer(self) -> AsyncIterator[AsyncConnection]:
        async with self._write_lock:
            if self._connection is None:
                self._connection = await _connect(self._writer)
            with translated_errors():
                async with self._connection.begin():
                    yield self._connection

    @asynccontextmanager
    async def _postgres_writer(self) -> AsyncIterator[AsyncConnection]:
        connection = await _connect(self._writer)
        try:
            with translated_errors():
                async with connection.begin():
                    await connection.execute(_lock_service, {"key": self.advisory_key("write")})
                    yield connection
        finally:
            await connection.close()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection for reads that all see one state of the database.

        Raises:
            Unavailable: The database is away.
        """
        connection = await _connect(self._readers)
        try:
            with translated_errors():
                yield connection
        finally:
            await connection.close()

    @asynccontextmanager
    async def dedicated(self) -> AsyncIterator[AsyncConnection]:
        """A connection in autocommit mode, for session-level locks (Postgres). Raises Unavailable."""
        connection = await _connect(self._writer)
        try:
            with translated_errors():
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                yield connection
        finally:
            await connection.close()

    async def recorded_events(self) -> int:
        """The sequence number of the newest event. Raises Unavailable when the database is away."""
        async with self.read() as connection:
            return await outbox.last_sequence(connection)

    async def close(self) -> None:
        """Close all connections. Transactions in work finish first."""
        async with self._write_lock:
            if self._connection is not None:
                await self._connection.close()
                self._connection = None
        await self._writer.dispose()
        await self._readers.dispose()


async def _connect(engine: AsyncEngine) -> AsyncConnection:
    try:
        with translated_errors():
            return await engine.connect()
    except OSError as error:
        raise Unavailable(f"the database is not available: {error}") from error


@contextmanager
def translated_errors() -> Iterator[None]:
    """Errors of the database come out as the engine's own."""
    try:
        yield
    except sqlalchemy.exc.IntegrityError as error:
        raise Conflict(f"the change conflicts with what is stored: {error.orig}") from error
    except sqlalchemy.exc.TimeoutError as error:
        raise Unavailable("the database has no free connection") from error
    except sqlalchemy.exc.DBAPIError as error:
        if _is_transient(error):
            raise Unavailable(f"the database is not available: {error.orig}") from error
        raise Internal(f"the database refused a statement: {error.orig}") from error


def _is_transient(error: sqlalchemy.exc.DBAPIError) -> bool:
    if error.connection_invalidated or isinstance(error, sqlalchemy.exc.InterfaceError):
        return True
    original = error.orig
    code = getattr(original, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in _TRANSIENT_SQLITE
    state = getattr(original, "sqlstate", None) or ""
    return state.startswith(_TRANSIENT_SQLSTATE)
