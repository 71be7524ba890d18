"""Joins the edge's parts: configuration, bus, application, listeners."""

from __future__ import annotations

import functools
import uuid

from services.api.app import build_app
from services.api.auditing.bus import AuditedBus, labels_of
from services.api.auditing.request import Auditing
from services.api.call import Deps, EngineFacts
from services.api.cluster.door import Door
from services.api.reads import Reads
from services.api.server import EdgeServer, Listener, TlsSettings, inherited_listener, open_listener
from shared.auditing.policy import Policy
from shared.auditing.recorder import recorder_of
from shared.bus import streams
from shared.cluster.membership import ClusterDirectory
from shared.config import EngineConfig, ProcessSettings
from shared.contracts.builds import socket_path
from shared.contracts.cluster import CHANGED
from shared.errors import InvalidArgument
from shared.events import stream
from shared.service import ServiceContext
from shared.state.mark import mark_of
from shared.version import VERSION

# The services with a database that answers are made from.
OWNERS = ("control", "image", "network", "volume")
ENGINE_NAMESPACE = uuid.UUID("6f0f1b44-58c5-4b9e-9a3c-6a4c7e6f2d10")


def facts_of(config: EngineConfig) -> EngineFacts:
    return EngineFacts(
        version=VERSION,
        engine_id=str(uuid.uuid5(ENGINE_NAMESPACE, f"{config.node}:{config.data_root}")),
        node=config.node,
        data_root=str(config.data_root),
        labels=tuple(config.labels),
        registry_mirrors=tuple(config.registry_mirrors),
        insecure_registries=tuple(config.insecure_registries),
        log_driver=config.log_driver,
        debug=config.debug,
        builds=str(socket_path(config.run_dir)),
        live_restore=config.live_restore,
        address_pools=tuple({"base": pool.base, "size": pool.size} for pool in config.default_address_pools),
    )


def tls_of(config: EngineConfig) -> TlsSettings | None:
    """TLS for TCP listeners, as dockerd's four keys say it; None without."""
    if not (config.tls or config.tlsverify):
        return None
    for key, value in (("tlscert", config.tlscert), ("tlskey", config.tlskey)):
        if not value:
            raise InvalidArgument(f"configuration key {key}: TLS needs it", field=key)
    if config.tlsverify and not config.tlscacert:
        raise InvalidArgument("configuration key tlscacert: tlsverify needs it", field="tlscacert")
    return TlsSettings(config.tlscert, config.tlskey, config.tlscacert, config.tlsverify)


def allows_insecure_tcp(config: EngineConfig) -> bool:
    """Whether the operator wrote down that clients are not verified: ``tlsverify`` or ``tls`` set to false."""
    said = {name for name in ("tls", "tlsverify") if name in config.model_fields_set and not getattr(config, name)}
    return bool(said)


def listeners_of(config: EngineConfig, inherited: dict[str, int]) -> list[Listener]:
    """All listeners, or none: a host that cannot be bound closes the ones before it."""
    tls = tls_of(config)
    opened: list[Listener] = []
    try:
        for host in config.api_hosts:
            if host in inherited:
                opened.append(inherited_listener(host, inherited[host], tls=tls))
            else:
                insecure = allows_insecure_tcp(config)
                opened.append(open_listener(host, tls=tls, allow_insecure=insecure, group=config.group))
    except BaseException:
        for listener in opened:
            listener.socket.close()
        raise
    return opened


def auditing_of(context: ServiceContext) -> Auditing:
    """Where requests are recorded. Raises InvalidArgument for a policy that cannot be read."""
    recorder = recorder_of(context)
    return Auditing(recorder, Policy.read(context.config.audit_policy), functools.partial(labels_of, context.bus))


async def follow_membership(context: ServiceContext, deps: Deps) -> None:
    """Know which cluster this machine is in, and open the door to it as its manager."""
    directory = ClusterDirectory(context.config.data_root)
    door = Door(context.bus, directory)

    async def changed(_: bytes = b"") -> None:
        deps.membership = directory.membership()
        await door.follow(deps.membership)

    await context.bus.listen(CHANGED, changed)
    await changed()
    context.on_close(door.close)


async def start(context: ServiceContext) -> None:
    bus = context.bus
    auditing = auditing_of(context)
    deps = Deps(
        bus=AuditedBus(bus),
        offer=functools.partial(streams.offer, bus),
        follow=functools.partial(stream.follow, bus),
        facts=facts_of(context.config),
        reads=Reads({name: mark_of(context.config.database, name) for name in OWNERS}),
    )
    await follow_membership(context, deps)
    server = EdgeServer(build_app(deps, auditing))
    context.on_close(auditing.close)
    context.on_close(server.close)

    async def reload(config: EngineConfig) -> None:
        policy = Policy.read(config.audit_policy)
        auditing.policy, auditing.recorder.mode = policy, config.audit_mode
        deps.facts = facts_of(config)
        server.use_tls(tls_of(config))

    context.on_reload(reload)
    for listener in listeners_of(context.config, ProcessSettings.load().listen_fds):
        await server.listen(listener)
