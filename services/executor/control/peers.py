"""What control asks of the other services and of nodes, by name; each is one request on the bus."""

from __future__ import annotations

from collections.abc import Sequence

from services.executor.control.domain import Record
from shared.bus.client import Bus
from shared.contracts import images, networks, node, volumes
from shared.contracts.docker import EndpointSettings
from shared.contracts.images import ImageRef, ResolvedImage
from shared.contracts.networks import HostPort, Joined, JoinNetworks, LeaveNetworks, Left
from shared.contracts.node import (
    ContainerId,
    ExitRecord,
    PrepareContainer,
    RemoveOrder,
    SignalOrder,
    Started,
    StopOrder,
)
from shared.contracts.volumes import AcquireVolumes, ListVolumes, ReleaseVolumes, Volume, WantedVolume
from shared.errors import NotFound


class Peers:
    """Errors are the other side's own; Unavailable and DeadlineExceeded when it does not answer."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus

    # Images and volumes

    async def image(self, ref: str, platform: str) -> ResolvedImage:
        return await self.bus.request(images.RESOLVE, ImageRef(ref=ref, platform=platform or None))

    async def acquire(self, container_id: str, node_name: str, wanted: list[WantedVolume]) -> list[Volume]:
        request = AcquireVolumes(container_id=container_id, node=node_name, volumes=wanted)
        return (await self.bus.request(volumes.ACQUIRE, request)).volumes

    async def release_volumes(self, container_id: str, *, remove_anonymous: bool) -> None:
        request = ReleaseVolumes(container_id=container_id, remove_anonymous=remove_anonymous)
        await self.bus.request(volumes.RELEASE, request)

    async def volume_node(self, name: str) -> str:
        """The node that a volume lies on; empty for one that is not there yet."""
        try:
            return (await self.bus.request(volumes.INSPECT, volumes.VolumeRef(name=name))).node
        except NotFound:
            return ""

    async def volumes(self) -> list[Volume]:
        return (await self.bus.request(volumes.LIST, ListVolumes())).volumes

    # Networks

    async def join(self, record: Record, generation: int, avoid: Sequence[HostPort] = ()) -> Joined:
        """Endpoints, addresses and published ports for a start. Idempotent.

        Args:
            avoid: Host ports that somebody else has, whatever the network service knows.
        """
        host, config = record.container.host_config, record.container.config
        request = JoinNetworks(
            container_id=record.id,
            container_name=record.name,
            hostname=record.hostname,
            node=record.node,
            networks=_with_links(record),
            ports=host.port_bindings,
            exposed=[] if host.network_mode in ("host", "none") else list(config.exposed_ports),
            publish_all=host.publish_all_ports,
            primary=host.network_mode,
            generation=generation,
            avoid=list(avoid),
        )
        return await self.bus.request(networks.JOIN, request)

    async def leave(self, container_id: str, network: str | None = None, *, generation: int | None = None) -> Left:
        """Give endpoints back; with `generation`, only those for starts up to it."""
        request = LeaveNetworks(container_id=container_id, network=network, generation=generation)
        return await self.bus.request(networks.LEAVE, request)

    # The container's node

    async def prepare(self, record: Record) -> None:
        await self.bus.request(node.PREPARE, PrepareContainer(order=record.order()), node=record.node)

    async def start(self, record: Record) -> Started:
        return await self.bus.request(node.START, record.order(), node=record.node)

    async def stop(self, record: Record, signal: int, timeout_s: int) -> ExitRecord:
        return await self.bus.request(
            node.STOP, StopOrder(id=record.id, signal=signal, timeout_s=timeout_s), node=record.node
        )

    async def signal(self, record: Record, number: int, *, deliberate: bool) -> None:
        order = SignalOrder(id=record.id, signal=number, deliberate=deliberate)
        await self.bus.request(node.SIGNAL, order, node=record.node)

    async def pause(self, record: Record) -> None:
        await self.bus.request(node.PAUSE, ContainerId(id=record.id), node=record.node)

    async def unpause(self, record: Record) -> None:
        await self.bus.request(node.UNPAUSE, ContainerId(id=record.id), node=record.node)

    async def remove(self, record: Record) -> None:
        await self.bus.request(node.REMOVE, RemoveOrder(id=record.id), node=record.node)


def _with_links(record: Record) -> dict[str, EndpointSettings]:
    """What is asked of each network; of the default bridge also lines of /etc/hosts for links."""
    if not record.links:
        return record.requested_networks
    texts = [f"{target}:{alias}" for alias, target in record.links.items()]
    return {
        ref: settings.model_copy(update={"links": texts}) if ref in ("bridge", "default") else settings
        for ref, settings in record.requested_networks.items()
    }
