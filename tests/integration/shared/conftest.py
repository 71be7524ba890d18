"""A service of one table, on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from shared.state.database import Database

HISTORY = Path(__file__).parent / "history"

things = sa.Table("things", sa.MetaData(), sa.Column("id", sa.String(64), primary_key=True), sa.Column("n", sa.Integer))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = await Database.open(database_url, service="demo", migrations=HISTORY)
    yield opened
    await opened.close()
