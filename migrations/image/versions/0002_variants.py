"""Images of several platforms under one name."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "name_variants",
        sa.Column("name", sa.String(512), primary_key=True),
        sa.Column("platform", sa.String(128), primary_key=True),
        sa.Column("index_digest", sa.String(80), nullable=False),
        sa.Column("image_id", sa.String(80), nullable=False),
    )
    op.create_index("ix_name_variants_image_id", "name_variants", ["image_id"])


def downgrade() -> None:
    op.drop_table("name_variants")
