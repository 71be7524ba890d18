"""Volumes, who holds them, and the outbox."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from shared.events.outbox import create_outbox_tables, drop_outbox_tables

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_outbox_tables(op)
    op.create_table(
        "volumes",
        sa.Column("name", sa.String(255), primary_key=True),
        sa.Column("removing", sa.Boolean, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
    )
    op.create_table(
        "holds",
        sa.Column("container_id", sa.String(64), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("volume", sa.String(255), nullable=False),
    )
    op.create_index("ix_holds_volume", "holds", ["volume"])


def downgrade() -> None:
    for table in ("holds", "volumes"):
        op.drop_table(table)
    drop_outbox_tables(op)
