"""Containers, execs, nodes and the outbox."""

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
        "containers",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(255), nullable=False, unique=True),
        sa.Column("created_ns", sa.BigInteger, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("image_id", sa.String(80), nullable=False),
        sa.Column("node", sa.String(255), nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("holding", sa.Boolean, nullable=False),
        sa.Column("changed_ns", sa.BigInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("summary", sa.Text, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
    )
    op.create_index("ix_containers_created_ns", "containers", ["created_ns"])
    op.create_index("ix_containers_status", "containers", ["status"])
    op.create_index("ix_containers_image_id", "containers", ["image_id"])
    op.create_table(
        "execs",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("container_id", sa.String(64), nullable=False),
        sa.Column("document", sa.Text, nullable=False),
    )
    op.create_index("ix_execs_container_id", "execs", ["container_id"])
    op.create_table(
        "nodes",
        sa.Column("node", sa.String(255), primary_key=True),
        sa.Column("seen_ns", sa.BigInteger, nullable=False),
        sa.Column("facts", sa.Text, nullable=False),
    )
    op.create_table(
        "tombstones",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("exit_code", sa.Integer, nullable=False),
        sa.Column("removed_ns", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_tombstones_removed_ns", "tombstones", ["removed_ns"])


def downgrade() -> None:
    for table in ("tombstones", "nodes", "execs", "containers"):
        op.drop_table(table)
    drop_outbox_tables(op)
