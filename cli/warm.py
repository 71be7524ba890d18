"""What services have in common, imported once before the fork so that they share its memory."""

from __future__ import annotations

import gc
import importlib

from shared.config import EngineConfig

# Service -> the package whose __main__.main() runs it.
ENTRIES = {
    "image": "services.image",
    "network": "services.network",
    "volume": "services.volume",
    "control": "services.executor.control",
    "agent": "services.executor.agent",
    "api": "services.api",
}

_COMMON = (
    "asyncio",
    "uvloop",
    "orjson",
    "nats.aio.client",
    "nats.js.client",
    "sqlalchemy.ext.asyncio",
    "shared.service",
    "shared.eventstream",
    "shared.streams",
    "shared.leases",
    "shared.contracts.containers",
    "shared.contracts.images",
    "shared.contracts.networks",
    "shared.contracts.node",
    "shared.contracts.volumes",
)
_SQLITE = ("shared.sqlite", "sqlalchemy.dialects.sqlite.pysqlite")
_POSTGRES = ("asyncpg", "sqlalchemy.dialects.postgresql.asyncpg")
# The HTTP edge, all of it.
_HTTP = ("services.api.bootstrap",)


def warm_up(config: EngineConfig, services: list[str]) -> None:
    """Import, then move all objects out of the collector's sight so that a collection does not touch their pages."""
    names = [*_COMMON, *(_POSTGRES if config.database_url else _SQLITE)]
    if "api" in services:
        names += _HTTP
    for name in names:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
