"""Signed checkpoints, what was taken from where, and how far deliveries are."""

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
        "checkpoints",
        sa.Column("size", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("time_ns", sa.BigInteger, nullable=False),
        sa.Column("nodes", sa.Text, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
    )
    op.create_table(
        "sources",
        sa.Column("source", sa.String(128), primary_key=True),
        sa.Column("sequence", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "sinks",
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("next_at_ns", sa.BigInteger, nullable=False),
        sa.Column("problem", sa.Text, nullable=False),
        sa.Column("gone", sa.Boolean, nullable=False),
    )


def downgrade() -> None:
    for table in ("sinks", "sources", "checkpoints"):
        op.drop_table(table)
    drop_outbox_tables(op)
