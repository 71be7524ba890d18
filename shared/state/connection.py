"""What a database connection offers, whichever database it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from sqlalchemy.engine import Dialect

from shared.state.statements import Compiled, Parameters, Prepared


class Result:
    """Rows of a statement, all of them read; or how many rows it changed (`rowcount`)."""

    __slots__ = ("_rows", "rowcount")

    def __init__(self, rows: list[Any], rowcount: int) -> None:
        self._rows = rows
        self.rowcount = rowcount

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)

    def all(self) -> list[Any]:
        """Named tuples."""
        return self._rows

    def first(self) -> Any:
        """The first row, or None."""
        return self._rows[0] if self._rows else None


class Connection(ABC):
    """One connection, within a transaction unless it is a dedicated one.

    Raises:
        Conflict: A constraint of the schema refused a row.
        Unavailable: The database is away or locked.
        Internal: The statement is wrong.
    """

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    async def execute(self, statement: Prepared, parameters: Parameters = None) -> Result:
        """Run a statement; once for each, when `parameters` is a sequence."""
        return await self._run(statement.compiled(self._dialect), parameters)

    async def scalar(self, statement: Prepared, parameters: Parameters = None) -> Any:
        """The first column of the first row; None when there is no row."""
        row = (await self.execute(statement, parameters)).first()
        return None if row is None else row[0]

    async def scalars(self, statement: Prepared, parameters: Parameters = None) -> list[Any]:
        """The first column of every row."""
        return [row[0] for row in await self.execute(statement, parameters)]

    @abstractmethod
    async def _run(self, compiled: Compiled, parameters: Parameters) -> Result: ...
