"""Joins the network service's parts."""

from __future__ import annotations

from services.network import hostnets, ipam
from services.network.domain import Defaults
from services.network.handlers import NetworkHandlers
from services.network.hostnets import HostSubnets
from services.network.joining import EndpointHandlers
from services.network.sql import NetworkStore
from shared.config import EngineConfig
from shared.service import ServiceContext


def defaults(config: EngineConfig) -> Defaults:
    """What the operator's configuration says about networks. Raises InvalidArgument when a bridge is not there."""
    foreign = bool(config.bridge and config.default_bridge)
    return Defaults(
        pools=[(pool.base, pool.size) for pool in config.default_address_pools] or ipam.DEFAULT_POOLS,
        bridge=config.default_bridge,
        foreign_bridge=foreign,
        bip=hostnets.address_of(config.bridge) if foreign else config.bip,
        fixed_cidr=config.fixed_cidr,
        masquerade=config.ip_masq,
        mtu=config.mtu,
        icc=config.icc,
        host_binding_ip=config.ip,
    )


async def start(ctx: ServiceContext) -> None:
    """Make the predefined networks, then answer."""
    store = NetworkStore()
    host = HostSubnets()
    networks = NetworkHandlers(ctx.required_database, ctx.bus, ctx.clock, store, defaults(ctx.config), host)
    await networks.ensure_predefined()
    await networks.serve()
    await EndpointHandlers(ctx.required_database, ctx.bus, store).serve()
