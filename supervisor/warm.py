"""What services run, imported once before the fork so that they share its memory."""

from __future__ import annotations

import gc
import importlib
import logging
import sys

from shared.config import EngineConfig
from supervisor import holes

log = logging.getLogger(__name__)

# Service -> the package whose __main__.main() runs it.
ENTRIES = {
    "image": "services.image",
    "network": "services.network",
    "volume": "services.volume",
    "control": "services.executor.control",
    "agent": "services.executor.agent",
    "audit": "services.audit",
    "api": "services.api",
}

_COMMON = (
    "asyncio",
    "uvloop",
    "orjson",
    "nats.aio.client",
    "nats.js.client",
    "sqlalchemy",
    "shared.service",
    "shared.events.stream",
    "shared.bus.streams",
    "shared.bus.leases",
    "shared.contracts.audit",
    "shared.contracts.containers",
    "shared.contracts.images",
    "shared.contracts.networks",
    "shared.contracts.node",
    "shared.contracts.volumes",
)
_SQLITE = ("shared.state.sqlite",)
_POSTGRES = ("shared.state.postgres",)


# What has been done: services' names, and True or False for the kind of database.
_warm: set[str | bool] = set()


def warm_up(config: EngineConfig, services: list[str]) -> None:
    """Import what the services run, then move all objects out of the collector's sight.

    Also what only one service uses: imported before the fork it lies in pages that nobody writes to; imported after
    it, it fills holes in shared pages, which unshares them (measured: 20 MB against 10 MB private per service), and a
    service that died would have to import it all again.
    """
    wanted: tuple[str | bool, ...] = (bool(config.database_url), *services)
    if all(part in _warm for part in wanted):
        return  # this process is a fork of one that did
    _warm.update(wanted)
    for name in (*_COMMON, *(_POSTGRES if config.database_url else _SQLITE)):
        importlib.import_module(name)
    for service in services:
        try:
            importlib.import_module(f"{ENTRIES[service]}.bootstrap")
            importlib.import_module(f"{ENTRIES[service]}.__main__")
        except ImportError as error:
            # Said again, and to the one who started the engine, by the service itself.
            log.error("service %s cannot be imported: %s", service, error)
    _compile_statements(config)
    if "api" in services:
        importlib.import_module("services.api.app").own_table()
    gc.collect()
    holes.fill()
    gc.freeze()


def _compile_statements(config: EngineConfig) -> None:
    """Compile every statement, so that no service has to wake the compiler."""
    from shared.state.statements import Prepared

    dialect = importlib.import_module("shared.state.postgres" if config.database_url else "shared.state.sqlite").DIALECT
    for module in [module for name, module in sys.modules.items() if name.startswith(("services.", "shared."))]:
        for value in vars(module).values():
            for statement in value if isinstance(value, tuple) else (value,):
                if isinstance(statement, Prepared):
                    statement.compiled(dialect)
