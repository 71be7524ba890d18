"""What the network service answers. Decisions are in `domain`, `endpoints` and `ports`; rows in `sql`."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence

from services.network import domain, filters, ipam
from services.network.domain import Defaults, NetworkRecord
from services.network.hostnets import HostSubnets
from services.network.sql import EndpointRecord, KnownNetwork, NetworkStore, Source
from shared.bus.client import EMPTY, Bus, Empty
from shared.clock import Clock
from shared.contracts import networks as contract
from shared.contracts.networks import (
    ApplyNetwork,
    CreatedNetwork,
    CreateNetwork,
    EndpointView,
    ListNetworks,
    Network,
    NetworkRef,
    Networks,
    PrunedNetworks,
    PruneNetworks,
)
from shared.docker.filters import check_keys, truth, until_ns
from shared.docker.ids import meant
from shared.docker.moments import rfc3339
from shared.errors import Conflict, DavitError, Forbidden, InvalidArgument, NotFound
from shared.events.record import DomainEvent
from shared.state.database import Database, Transaction

log = logging.getLogger(__name__)


class NetworkHandlers:
    """One method per contract."""

    def __init__(
        self, database: Database, bus: Bus, clock: Clock, store: NetworkStore, defaults: Defaults, host: HostSubnets
    ) -> None:
        self._host = host
        self._database = database
        self._bus = bus
        self._clock = clock
        self._defaults = defaults
        self._store = store

    async def serve(self) -> None:
        await self._bus.serve(contract.CREATE, self.create)
        await self._bus.serve(contract.INSPECT, self.inspect)
        await self._bus.serve(contract.LIST, self.list_all)
        await self._bus.serve(contract.REMOVE, self.remove)
        await self._bus.serve(contract.PRUNE, self.prune)

    async def ensure_predefined(self) -> None:
        """Create host, none and bridge where they are missing, and make bridge what the operator wants it to be."""
        async with self._database.transaction() as tx:
            known = await self._store.networks(tx)
            present = {one.record.name: one for one in known}
            ids = {name: secrets.token_hex(32) for name in domain.PREDEFINED}
            for record in domain.networks_without_addresses(ids, self._now()):
                if record.name not in present:
                    await self._store.add_network(tx, record)
                    tx.emit(_event("create", record))
            await self._ensure_default(tx, known, present.get("bridge"), ids["bridge"])
        self._host.hold(_subnets(known))

    async def _ensure_default(
        self, tx: Transaction, known: Sequence[KnownNetwork], present: KnownNetwork | None, network_id: str
    ) -> None:
        """The default network. One that differs is replaced unless something is on it, as dockerd does at its start."""
        if present is not None:
            before = present.record
            wanted = self._default(known, before.id, before.created_at, before) if self._defaults.bridge else None
            if wanted == before:
                return
            if await self._store.of_network(tx, present):
                log.warning("the default network has endpoints: it stays as it is, whatever the configuration says")
                return
            await self._store.remove_network(tx, before.id)
            tx.emit(_event("destroy", before))
            if wanted is None:
                return
            record = wanted.model_copy(update={"id": network_id, "created_at": self._now()})
        elif self._defaults.bridge:
            record = self._default(known, network_id, self._now(), None)
        else:
            return
        await self._store.add_network(tx, record)
        tx.emit(_event("create", record))

    def _default(
        self, known: Sequence[KnownNetwork], network_id: str, created: str, before: NetworkRecord | None
    ) -> NetworkRecord:
        """The record of the default network, with a subnet that nobody on this machine has."""

        def made(taken: list[ipam.Net]) -> NetworkRecord:
            return domain.default_network(network_id, created, self._defaults, taken=taken, before=before)

        others = [one for one in known if one.record.name != "bridge"]
        keeps = before is not None and not before.user_pools
        return made(_subnets(others)) if keeps or self._defaults.user_pools else self._claimed(made, _subnets(others))

    def _claimed(self, make: Callable[[list[ipam.Net]], NetworkRecord], taken: list[ipam.Net]) -> NetworkRecord:
        """A network whose subnet was chosen, and that no other engine here is choosing.

        What the machine uses counts as taken, but for the last resort: a machine may have a route to everywhere.
        """
        used = [*taken, *self._host.in_use()]
        while True:
            try:
                record = make(used)
            except NotFound:
                return make(taken)
            four = record.pool(4)
            if four is None or self._host.claim(four.subnet):
                return record
            used.append(four.subnet)

    def _now(self) -> str:
        return rfc3339(self._clock.time_ns())

    # Networks

    async def create(self, request: CreateNetwork) -> CreatedNetwork:
        domain.check_name(request.name)
        async with self._database.transaction() as tx:
            known = await self._store.networks(tx)
            if any(one.record.name == request.name for one in known):
                raise Conflict(f"network with name {request.name} already exists", field="Name")
            request = _from_configuration(request, known)
            record = self._new(request, known)
            await self._store.add_network(tx, record)
            tx.emit(_event("create", record))
        log.info("network %s (%s) created", record.name, record.id[:12])
        return CreatedNetwork(id=record.id)

    def _new(self, request: CreateNetwork, known: Sequence[KnownNetwork]) -> NetworkRecord:
        network_id, created, bridges = secrets.token_hex(32), self._now(), [one.record.bridge for one in known]

        def made(taken: list[ipam.Net]) -> NetworkRecord:
            return domain.new_network(
                request,
                network_id=network_id,
                created_at=created,
                taken=taken,
                defaults=self._defaults,
                bridges=bridges,
            )

        chosen = bool(request.ipam and request.ipam.config)
        taken = [] if request.config_only else _subnets(known)
        return made(taken) if chosen or request.config_only else self._claimed(made, taken)

    async def inspect(self, request: NetworkRef) -> Network:
        async with self._database.read() as connection:
            known = find(await self._store.networks(connection), request.ref)
            return await self._view(connection, known, endpoints=True)

    async def list_all(self, request: ListNetworks) -> Networks:
        check_keys(request.filters, filters.LIST_FILTERS)
        truth(request.filters, "dangling")
        async with self._database.read() as connection:
            known = await self._store.networks(connection)
            used = await self._store.used_networks(connection) if "dangling" in request.filters else set()
            chosen = [
                one for one in known if filters.matches(one.record, request.filters, in_use=one.record.id in used)
            ]
            views = [await self._view(connection, one, endpoints=request.endpoints) for one in chosen]
        return Networks(networks=views)

    async def _view(self, source: Source, known: KnownNetwork, *, endpoints: bool) -> Network:
        view = known.record.view()
        if endpoints:
            view.endpoints = [_endpoint_view(record) for record in await self._store.of_network(source, known)]
        return view

    async def remove(self, request: NetworkRef) -> Empty:
        async with self._database.transaction() as tx:
            known = find(await self._store.networks(tx), request.ref)
            refusal = domain.remove_refusal(known.record)
            if refusal is not None:
                raise refusal
            if await self._store.of_network(tx, known):
                raise Forbidden(
                    f"error while removing network: network {known.record.name} id {known.record.id} "
                    "has active endpoints"
                )
            await self._store.remove_network(tx, known.record.id)
            tx.emit(_event("destroy", known.record))
        await self._withdraw([known])
        return EMPTY

    async def prune(self, request: PruneNetworks) -> PrunedNetworks:
        check_keys(request.filters, filters.PRUNE_FILTERS)
        now_ns = self._clock.time_ns()
        until_ns(request.filters, now_ns)
        removed: list[KnownNetwork] = []
        async with self._database.transaction() as tx:
            used = await self._store.used_networks(tx)
            for known in await self._store.networks(tx):
                record = known.record
                if record.predefined or record.id in used:
                    continue
                if filters.prunable(record, request.filters, now_ns):
                    await self._store.remove_network(tx, record.id)
                    tx.emit(_event("destroy", record))
                    removed.append(known)
            if removed:
                tx.emit(DomainEvent(type="network", action="prune", actor_id="", attributes={"reclaimed": "0"}))
        await self._withdraw(removed)
        return PrunedNetworks(names=[known.record.name for known in removed])

    async def _withdraw(self, removed: Sequence[KnownNetwork]) -> None:
        """Tell every agent; one that does not hear it asks for everything wanted when it is back."""
        self._host.release(_subnets(removed))
        for known in removed:
            body = ApplyNetwork(network=known.node_view).model_dump_json().encode()
            await hint(self._bus, contract.NETWORK_REMOVED, body)


async def hint(bus: Bus, subject: str, body: bytes) -> None:
    """Tell agents. They ask for the truth themselves from time to time, so a lost hint only delays."""
    try:
        await bus.publish(subject, body)
    except DavitError as error:
        log.warning("agents were not told (%s): %s", subject, error)


def find(known: Sequence[KnownNetwork], ref: str) -> KnownNetwork:
    """By full id, name, or a beginning of the id that only one has. Raises NotFound, InvalidArgument."""
    found = meant(ref, known, lambda one: one.record.id, lambda one: one.record.name) if ref else ()
    if len(found) > 1:
        raise InvalidArgument(f"network {ref} is ambiguous ({len(found)} matches found based on ID prefix)")
    if not found:
        raise NotFound(f"network {ref} not found")
    return found[0]


def _subnets(known: Sequence[KnownNetwork]) -> list[ipam.Net]:
    """What is taken. A configuration network has no addresses: its subnet is for those that are made from it."""
    return [pool.subnet for one in known if not one.record.config_only for pool in (one.four, one.six) if pool]


def _from_configuration(request: CreateNetwork, known: Sequence[KnownNetwork]) -> CreateNetwork:
    """A request that takes its configuration from a configuration network. Raises NotFound, InvalidArgument."""
    if not request.config_from:
        return request
    source = next((one.record for one in known if one.record.name == request.config_from), None)
    if source is None or not source.config_only:
        raise NotFound(f'configuration network "{request.config_from}" does not exist', field="ConfigFrom")
    if request.ipam and request.ipam.config:
        raise Forbidden(
            "user supplied configurations are not supported if the network depends on a configuration network"
        )
    return request.model_copy(
        update={
            "ipam": contract.Ipam(config=source.pools) if source.user_pools else None,
            "options": source.options | request.options,
            "labels": source.labels | request.labels,
            "enable_ipv6": source.enable_ipv6,
        }
    )


def _endpoint_view(record: EndpointRecord) -> EndpointView:
    body = record.attachment
    return EndpointView(
        container_id=body["container_id"],
        name=body.get("container_name", ""),
        endpoint_id=body["endpoint_id"],
        mac_address=body.get("mac_address", ""),
        ipv4_address=body.get("address", ""),
        ipv6_address=body.get("address6", ""),
    )


def _event(action: str, record: NetworkRecord) -> DomainEvent:
    return DomainEvent(
        type="network", action=action, actor_id=record.id, attributes={"name": record.name, "type": record.driver}
    )
