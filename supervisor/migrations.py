"""Bringing all databases up to date before the services start, in a process of its own.

Alembic costs several megabytes, which that process takes with it.
"""

from __future__ import annotations

import asyncio
import os

from shared.config import EngineConfig
from shared.errors import DavitError
from shared.state import migrate
from shared.state.database import Database
from supervisor.process import fork, set_title


def migrate_all(config: EngineConfig, services: list[str]) -> str:
    """Why the databases could not be brought up to date; nothing when they were."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = fork(lambda: _in_child(config, services, writer))
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read().strip()
    os.waitpid(pid, 0)
    return "" if answer == "done" else answer or "the databases could not be brought up to date"


def _in_child(config: EngineConfig, services: list[str], writer: int) -> int:
    async def each() -> None:
        for name in services:
            history = migrate.default_history(name)
            if history.is_dir():
                await (await Database.open(config.database, service=name, migrations=history)).close()

    set_title("davit: migrations")
    try:
        asyncio.run(each())
        answer = "done"
    except DavitError as error:
        answer = str(error)
    os.write(writer, answer.replace("\n", " ").encode())
    return 0
