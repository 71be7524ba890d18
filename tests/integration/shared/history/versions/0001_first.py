"""The outbox, and a table to change."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from shared.events import outbox

revision = "0001"
down_revision = None


def upgrade() -> None:
    outbox.create_outbox_tables(op)
    op.create_table("things", sa.Column("id", sa.String(64), primary_key=True), sa.Column("n", sa.Integer))


def downgrade() -> None:
    op.drop_table("things")
    outbox.drop_outbox_tables(op)
