"""The catalog of images, names and layers: one door to read it, one to change it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.image.sql.content import ContentChanges, ContentQueries
from services.image.sql.images import ImageChanges, ImageQueries
from services.image.sql.layers import LayerQueries
from services.image.sql.names import NameChanges, NameQueries
from shared.state.database import Database


class Reader(ImageQueries, NameQueries, LayerQueries, ContentQueries):
    """All queries, over one connection."""


class Writer(Reader, ImageChanges, NameChanges, ContentChanges):
    """All changes, in one transaction, and queries that see them."""


class SqlCatalog:
    """What images, names and layers there are.

    Reads go to a connection of their own. Writes happen in a `writing` block, which is one transaction.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Writer]:
        """One transaction; it commits at the end of the block."""
        async with self._database.transaction() as transaction:
            yield Writer(transaction)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Reader]:
        """Reads that see one state."""
        async with self._database.read() as connection:
            yield Reader(connection)
