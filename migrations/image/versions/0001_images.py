"""Images, names, layers, leases, the registry and the outbox."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from shared.events.outbox import create_outbox_tables, drop_outbox_tables

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    "images",
    "names",
    "layers",
    "image_layers",
    "image_content",
    "leases",
    "lease_items",
    "blob_sources",
    "repository_tags",
    "repository_manifests",
    "repository_blobs",
)


def upgrade() -> None:
    create_outbox_tables(op)
    _create_images()
    _create_leases()
    _create_registry()


def _create_images() -> None:
    op.create_table(
        "images",
        sa.Column("id", sa.String(80), primary_key=True),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("resolved", sa.Text, nullable=False),
        sa.Column("parent", sa.String(80), nullable=False),
        sa.Column("cache_key", sa.String(128), nullable=False, server_default=""),
        sa.Column("created_unix", sa.BigInteger, nullable=False),
        sa.Column("stored_ns", sa.BigInteger, nullable=False),
        sa.Column("last_tag_ns", sa.BigInteger, nullable=False),
        sa.Column("hidden", sa.Boolean, nullable=False),
    )
    op.create_index("ix_images_parent", "images", ["parent"])
    op.create_table(
        "names",
        sa.Column("name", sa.String(512), primary_key=True),
        sa.Column("repository", sa.String(400), nullable=False),
        sa.Column("is_digest", sa.Boolean, nullable=False),
        sa.Column("image_id", sa.String(80), nullable=False),
    )
    op.create_index("ix_names_repository", "names", ["repository"])
    op.create_index("ix_names_image_id", "names", ["image_id"])
    op.create_table(
        "layers",
        sa.Column("chain_id", sa.String(80), primary_key=True),
        sa.Column("diff_id", sa.String(80), nullable=False),
        sa.Column("parent", sa.String(80), nullable=False),
        sa.Column("blob", sa.String(80), nullable=False),
        sa.Column("media_type", sa.String(128), nullable=False),
        sa.Column("blob_bytes", sa.BigInteger, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_layers_diff_id", "layers", ["diff_id"])
    op.create_table(
        "image_layers",
        sa.Column("image_id", sa.String(80), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("chain_id", sa.String(80), nullable=False),
    )
    op.create_index("ix_image_layers_chain_id", "image_layers", ["chain_id"])
    op.create_table(
        "image_content",
        sa.Column("image_id", sa.String(80), primary_key=True),
        sa.Column("digest", sa.String(80), primary_key=True),
    )


def _create_leases() -> None:
    op.create_table(
        "leases",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("expires_ns", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "lease_items",
        sa.Column("lease_id", sa.String(64), primary_key=True),
        sa.Column("item", sa.String(80), primary_key=True),
    )


def _create_registry() -> None:
    op.create_table(
        "blob_sources",
        sa.Column("domain", sa.String(255), primary_key=True),
        sa.Column("digest", sa.String(80), primary_key=True),
        sa.Column("path", sa.String(255), primary_key=True),
    )
    op.create_table(
        "repository_tags",
        sa.Column("repository", sa.String(255), primary_key=True),
        sa.Column("tag", sa.String(128), primary_key=True),
        sa.Column("digest", sa.String(80), nullable=False),
    )
    op.create_table(
        "repository_manifests",
        sa.Column("repository", sa.String(255), primary_key=True),
        sa.Column("digest", sa.String(80), primary_key=True),
        sa.Column("media_type", sa.String(128), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("subject", sa.String(80), nullable=False),
        sa.Column("artifact_type", sa.String(255), nullable=False),
        sa.Column("annotations", sa.Text, nullable=False),
    )
    op.create_index("ix_repository_manifests_subject", "repository_manifests", ["subject"])
    op.create_table(
        "repository_blobs",
        sa.Column("repository", sa.String(255), primary_key=True),
        sa.Column("digest", sa.String(80), primary_key=True),
    )


def downgrade() -> None:
    for table in reversed(TABLES):
        op.drop_table(table)
    drop_outbox_tables(op)
