"""What is stored. Migrations, which make the tables, are in `migrations/image`."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

images = sa.Table(
    "images",
    metadata,
    sa.Column("id", sa.String(80), primary_key=True),
    sa.Column("document", sa.Text, nullable=False),
    sa.Column("resolved", sa.Text, nullable=False),
    sa.Column("parent", sa.String(80), nullable=False, index=True),
    sa.Column("cache_key", sa.String(128), nullable=False, server_default=""),
    sa.Column("created_unix", sa.BigInteger, nullable=False),
    sa.Column("stored_ns", sa.BigInteger, nullable=False),
    sa.Column("last_tag_ns", sa.BigInteger, nullable=False),
    # Removed by force while containers use it: not shown any more, its layers stay until they are gone.
    sa.Column("hidden", sa.Boolean, nullable=False),
)

names = sa.Table(
    "names",
    metadata,
    sa.Column("name", sa.String(512), primary_key=True),
    sa.Column("repository", sa.String(400), nullable=False, index=True),
    sa.Column("is_digest", sa.Boolean, nullable=False),
    sa.Column("image_id", sa.String(80), nullable=False, index=True),
)

# Images of one index that a name stands for, by platform; `names` has the one that is meant when none is asked for.
name_variants = sa.Table(
    "name_variants",
    metadata,
    sa.Column("name", sa.String(512), primary_key=True),
    sa.Column("platform", sa.String(128), primary_key=True),
    sa.Column("index_digest", sa.String(80), nullable=False),
    sa.Column("image_id", sa.String(80), nullable=False, index=True),
)

layers = sa.Table(
    "layers",
    metadata,
    sa.Column("chain_id", sa.String(80), primary_key=True),
    sa.Column("diff_id", sa.String(80), nullable=False, index=True),
    sa.Column("parent", sa.String(80), nullable=False),
    sa.Column("blob", sa.String(80), nullable=False),
    sa.Column("media_type", sa.String(128), nullable=False),
    sa.Column("blob_bytes", sa.BigInteger, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
)

# What an image keeps alive: chain ids of layers, digests of its manifest, configuration and blobs.
image_layers = sa.Table(
    "image_layers",
    metadata,
    sa.Column("image_id", sa.String(80), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("chain_id", sa.String(80), nullable=False, index=True),
)
image_content = sa.Table(
    "image_content",
    metadata,
    sa.Column("image_id", sa.String(80), primary_key=True),
    sa.Column("digest", sa.String(80), primary_key=True),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("expires_ns", sa.BigInteger, nullable=False),
)
lease_items = sa.Table(
    "lease_items",
    metadata,
    sa.Column("lease_id", sa.String(64), primary_key=True),
    sa.Column("item", sa.String(80), primary_key=True),
)

# Where a blob can be mounted from when it is pushed to another repository of the same registry.
blob_sources = sa.Table(
    "blob_sources",
    metadata,
    sa.Column("domain", sa.String(255), primary_key=True),
    sa.Column("digest", sa.String(80), primary_key=True),
    sa.Column("path", sa.String(255), primary_key=True),
)

# The registry that this service is: what was pushed to it, or is shown there.
repository_tags = sa.Table(
    "repository_tags",
    metadata,
    sa.Column("repository", sa.String(255), primary_key=True),
    sa.Column("tag", sa.String(128), primary_key=True),
    sa.Column("digest", sa.String(80), nullable=False),
)
repository_manifests = sa.Table(
    "repository_manifests",
    metadata,
    sa.Column("repository", sa.String(255), primary_key=True),
    sa.Column("digest", sa.String(80), primary_key=True),
    sa.Column("media_type", sa.String(128), nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("subject", sa.String(80), nullable=False, index=True),
    sa.Column("artifact_type", sa.String(255), nullable=False),
    sa.Column("annotations", sa.Text, nullable=False),
)
repository_blobs = sa.Table(
    "repository_blobs",
    metadata,
    sa.Column("repository", sa.String(255), primary_key=True),
    sa.Column("digest", sa.String(80), primary_key=True),
)
