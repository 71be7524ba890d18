"""Whether a service's database has changed, without asking the service: SQLite keeps that in memory that is shared.

Each commit of a WAL database ends with a new header of its index, a page that every process has mapped; from that
moment on readers see the change, and not before. `PRAGMA data_version` compares the header with the one that this
connection saw last. So of two equal marks the second proves that nothing has been committed in between, by any
process, whichever of them was killed over what. It takes 4 µs, and reads no table: those are their service's own.

Source: SQLite, "PRAGMA data_version"; "WAL-mode File Format", section 2.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

Value = tuple[int, ...]


class Mark(Protocol):
    """Tells one state of something from every other."""

    def read(self) -> Value | None:
        """Equal to an earlier one when nothing was committed in between; None when that cannot be known here."""
        ...


class Unknown:
    """Of a database on another machine: who wants to know asks its service."""

    def read(self) -> Value | None:
        return None


class SqliteMark:
    """Of a database file of this machine, as long as this process may open it. One thread's own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._file: Value = ()
        self._opened = 0

    def read(self) -> Value | None:
        try:
            if self._connection is None:
                self._open()
            assert self._connection is not None
            version = int(self._connection.execute("PRAGMA data_version").fetchone()[0])
            # Last: a file that is the path's own now was so when its version was read.
            if self._identity() == self._file:
                return (*self._file, self._opened, version)
        except (OSError, sqlite3.Error):  # not there, not ours to read, or being recovered
            pass
        self.close()
        return None

    def _open(self) -> None:
        self._file = self._identity()
        self._opened += 1  # versions of different connections cannot be compared
        # Never waits, and holds no lock between two reads, so that it is in nobody's way.
        self._connection = sqlite3.connect(
            f"{self._path.as_uri()}?mode=ro", uri=True, timeout=0, isolation_level=None, check_same_thread=False
        )

    def _identity(self) -> Value:
        status = os.stat(self._path)
        return status.st_dev, status.st_ino

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Several:
    """Of all of them: it changes with each."""

    def __init__(self, marks: Sequence[Mark]) -> None:
        self._marks = marks

    def read(self) -> Value | None:
        values: list[int] = []
        for mark in self._marks:
            value = mark.read()
            if value is None:
                return None
            values += value
        return tuple(values)


def mark_of(url: str, service: str) -> Mark:
    """A service's mark, by the database URL of the configuration."""
    if not url.startswith("sqlite:"):
        return Unknown()
    directory = url.removeprefix("sqlite://").lstrip("/")  # SQLAlchemy's absolute paths begin with two slashes
    return SqliteMark(Path("/", directory, f"{service}.sqlite3"))
