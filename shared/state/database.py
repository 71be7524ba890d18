"""A service's own database: one SQLite file, or one schema of a Postgres database, behind the same code.

Writes are serial per service on both: SQLite has one writer, and on Postgres a transaction takes the service's
advisory lock. A handler that reads and then writes in one transaction therefore needs no retry and cannot deadlock,
and events are numbered in commit order.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.errors import InvalidArgument, Unavailable
from shared.events import changes, outbox
from shared.events.record import DomainEvent
from shared.state import migrate
from shared.state.connection import Connection, Result
from shared.state.reserve import is_full, spending
from shared.state.statements import Parameters, Prepared

if TYPE_CHECKING:
    from shared.state.postgres import PostgresSchema
    from shared.state.sqlite import SqliteFile


class Transaction:
    """An open write transaction. Statements see its own changes; nobody else does until it commits."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.events: list[DomainEvent] = []

    async def execute(self, statement: Prepared, parameters: Parameters = None) -> Result:
        return await self.connection.execute(statement, parameters)

    async def scalar(self, statement: Prepared, parameters: Parameters = None) -> Any:
        return await self.connection.scalar(statement, parameters)

    async def scalars(self, statement: Prepared, parameters: Parameters = None) -> list[Any]:
        return await self.connection.scalars(statement, parameters)

    def emit(self, event: DomainEvent) -> None:
        """Record an event with this transaction; it gets its sequence number at the commit."""
        self.events.append(event)


class Database:
    """Opened with `Database.open`; closed with `close`.

    Attributes:
        lock_file: Beside an SQLite file, for whoever needs to be the only one; None on Postgres.
        url: In SQLAlchemy's form, for migrations.
    """

    def __init__(self, service: str, store: SqliteFile | PostgresSchema, url: str, lock_file: Path | None) -> None:
        self.service = service
        self.lock_file = lock_file
        self.url = url
        self._store = store
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
            await migrate.upgrade(database, migrations)
            await database._store.keep_reserve()
        except BaseException:
            await database.close()
            raise
        return database

    @classmethod
    def _sqlite(cls, url: str, service: str) -> Database:
        from shared.state.sqlite import SqliteFile

        directory = Path(url.removeprefix("sqlite://"))
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise Unavailable(f"the database directory {directory} cannot be created: {error.strerror}") from error
        path = directory / f"{service}.sqlite3"
        return cls(service, SqliteFile(path), f"sqlite:///{path}", directory / f"{service}.lock")

    @classmethod
    def _postgres(cls, url: str, service: str) -> Database:
        scheme, _, rest = url.partition("://")
        if scheme not in ("postgresql", "postgres", "postgresql+asyncpg"):
            raise InvalidArgument(f"database URL scheme {scheme} is not supported: use postgresql:// or sqlite://")
        from shared.state.postgres import PostgresSchema

        store = PostgresSchema(f"postgresql://{rest}", service, advisory_key(service, "write"))
        return cls(service, store, f"postgresql+asyncpg://{rest}", None)

    @property
    def is_sqlite(self) -> bool:
        return self.lock_file is not None

    def disk_is_full(self) -> bool:
        """Whether there is no room on the disk of an SQLite file; a server's disk is its own care."""
        return self.lock_file is not None and is_full(self.lock_file.parent)

    def advisory_key(self, purpose: str) -> int:
        """The service's key for one of Postgres's advisory locks: 64 bits, signed."""
        return advisory_key(self.service, purpose)

    def on_commit(self, wake: Callable[[], None]) -> None:
        """Call a function after each commit that recorded events."""
        self._committed.append(wake)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """A write transaction: commits at the end of the block, rolls back when the block raises.

        Raises:
            Conflict: A constraint of the schema refused a row.
            Unavailable: The database is locked or away, or its disk is full (see `shared.state.reserve`); nothing was
                changed (or, when the connection was lost during the commit, it is unknown whether it was).
        """
        async with self._store.transaction(spare=spending()) as connection:
            transaction = Transaction(connection)
            yield transaction
            if transaction.events:
                late = not changes.are_collected()
                for event in transaction.events:
                    event.late = late
                await outbox.store(connection, self.service, transaction.events)
        if transaction.events:
            changes.committed(transaction.events)
            for wake in self._committed:
                wake()

    def read(self) -> AbstractAsyncContextManager[Connection]:
        """A connection for reads that all see one state of the database.

        Raises:
            Unavailable: The database is away.
        """
        return self._store.read()

    def dedicated(self) -> AbstractAsyncContextManager[Connection]:
        """A connection without a transaction, for Postgres's session-level locks. Raises Unavailable."""
        assert self.lock_file is None, "SQLite has no session-level locks"
        return self._store.dedicated()  # type: ignore[union-attr]

    async def recorded_events(self) -> int:
        """The sequence number of the newest event. Raises Unavailable when the database is away."""
        async with self.read() as connection:
            return await outbox.last_sequence(connection)

    async def close(self) -> None:
        """Close all connections. Transactions in work finish first."""
        await self._store.close()


def advisory_key(service: str, purpose: str) -> int:
    digest = hashlib.blake2b(f"davit:{service}:{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
