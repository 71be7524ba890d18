"""What queries and changes of every kind need."""

from __future__ import annotations

from shared.state.connection import Connection
from shared.state.database import Transaction
from shared.state.statements import Parameters, Prepared


class Queries:
    """Queries over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection


class Changes(Queries):
    """Changes within one transaction, and queries that see them."""

    def __init__(self, transaction: Transaction) -> None:
        super().__init__(transaction.connection)
        self._transaction = transaction
        self.emit = transaction.emit

    async def _execute(self, statement: Prepared, parameters: Parameters = None) -> None:
        await self._transaction.execute(statement, parameters)
