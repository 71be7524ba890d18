"""Connect and disconnect: a container's networks, while it runs and for its next start."""

from __future__ import annotations

from services.executor.control.creation.record import check_endpoint
from services.executor.control.domain import Record
from services.executor.control.peers import Peers
from services.executor.control.state.records import Records
from shared.bus.client import EMPTY, Empty
from shared.contracts import networks, node
from shared.contracts.containers import ConnectContainer, DisconnectContainer
from shared.contracts.docker import EndpointSettings
from shared.contracts.networks import ConnectNetwork, Joined, Network
from shared.contracts.node import AttachNetwork, DetachNetwork
from shared.errors import Conflict, DavitError, Forbidden, InvalidArgument, NotFound
from shared.events.record import DomainEvent

# How long the end of a container is waited for whose node says that it does not run.
ENDING_S = 1.0


class Connecting:
    """Handlers of CONNECT and DISCONNECT."""

    def __init__(self, records: Records, peers: Peers) -> None:
        self._records = records
        self._peers = peers
        self._bus = peers.bus

    async def _network(self, ref: str) -> Network:
        return await self._bus.request(networks.INSPECT, networks.NetworkRef(ref=ref))

    async def connect(self, request: ConnectContainer) -> Empty:
        record = await self._records.find_settled(request.ref)
        if record.status in ("removing", "dead"):
            raise Conflict(f"container {record.id} is marked for removal and cannot be connected to a network")
        mode = record.container.host_config.network_mode
        if mode == "host" or mode.startswith("container:"):
            raise InvalidArgument(
                "container sharing network namespace with another container or host cannot be connected to any other "
                "network"
            )
        if request.network == "host":
            raise InvalidArgument(
                "container cannot be disconnected from host network or connected to host network", field="Network"
            )
        if mode == "none" or request.network == "none":
            raise InvalidArgument(
                "container cannot be connected to multiple networks with one of the networks in private (none) mode"
            )
        check_endpoint(request.settings)
        network = await self._network(request.network)
        known = _reference_to(network, record)
        if known is not None and record.alive:
            raise Forbidden(f"endpoint with name {record.name} already exists in network {network.name}")
        joined = await self._join_now(record, network, request.settings) if record.alive else None

        def apply(current: Record) -> list[DomainEvent]:
            current.requested_networks[known or network.name] = request.settings  # of one that does not run: anew
            if joined is None:
                current.container.networks[network.name] = request.settings
            else:
                current.container.networks |= joined.settings
                current.attachments += joined.attachments
            return []

        await self._records.change(record, apply)
        return EMPTY

    async def _join_now(self, record: Record, network: Network, settings: EndpointSettings) -> Joined | None:
        """None when it has just ended: then it joins with its next start."""
        joined = await self._bus.request(
            networks.CONNECT,
            ConnectNetwork(
                container_id=record.id,
                container_name=record.name,
                hostname=record.hostname,
                node=record.node,
                network=network.name,
                settings=settings,
                generation=record.generation,
            ),
        )
        try:
            for attachment in joined.attachments:
                order = AttachNetwork(id=record.id, attachment=attachment)
                await self._bus.request(node.ATTACH_NETWORK, order, node=record.node)
        except DavitError as error:
            await self._peers.leave(record.id, network.name)
            if isinstance(error, Conflict) and not await self._runs(record):
                return None
            raise
        return joined

    async def _runs(self, record: Record) -> bool:
        """Whether it still runs, once what its node has to report of it has had time to come."""
        current = await self._records.until(
            record.id, lambda now: now is None or not now.alive or now.generation > record.generation, ENDING_S
        )
        return current is not None and current.alive

    async def disconnect(self, request: DisconnectContainer) -> Empty:
        network = await self._network(request.network)
        try:
            record = await self._records.find_settled(request.ref)
        except NotFound:
            if not request.force:
                raise
            await self._peers.leave(request.ref, network.name)
            return EMPTY
        reference = _reference_to(network, record)
        if reference is None and network.name not in record.container.networks:
            raise Forbidden(f"container {record.id} is not connected to network {network.name}")
        if record.alive:
            for attachment in record.attachments:
                if attachment.network.id == network.id:
                    order = DetachNetwork(id=record.id, endpoint_id=attachment.endpoint_id)
                    await self._bus.request(node.DETACH_NETWORK, order, node=record.node)
            await self._peers.leave(record.id, network.name)

        def apply(current: Record) -> list[DomainEvent]:
            current.requested_networks.pop(_reference_to(network, current) or "", None)
            current.container.networks.pop(network.name, None)
            current.attachments = [one for one in current.attachments if one.network.id != network.id]
            return []

        await self._records.change(record, apply)
        return EMPTY


def _reference_to(network: Network, record: Record) -> str | None:
    """The word by which a container asks for a network: its name, its id, or the beginning of it."""
    for reference in record.requested_networks:
        if reference in (network.name, network.id) or (len(reference) >= 4 and network.id.startswith(reference)):
            return reference
    return None
