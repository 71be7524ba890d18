"""What an exec is doing, and since when: for the inventory, and for forgetting those that have ended."""

from __future__ import annotations

import time

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("execs", sa.Column("status", sa.String(16), nullable=False, server_default="created"))
    op.add_column("execs", sa.Column("changed_ns", sa.BigInteger, nullable=False, server_default="0"))
    op.create_index("ix_execs_status", "execs", ["status", "changed_ns"])
    execs = sa.table("execs", sa.column("status"), sa.column("changed_ns"), sa.column("document"))
    op.execute(sa.update(execs).values(changed_ns=time.time_ns()))
    # Quotes inside of strings are escaped in JSON, so these are keys.
    for key, status in (('"running":true', "running"), ('"exit_code":', "ended")):
        op.execute(sa.update(execs).where(execs.c.document.like(f"%{key}%")).values(status=status))


def downgrade() -> None:
    op.drop_index("ix_execs_status", "execs")
    op.drop_column("execs", "changed_ns")
    op.drop_column("execs", "status")
