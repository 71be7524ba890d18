"""Statements of SQLAlchemy Core, compiled to what a database driver takes.

SQLAlchemy builds the statements and knows the dialects; its engine, connections and results are not used: for one
statement they cost more than the database does, in time and in memory that a forked service no longer shares.

Source: SQLAlchemy, "SQL Compilation" (SQLCompiler, ExpandedState); PEP 249, paramstyle.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.compiler import SQLCompiler

Parameters = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None


class Compiled:
    """The text of a statement for one kind of database, and how its parameters and rows are to be read.

    Attributes:
        sql: The text, unless lists expand in it: see `bind`.
        changes: It is an INSERT, UPDATE or DELETE that returns no rows.
    """

    def __init__(self, statement: sa.Executable, dialect: Dialect) -> None:
        options: dict[str, Any] = {}
        if isinstance(statement, sa.Insert):
            # Without it the text would ask for generated keys, of which there are none here.
            options = {"for_executemany": True}
        compiled = statement.compile(dialect=dialect, **options)  # type: ignore[attr-defined]
        assert isinstance(compiled, SQLCompiler)
        self._compiled = compiled
        self.sql = compiled.string
        self.changes = isinstance(statement, sa.UpdateBase) and not statement.exported_columns
        self._names = tuple(compiled.positiontup or ())
        self._expands = bool(compiled.post_compile_params)
        self._given = {name: bind.effective_value for bind, name in compiled.bind_names.items() if not bind.required}
        self._flags = () if dialect.supports_native_boolean else _boolean_columns(statement)
        self._row: Any = None

    def bind(self, parameters: Mapping[str, Any]) -> tuple[str, tuple[Any, ...]]:
        """The text and its positional arguments. Raises KeyError for a parameter that is missing."""
        if self._expands:
            state = self._compiled.construct_expanded_state(dict(parameters))
            return state.statement, tuple(state.positional_parameters)
        given = self._given
        return self.sql, tuple([parameters[name] if name in parameters else given[name] for name in self._names])

    def rows(self, columns: Sequence[str], values: Iterable[Sequence[Any]]) -> list[Any]:
        """Rows as named tuples; columns without a usable name get one by position (``_0``)."""
        if self._row is None:
            self._row = namedtuple("Row", columns, rename=True)  # type: ignore[misc]
        make, flags = self._row._make, self._flags
        if not flags:
            return [make(row) for row in values]
        return [make(_with_booleans(row, flags)) for row in values]


class Prepared:
    """A statement that is compiled once in a process, and for the engine's own services before they are forked.

    An INSERT gives every column. Compiling takes longer than the query, and unshares the compiler's memory: there are
    no statements but these, which are put together when their module is imported.
    """

    __slots__ = ("_compiled", "statement")

    def __init__(self, statement: sa.Executable) -> None:
        self.statement = statement
        self._compiled: dict[str, Compiled] = {}

    def compiled(self, dialect: Dialect) -> Compiled:
        found = self._compiled.get(dialect.name)
        if found is None:
            found = self._compiled[dialect.name] = Compiled(self.statement, dialect)
        return found


def _boolean_columns(statement: sa.Executable) -> tuple[int, ...]:
    """Positions of results that a database without booleans gives as 0 and 1."""
    columns: Iterable[Any]
    if isinstance(statement, sa.SelectBase):
        columns = statement.selected_columns
    elif isinstance(statement, sa.UpdateBase):
        columns = statement.exported_columns
    else:
        return ()
    return tuple(position for position, column in enumerate(columns) if isinstance(column.type, sa.Boolean))


def _with_booleans(row: Sequence[Any], flags: tuple[int, ...]) -> list[Any]:
    values = list(row)
    for position in flags:
        if values[position] is not None:
            values[position] = bool(values[position])
    return values
