"""Joins the network service's parts."""

from __future__ import annotations

from services.network import ipam
from services.network.domain import Defaults
from services.network.handlers import NetworkHandlers
from services.network.joining import EndpointHandlers
from services.network.sql import NetworkStore
from shared.config import EngineConfig
from shared.service import ServiceContext


def defaults(config: EngineConfig) -> Defaults:
    """What the operator's configuration says about networks."""
    return Defaults(
        pools=[(pool.base, pool.size) for pool in config.default_address_pools] or ipam.DEFAULT_POOLS,
        bip=config.bip,
        mtu=config.mtu,
        icc=config.icc,
        host_binding_ip=config.ip,
    )


async def start(ctx: ServiceContext) -> None:
    """Make the predefined networks, then answer."""
    store = NetworkStore()
    networks = NetworkHandlers(ctx.required_database, ctx.bus, ctx.clock, store, defaults(ctx.config))
    await networks.ensure_predefined()
    await networks.serve()
    await EndpointHandlers(ctx.required_database, ctx.bus, store).serve()
