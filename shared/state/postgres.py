"""Postgres: one schema per service, a small pool of connections, prepared statements kept by the driver.

Source: asyncpg, "API Reference"; PostgreSQL, "Error Codes", "Transaction Isolation", "Advisory Locks".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncpg
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

from shared.cancellation import to_the_end
from shared.errors import Conflict, Internal, Unavailable
from shared.state.connection import Connection, Result
from shared.state.statements import Compiled, Parameters

MOST_CONNECTIONS = 8
ACQUIRE_WITHIN_S = 30.0
# Classes of SQLSTATE that trying again may cure: connection, rollback, resources, lock, intervention, system.
_TRANSIENT = ("08", "40", "53", "55P03", "57", "58")
DIALECT = PGDialect_asyncpg()  # type: ignore[no-untyped-call]


class PostgresConnection(Connection):
    """A connection to the server."""

    def __init__(self, raw: Any) -> None:
        super().__init__(DIALECT)
        self.raw = raw

    async def _run(self, compiled: Compiled, parameters: Parameters) -> Result:
        with translated_errors():
            if isinstance(parameters, Sequence):
                return await self._run_many(compiled, parameters)
            sql, arguments = compiled.bind(parameters or {})
            if compiled.changes:
                return Result([], _changed(await self.raw.execute(sql, *arguments)))
            records = await self.raw.fetch(sql, *arguments)
            rows = compiled.rows(list(records[0].keys()), records) if records else []
            return Result(rows, len(rows))

    async def _run_many(self, compiled: Compiled, many: Sequence[Any]) -> Result:
        bound = [compiled.bind(each) for each in many]
        if len({sql for sql, _ in bound}) == 1:
            await self.raw.executemany(bound[0][0], [arguments for _, arguments in bound])
        else:
            for sql, arguments in bound:
                await self.raw.execute(sql, *arguments)
        return Result([], len(bound))


class _RawConnection(asyncpg.Connection):  # type: ignore[misc]
    def get_reset_query(self) -> str:
        """Nothing is set on connections of the pool but by transactions, which end."""
        return ""


class PostgresSchema:
    """One service's schema.

    Args:
        dsn: ``postgresql://…``.
        write_key: The advisory lock that a write transaction takes, so that writes are serial.
    """

    def __init__(self, dsn: str, service: str, write_key: int) -> None:
        self._dsn = dsn
        self._settings = {"search_path": service, "application_name": f"davit-{service}"}
        self._write_key = write_key
        self._pool: Any = None
        self._opening = asyncio.Lock()

    @asynccontextmanager
    async def transaction(self, *, spare: bool = False) -> AsyncIterator[Connection]:
        """A write transaction, one at a time among all copies of the service. spare: the disk is the server's care."""
        async with self._acquired() as raw:
            transaction = raw.transaction()
            try:
                with translated_errors():
                    await transaction.start()
                    await raw.execute("SELECT pg_advisory_xact_lock($1)", self._write_key)
                yield PostgresConnection(raw)
            except BaseException:
                await _rolled_back(transaction, raw)
                raise
            with translated_errors():
                await to_the_end(asyncio.ensure_future(transaction.commit()))

    async def keep_reserve(self) -> None:
        """Nothing: what a full disk means is up to the server."""

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Connection]:
        """A transaction that sees one state and changes nothing."""
        async with self._acquired() as raw:
            transaction = raw.transaction(isolation="repeatable_read", readonly=True)
            try:
                with translated_errors():
                    await transaction.start()
                yield PostgresConnection(raw)
            finally:
                await _rolled_back(transaction, raw)

    @asynccontextmanager
    async def dedicated(self) -> AsyncIterator[Connection]:
        """A connection of its own without a transaction, for session-level locks; it is closed at the end."""
        with translated_errors():
            raw = await asyncpg.connect(self._dsn, server_settings=self._settings)
        try:
            yield PostgresConnection(raw)
        finally:
            raw.terminate()

    @asynccontextmanager
    async def _acquired(self) -> AsyncIterator[Any]:
        with translated_errors():
            pool = await self._opened()
            raw = await pool.acquire(timeout=ACQUIRE_WITHIN_S)
        try:
            yield raw
        finally:
            with translated_errors():
                await pool.release(raw)

    async def _opened(self) -> Any:
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    self._dsn,
                    min_size=0,
                    max_size=MOST_CONNECTIONS,
                    server_settings=self._settings,
                    connection_class=_RawConnection,
                )
            return self._pool

    async def close(self) -> None:
        """Close all connections. Transactions in work finish first."""
        if self._pool is not None:
            with translated_errors():
                await self._pool.close()


async def _rolled_back(transaction: Any, raw: Any) -> None:
    """End a transaction without its changes; a connection on which that fails is closed, which does the same."""
    try:
        await transaction.rollback()
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        raw.terminate()


def _changed(status: str) -> int:
    """The number of rows in a command's tag: ``UPDATE 1``, ``INSERT 0 1``."""
    last = status.rpartition(" ")[2]
    return int(last) if last.isdigit() else 0


@contextmanager
def translated_errors() -> Iterator[None]:
    """Errors of the driver and the server come out as the engine's own."""
    try:
        yield
    except asyncpg.IntegrityConstraintViolationError as error:
        raise Conflict(f"the change conflicts with what is stored: {error}") from error
    except asyncpg.PostgresError as error:
        stale = isinstance(error, asyncpg.InvalidCachedStatementError)
        if stale or (error.sqlstate or "").startswith(_TRANSIENT):
            raise Unavailable(f"the database is not available: {error}") from error
        raise Internal(f"the database refused a statement: {error}") from error
    except (asyncpg.InterfaceError, OSError, TimeoutError) as error:
        raise Unavailable(f"the database is not available: {error or type(error).__name__}") from error
