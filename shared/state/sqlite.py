"""SQLite for an event loop: statements run in place, only the disk is waited for in a thread.

A statement on a local WAL database takes some microseconds, less than handing it to a thread and back. What does wait
is `COMMIT` (it syncs to disk) and the lock another process may hold; so commits run in a thread, and `BEGIN IMMEDIATE`
is tried without blocking and repeated.

Source: SQLite, "Write-Ahead Logging", "PRAGMA busy_timeout", "Result and Error Codes".
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from shared.cancellation import to_the_end
from shared.errors import Conflict, Internal, Unavailable
from shared.state import sqlitereserve
from shared.state.connection import Connection, Result
from shared.state.reserve import is_full
from shared.state.statements import Compiled, Parameters

LOCK_WAIT_S = 10.0
READERS = 3
# Transactions between two looks at what is left of the reserve.
CHECK_EVERY = 500
_FIRST_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.02
# Primary result codes that trying again may cure: BUSY, LOCKED, IOERR, FULL, CANTOPEN.
_TRANSIENT = frozenset({5, 6, 10, 13, 14})
DIALECT = SQLiteDialect_pysqlite(paramstyle="qmark")


class SqliteConnection(Connection):
    """A connection to a database file."""

    def __init__(self, raw: sqlite3.Connection) -> None:
        super().__init__(DIALECT)
        self.raw = raw

    async def _run(self, compiled: Compiled, parameters: Parameters) -> Result:
        with translated_errors():
            if isinstance(parameters, Sequence):
                return self._run_many(compiled, parameters)
            cursor = self.raw.execute(*compiled.bind(parameters or {}))
            if cursor.description is None:
                return Result([], cursor.rowcount)
            rows = compiled.rows([column[0] for column in cursor.description], cursor.fetchall())
            return Result(rows, len(rows))

    def _run_many(self, compiled: Compiled, many: Sequence[Any]) -> Result:
        changed = sum(self.raw.execute(*compiled.bind(each)).rowcount for each in many)
        return Result([], changed)


class SqliteFile:
    """One service's database file: a writer, and a few readers that each see one state of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._write_lock = asyncio.Lock()
        self._until_check = CHECK_EVERY
        self._writer: SqliteConnection | None = None
        self._readers: list[SqliteConnection] = []
        self._reading = asyncio.Semaphore(READERS)
        # One thread: there is one writer, so there are never two commits to wait for.
        self._commits = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite-commit")

    @asynccontextmanager
    async def transaction(self, *, spare: bool = False) -> AsyncIterator[Connection]:
        """A write transaction. It holds the file's one write lock from its begin, so it never fails half way for it.

        Args:
            spare: Write also when the disk is full, to space that the file has already.
        """
        async with self._write_lock:
            writer = self._open_writer()
            with translated_errors():
                await self._find_room(writer.raw, spare=spare)
                await _begin_immediate(writer.raw)
            try:
                yield writer
                with translated_errors():
                    await self._commit(writer.raw)
            except BaseException:
                if writer.raw.in_transaction:
                    writer.raw.rollback()
                raise

    def _open_writer(self) -> SqliteConnection:
        if self._writer is None:
            self._writer = self._connect(_configure_writer)
        return self._writer

    async def _find_room(self, raw: sqlite3.Connection, *, spare: bool) -> None:
        if is_full(self.path.parent):
            if not spare:
                raise Unavailable(f"the database is not available: the disk is full ({self.path.parent})")
            # What is in the log goes to its place in the file, so that the log can be written anew from its beginning.
            await self._in_thread(_restart_log, raw)
            return
        self._until_check -= 1
        if self._until_check <= 0:
            self._until_check = CHECK_EVERY
            await self._in_thread(sqlitereserve.keep, self.path)

    async def keep_reserve(self) -> None:
        """See to it that there is space for spare transactions. Raises Unavailable."""
        async with self._write_lock:
            # Who closes the last connection that has read anything removes the log.
            self._open_writer().raw.execute("PRAGMA schema_version").fetchone()
            with translated_errors():
                await self._in_thread(sqlitereserve.keep, self.path)

    async def _in_thread(self, work: Callable[..., Any], *arguments: Any) -> None:
        await to_the_end(asyncio.get_running_loop().run_in_executor(self._commits, work, *arguments))

    async def _commit(self, raw: sqlite3.Connection) -> None:
        await self._in_thread(raw.commit)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Connection]:
        async with self._reading:
            reader = self._readers.pop() if self._readers else self._connect(_configure_reader)
            with translated_errors():
                reader.raw.execute("BEGIN")
            try:
                yield reader
            finally:
                reader.raw.rollback()
                self._readers.append(reader)

    def _connect(self, configure: Callable[[sqlite3.Connection], None]) -> SqliteConnection:
        with translated_errors():
            raw = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
            try:
                configure(raw)
            except BaseException:
                raw.close()
                raise
        return SqliteConnection(raw)

    async def close(self) -> None:
        """Close all connections. A transaction in work finishes first."""
        async with self._write_lock:
            for connection in filter(None, (self._writer, *self._readers)):
                connection.raw.close()
            self._writer = None
            self._readers.clear()
        self._commits.shutdown()


async def _begin_immediate(raw: sqlite3.Connection) -> None:
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + LOCK_WAIT_S
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            raw.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or loop.time() > give_up_at:
                raise
        await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)


def _restart_log(raw: sqlite3.Connection) -> None:
    raw.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()


def _configure_writer(raw: sqlite3.Connection) -> None:
    # Only switching a new file to WAL, and recovery after a crash, wait on this; transactions wait in the loop.
    raw.execute("PRAGMA busy_timeout = 5000")
    raw.execute("PRAGMA journal_mode = WAL")
    raw.execute("PRAGMA synchronous = FULL")
    raw.execute("PRAGMA foreign_keys = ON")
    raw.execute("PRAGMA busy_timeout = 0")


def _configure_reader(raw: sqlite3.Connection) -> None:
    raw.execute("PRAGMA busy_timeout = 2000")
    raw.execute("PRAGMA query_only = ON")


@contextmanager
def translated_errors() -> Iterator[None]:
    """Errors of SQLite come out as the engine's own."""
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise Conflict(f"the change conflicts with what is stored: {error}") from error
    except sqlite3.Error as error:
        code: Any = getattr(error, "sqlite_errorcode", None)
        if code is not None and code & 0xFF in _TRANSIENT:
            raise Unavailable(f"the database is not available: {error}") from error
        raise Internal(f"the database refused a statement: {error}") from error
