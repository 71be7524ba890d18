"""Bringing a service's schema up to date: Alembic, one history per service, under a lock.

Revisions are files ``migrations/<service>/versions/NNNN_<what>.py`` whose revision id is ``NNNN``, so that the head is
known from the file names and Alembic is imported only when there is something to do.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
import sqlalchemy.exc

from shared.errors import Conflict, Internal, Unavailable
from shared.state.statements import Prepared

if TYPE_CHECKING:
    from shared.state.database import Database

ENVIRONMENT = Path(__file__).parent.parent / "migration"
LOCK_WAIT_S = 60.0

_is_there_on_sqlite = Prepared(sa.text("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'"))
_is_there_on_postgres = Prepared(sa.text("SELECT to_regclass('alembic_version')"))
_lock_on_postgres = Prepared(sa.text("SELECT pg_advisory_lock(:key)"))
_revision = Prepared(sa.text("SELECT version_num FROM alembic_version"))


def default_history(service: str) -> Path:
    """Where this installation keeps a service's migrations."""
    return Path(__file__).resolve().parents[2] / "migrations" / service


def revisions(history: Path) -> list[str]:
    """The ids of a history's revisions, oldest first.

    Raises:
        Internal: There are none: the installation is incomplete.
    """
    found = sorted(path.name.split("_")[0] for path in (history / "versions").glob("[0-9]*_*.py"))
    if not found:
        raise Internal(f"no migrations in {history / 'versions'}")
    return found


async def upgrade(database: Database, history: Path) -> None:
    """Bring the database to the newest revision of the history.

    Raises:
        Conflict: The database is at a revision that the history does not have.
    """
    known = revisions(history)
    if await _current(database) == known[-1]:
        return
    async with _lock(database):
        current = await _current(database)
        if current is not None and current not in known:
            raise Conflict(
                f"the database of service {database.service} is at revision {current}, and this version of davit "
                f"knows up to {known[-1]}: a newer version wrote it; start that one, or restore an older backup"
            )
        if current != known[-1]:
            await _run(database, history)


async def _current(database: Database) -> str | None:
    """The revision of the database; None for an empty one."""
    async with database.read() as connection:
        if await connection.scalar(_is_there_on_sqlite if database.is_sqlite else _is_there_on_postgres) is None:
            return None
        revision: str | None = await connection.scalar(_revision)
        return revision


async def _run(database: Database, history: Path) -> None:
    # Imported here: with its templates and parsers it would cost every service several megabytes for good.
    import alembic.command
    import alembic.config

    config = alembic.config.Config()
    config.set_main_option("script_location", str(ENVIRONMENT).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", str(history / "versions").replace("%", "%%"))

    def run(connection: sa.Connection) -> None:
        if not database.is_sqlite:
            connection.execute(sa.schema.CreateSchema(database.service, if_not_exists=True))
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "head")

    try:
        await (_run_on_sqlite(database, run) if database.is_sqlite else _run_on_postgres(database, run))
    except (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError, OSError) as error:
        reason = getattr(error, "orig", error)  # without SQLAlchemy's address of an explanation
        raise Unavailable(f"the database of service {database.service} cannot be migrated: {reason}") from error


async def _run_on_sqlite(database: Database, run: Callable[[sa.Connection], None]) -> None:
    def work() -> None:
        engine = sa.create_engine(database.url, poolclass=sa.NullPool)
        with engine.begin() as connection:
            run(connection)

    await asyncio.to_thread(work)


async def _run_on_postgres(database: Database, run: Callable[[sa.Connection], None]) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(
        database.url, poolclass=sa.NullPool, connect_args={"server_settings": {"search_path": database.service}}
    )
    async with engine.begin() as connection:
        await connection.run_sync(run)


@asynccontextmanager
async def _lock(database: Database) -> AsyncIterator[None]:
    """Only one process migrates; the others wait until it is done."""
    if database.lock_file is not None:
        async with _file_lock(database.lock_file.with_suffix(".migrate.lock")):
            yield
        return
    key = {"key": database.advisory_key("migrate")}
    async with database.dedicated() as connection:  # which gives the lock back by its end
        await connection.execute(_lock_on_postgres, key)
        yield


@asynccontextmanager
async def _file_lock(path: Path) -> AsyncIterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        await _wait_for_lock(descriptor, path)
        yield
    finally:
        os.close(descriptor)


async def _wait_for_lock(descriptor: int, path: Path) -> None:
    give_up_at = asyncio.get_running_loop().time() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if asyncio.get_running_loop().time() > give_up_at:
                raise Unavailable(f"another process is migrating the database ({path})") from error
        await asyncio.sleep(0.05)
