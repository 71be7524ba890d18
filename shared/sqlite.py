"""SQLite for an event loop: statements run in place, only the disk is waited for in a thread.

A statement on a local WAL database takes some microseconds, less than handing it to a thread and back; aiosqlite
pays that hop for every statement. What does wait is `COMMIT` (it syncs to disk) and the lock another process may
hold; so commits run in a thread, and `BEGIN IMMEDIATE` is tried without blocking and repeated.

Source: SQLAlchemy, "Dialects" (is_async); SQLite, "Write-Ahead Logging" and "PRAGMA busy_timeout".
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sqlalchemy import AsyncAdaptedQueuePool, event
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.util import await_only

LOCK_WAIT_S = 10.0
_FIRST_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.02

# One thread: a process has one writer, so it never has two commits to wait for.
_commits = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite-commit")


async def _done() -> None:
    """SQLAlchemy checks that an asyncio driver awaited something."""


async def _to_the_end(work: asyncio.Future[Any]) -> None:
    """Wait for work that must not be left half way, even when the waiting task is cancelled."""
    cancelled = False
    while not work.done():
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            cancelled = True
        except Exception:  # raised below, by result()
            pass
    work.result()
    if cancelled:
        raise asyncio.CancelledError


async def _begin_immediate(connection: Any) -> None:
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + LOCK_WAIT_S
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or loop.time() > give_up_at:
                raise
        await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)


class BufferingCursor(sqlite3.Cursor):
    """Has its rows at once, as asyncio drivers do: a result outlives the statement and blocks no commit."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self._rows: deque[Any] = deque()

    def fill(self) -> None:
        self._rows = deque(super().fetchall()) if self.description else deque()

    def fetchone(self) -> Any:
        return self._rows.popleft() if self._rows else None

    def fetchmany(self, size: int | None = 1) -> list[Any]:
        return [self._rows.popleft() for _ in range(min(size or 1, len(self._rows)))]

    def fetchall(self) -> list[Any]:
        rows, self._rows = list(self._rows), deque()
        return rows

    async def _async_soft_close(self) -> None:
        """SQLAlchemy asks asyncio cursors to let go of the server's resources; there are none left."""


class BufferingConnection(sqlite3.Connection):
    def cursor(self, *_factory: Any) -> BufferingCursor:  # type: ignore[override]
        return super().cursor(BufferingCursor)


class ReaderDialect(SQLiteDialect_pysqlite):
    """A transaction is a snapshot: `BEGIN`, then reads."""

    driver = "davit"
    is_async = True
    supports_statement_cache = True

    @classmethod
    def get_pool_class(cls, url: URL) -> type[AsyncAdaptedQueuePool]:
        return AsyncAdaptedQueuePool

    def do_begin(self, dbapi_connection: Any) -> None:
        dbapi_connection.execute("BEGIN")

    def do_execute(self, cursor: Any, statement: Any, parameters: Any, context: Any = None) -> None:
        cursor.execute(statement, parameters)
        cursor.fill()
        await_only(_done())

    def do_executemany(self, cursor: Any, statement: Any, parameters: Any, context: Any = None) -> None:
        cursor.executemany(statement, parameters)
        await_only(_done())

    def do_execute_no_params(self, cursor: Any, statement: Any, context: Any = None) -> None:
        cursor.execute(statement)
        cursor.fill()
        await_only(_done())


class WriterDialect(ReaderDialect):
    """A transaction holds the database's one write lock from its begin, so that it never fails half way for it."""

    driver = "davit_writer"
    supports_statement_cache = True

    def do_begin(self, dbapi_connection: Any) -> None:
        await_only(_begin_immediate(dbapi_connection))

    def do_commit(self, dbapi_connection: Any) -> None:
        connection = dbapi_connection.dbapi_connection
        if connection.in_transaction:
            await_only(_to_the_end(asyncio.get_running_loop().run_in_executor(_commits, connection.commit)))


def create_engines(path: Path) -> tuple[AsyncEngine, AsyncEngine]:
    """The writer and the readers of one database file, which is created when missing."""
    registry.register("sqlite.davit", __name__, "ReaderDialect")
    registry.register("sqlite.davit_writer", __name__, "WriterDialect")
    arguments = {"isolation_level": None, "check_same_thread": False, "timeout": 0, "factory": BufferingConnection}
    writer = create_async_engine(f"sqlite+davit_writer:///{path}", pool_size=1, max_overflow=0, connect_args=arguments)
    readers = create_async_engine(f"sqlite+davit:///{path}", pool_size=3, max_overflow=0, connect_args=arguments)
    event.listen(writer.sync_engine, "connect", _configure_writer)
    event.listen(readers.sync_engine, "connect", _configure_reader)
    return writer, readers


def _configure_writer(connection: Any, _record: Any) -> None:
    # Only switching a new file to WAL, and recovery after a crash, wait on this; transactions wait in the loop.
    connection.execute("PRAGMA busy_timeout = 5000")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA busy_timeout = 0")


def _configure_reader(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA busy_timeout = 2000")
    connection.execute("PRAGMA query_only = ON")
