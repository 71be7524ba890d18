"""Containers joining and leaving networks. On the path of every container's start: see `sql` for what it costs."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence

from services.network import endpoints, ports
from services.network.domain import NetworkRecord
from services.network.endpoints import Asker, Wanted
from services.network.handlers import find, hint
from services.network.sql import EndpointRecord, KnownNetwork, NetworkStore, Occupancy
from shared.bus.client import ANY_NODE, EMPTY, Bus, Empty
from shared.bus.context import check_node
from shared.contracts import networks as contract
from shared.contracts.docker import EndpointSettings
from shared.contracts.networks import (
    Attachment,
    ConnectNetwork,
    Joined,
    JoinNetworks,
    LeaveNetworks,
    Left,
    NodeNetworks,
    NodeNetworksRequest,
    RenameEndpoints,
)
from shared.errors import Conflict, Forbidden, InvalidArgument
from shared.events.record import DomainEvent
from shared.state.database import Database, Transaction

log = logging.getLogger(__name__)


NEAR_PORTS = 64


class EndpointHandlers:
    """One method per contract."""

    def __init__(self, database: Database, bus: Bus, store: NetworkStore) -> None:
        self._database = database
        self._bus = bus
        self._store = store
        self._next_ephemeral = ports.EPHEMERAL.start

    async def serve(self) -> None:
        await self._bus.serve(contract.JOIN, self.join)
        await self._bus.serve(contract.CONNECT, self.connect)
        await self._bus.serve(contract.LEAVE, self.leave)
        await self._bus.serve(contract.RENAME, self.rename)
        await self._bus.serve(contract.NODE_WANTED, self.node_wanted, node=ANY_NODE)

    async def join(self, request: JoinNetworks) -> Joined:
        """Give a container all of its endpoints, in one transaction.

        Raises:
            NotFound: A network does not exist.
            Conflict: A port is taken, in Docker's words.
        """
        asker = Asker(request.container_id, request.container_name.lstrip("/"), request.hostname)
        async with self._database.transaction() as tx:
            places = await self._places(tx, request.container_id, list(request.networks))
            kept = [(one.network, one.own) for one, _ in places if one.own is not None]
            if kept and len(kept) == len(places) and not request.avoid:
                await self._keep_for(tx, request.generation, kept)
                return _joined(kept, request.exposed)
            if kept:  # joined to fewer networks before, or with ports that cannot be had: begin again
                await self._drop(tx, kept)
                places = await self._places(tx, request.container_id, list(request.networks))
            made = await self._make(tx, asker, _primary_first(places, request))
            gateway = endpoints.choose_gateway([(one, settings.gw_priority) for one, settings in made])
            if gateway is not None:
                gateway.default_gateway = True
                await self._publish_ports(tx, gateway, request)
            joined = await self._add(tx, request.node, made, request.generation)
        await self._records(contract.RECORD_ADDED, [attachment for attachment, _ in made])
        return _joined(joined, request.exposed)

    async def _keep_for(
        self, tx: Transaction, generation: int, kept: Sequence[tuple[KnownNetwork, EndpointRecord]]
    ) -> None:
        """What an earlier start has not given back yet is this start's now."""
        for _, record in kept:
            if record.generation < generation:
                record.generation = generation
                await self._store.update_endpoint(tx, record)

    async def connect(self, request: ConnectNetwork) -> Joined:
        """One endpoint more, for a container that runs. Idempotent: the same again answers the same.

        Raises:
            Forbidden: It has another one there.
        """
        async with self._database.transaction() as tx:
            present = await self._store.of_container(tx, request.container_id)
            places = await self._places(tx, request.container_id, [request.network])
            record = places[0][0].network.record
            if record.driver in ("host", "null"):
                raise InvalidArgument(
                    "container cannot be disconnected from host network or connected to host network"
                    if record.driver == "host"
                    else "container cannot be connected to multiple networks with one of the networks in private "
                    "(none) mode"
                )
            own = places[0][0].own
            if own is not None and endpoints.same_wish(own.settings, request.settings):
                return _joined([(places[0][0].network, own)], [])
            if own is not None:
                raise Forbidden(f"endpoint with name {request.container_name} already exists in network {record.name}")
            used = [record.attachment.get("interface", "eth0") for _, record in present]
            asker = Asker(request.container_id, request.container_name.lstrip("/"), request.hostname)
            made = await self._make(tx, asker, [(places[0][0], request.settings)], used)
            before = [(one.on(network), one.priority) for network, one in present]
            gateway = endpoints.choose_gateway([*before, (made[0][0], request.settings.gw_priority)])
            made[0][0].default_gateway = gateway is made[0][0]
            joined = await self._add(tx, request.node, made, request.generation)
        await self._records(contract.RECORD_ADDED, [made[0][0]])
        return _joined(joined, [])

    async def leave(self, request: LeaveNetworks) -> Left:
        async with self._database.transaction() as tx:
            present = await self._store.of_container(tx, request.container_id)
            if request.network is not None:
                wanted = (request.network,)
                present = [(net, one) for net, one in present if net.record.name in wanted or net.record.id in wanted]
            upto = request.generation
            leaving = [(net, one) for net, one in present if upto is None or one.generation <= upto]
            left = await self._drop(tx, leaving) if leaving else []
        await self._records(contract.RECORD_REMOVED, left)
        return Left(attachments=left, kept=len(left) < len(present))

    async def rename(self, request: RenameEndpoints) -> Empty:
        name = request.container_name.lstrip("/")
        changed: list[Attachment] = []
        async with self._database.transaction() as tx:
            for network, record in await self._store.of_container(tx, request.container_id):
                attachment = record.on(network)
                old = attachment.container_name
                attachment.container_name = name
                attachment.dns_names = [name if one == old else one for one in attachment.dns_names]
                record.settings.dns_names = attachment.dns_names
                fresh = EndpointRecord.of(attachment, record.settings, record.generation)
                await self._store.update_endpoint(tx, fresh)
                changed.append(attachment)
        await self._records(contract.RECORD_ADDED, changed)
        return EMPTY

    async def node_wanted(self, request: NodeNetworksRequest) -> NodeNetworks:
        check_node(request.node)
        async with self._database.read() as connection:
            known = await self._store.networks(connection)
            everywhere = await self._store.every_endpoint(connection)
        return NodeNetworks(
            networks=[one.node_view for one in known if one.record.bridge and not one.record.config_only],
            attachments=[record.on(network) for network, record in everywhere if network.record.has_names],
        )

    async def _places(self, tx: Transaction, container_id: str, refs: list[str]) -> list[tuple[Occupancy, str]]:
        """The networks asked for, in the order asked for. Raises NotFound."""
        found = await self._store.occupancy(tx, container_id, ["bridge" if ref == "default" else ref for ref in refs])
        by_name = {key: one for one in found for key in (one.network.record.name, one.network.record.id)}
        places = []
        for ref in refs:
            place = by_name.get("bridge" if ref == "default" else ref)
            if place is None:  # an id prefix
                known = find(await self._store.networks(tx), ref)
                (place,) = await self._store.occupancy(tx, container_id, [known.record.id])
            places.append((place, ref))
        return places

    async def _make(
        self,
        tx: Transaction,
        asker: Asker,
        asked: Sequence[tuple[Occupancy, EndpointSettings]],
        used: Sequence[str] = (),
    ) -> list[tuple[Attachment, EndpointSettings]]:
        made = []
        wishes = [(place.network.record, settings) for place, settings in asked]
        for interface, (place, settings) in zip(endpoints.interface_names(wishes, used), asked, strict=True):
            links = await self._links(tx, place, settings)
            wanted = Wanted(place, settings, links)
            made.append((endpoints.new_endpoint(asker, wanted, interface, secrets.token_hex(32)), settings))
        return made

    async def _links(self, tx: Transaction, place: Occupancy, settings: EndpointSettings) -> dict[str, str]:
        if not settings.links:
            return {}
        there = [record.on(place.network) for record in await self._store.of_network(tx, place.network)]
        by_name = {key: one for one in there for key in (one.container_name, one.container_id)}
        return endpoints.resolve_links(place, settings.links, by_name.get)

    async def _publish_ports(self, tx: Transaction, gateway: Attachment, request: JoinNetworks) -> None:
        wishes = endpoints.port_wishes(gateway, request.ports, request.exposed, publish_all=request.publish_all)
        if not wishes:
            return
        fixed = {port for wish in wishes if wish.allowed is not None for port in wish.allowed}
        any_port = any(wish.allowed is None for wish in wishes)
        endpoint = f"{gateway.container_name} ({gateway.endpoint_id})"
        # What follows the last one given out is nearly always free; the whole range is read only when it is not.
        near = range(self._next_ephemeral, min(self._next_ephemeral + NEAR_PORTS, ports.EPHEMERAL.stop))
        for window in (near, ports.EPHEMERAL):
            taken = await self._store.taken_ports(tx, request.node, fixed, window if any_port else range(0))
            for one in request.avoid:
                taken.setdefault((one.protocol, one.port), set()).update(ports.ANY.values())
            try:
                gateway.ports = ports.allocate(wishes, taken, endpoint=endpoint, ephemeral=window)
                break
            except Conflict:
                if not any_port or window == ports.EPHEMERAL:
                    raise
        # Not the same port again right after it was let go, as Docker does it.
        last = max((port.host_port for port in gateway.ports if port.host_port in ports.EPHEMERAL), default=0)
        if last:
            self._next_ephemeral = last + 1 if last + 1 in ports.EPHEMERAL else ports.EPHEMERAL.start

    async def _add(
        self, tx: Transaction, node: str, made: Sequence[tuple[Attachment, EndpointSettings]], generation: int
    ) -> list[tuple[KnownNetwork, EndpointRecord]]:
        added, joined = [], []
        for attachment, settings in made:
            record = EndpointRecord.of(attachment, endpoints.settings_view(attachment, settings), generation)
            added.append((attachment, record))
            network = self._store.known(attachment.network.id)
            joined.append((network, record))
            tx.emit(_endpoint_event("connect", network.record, attachment.container_id, node))
        await self._store.add_endpoints(tx, node, added)
        return joined

    async def _drop(self, tx: Transaction, present: Sequence[tuple[KnownNetwork, EndpointRecord]]) -> list[Attachment]:
        await self._store.remove_endpoints(tx, [record for _, record in present])
        left = [record.on(network) for network, record in present]
        for (network, _), attachment in zip(present, left, strict=True):
            tx.emit(_endpoint_event("disconnect", network.record, attachment.container_id, None))
        return left

    async def _records(self, subject: str, attachments: Sequence[Attachment]) -> None:
        for attachment in attachments:
            if attachment.network.dns:
                await hint(self._bus, subject, attachment.model_dump_json().encode())


def _primary_first(
    places: Sequence[tuple[Occupancy, str]], request: JoinNetworks
) -> list[tuple[Occupancy, EndpointSettings]]:
    primary = "bridge" if request.primary in ("default", "") else request.primary
    ordered = sorted(
        places, key=lambda one: primary not in (one[1], one[0].network.record.name, one[0].network.record.id)
    )
    return [(place, request.networks[ref]) for place, ref in ordered]


def _joined(present: Sequence[tuple[KnownNetwork, EndpointRecord]], exposed: Sequence[str]) -> Joined:
    attachments = [record.on(network) for network, record in present]
    published = [port for attachment in attachments for port in attachment.ports]
    return Joined(
        attachments=[one for one in attachments if one.interface],
        settings={network.record.name: record.settings for network, record in present},
        ports=ports.port_map(published, exposed),
    )


def _endpoint_event(action: str, record: NetworkRecord, container_id: str, node: str | None) -> DomainEvent:
    return DomainEvent(
        type="network",
        action=action,
        actor_id=record.id,
        attributes={"container": container_id, "name": record.name, "type": record.driver},
        node=node,
    )
