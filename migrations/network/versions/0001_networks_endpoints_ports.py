"""Networks, endpoints, ports and the outbox."""

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
        "networks",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(255), nullable=False, unique=True),
        sa.Column("document", sa.Text, nullable=False),
    )
    op.create_table(
        "endpoints",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("network_id", sa.String(64), nullable=False),
        sa.Column("container_id", sa.String(64), nullable=False),
        sa.Column("node", sa.String(255), nullable=False),
        sa.Column("address", sa.String(64), nullable=True),
        sa.Column("address6", sa.String(64), nullable=True),
        sa.Column("document", sa.Text, nullable=False),
        sa.UniqueConstraint("network_id", "container_id", name="uq_endpoints_network_container"),
        sa.UniqueConstraint("network_id", "address", name="uq_endpoints_network_address"),
        sa.UniqueConstraint("network_id", "address6", name="uq_endpoints_network_address6"),
    )
    op.create_index("ix_endpoints_container_id", "endpoints", ["container_id"])
    op.create_table(
        "ports",
        sa.Column("node", sa.String(255), primary_key=True),
        sa.Column("host_port", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("protocol", sa.String(8), primary_key=True),
        sa.Column("host_ip", sa.String(64), primary_key=True),
        sa.Column("endpoint_id", sa.String(64), nullable=False),
    )
    op.create_index("ix_ports_endpoint_id", "ports", ["endpoint_id"])


def downgrade() -> None:
    for table in ("ports", "endpoints", "networks"):
        op.drop_table(table)
    drop_outbox_tables(op)
