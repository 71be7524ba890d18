"""What control asks of the other services and of nodes, and how their errors become Docker's."""

from __future__ import annotations

from shared.bus import Bus
from shared.contracts import images, networks, node, volumes
from shared.contracts.images import ImageRef, ResolvedImage
from shared.contracts.networks import Joined, JoinNetworks, LeaveNetworks
from shared.contracts.node import ContainerOrder, Started
from shared.contracts.volumes import AcquireVolumes, ReleaseVolumes, Volume, WantedVolume


class Peers:
    """Short calls by name; each is one request on the bus."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus

    async def image(self, ref: str, platform: str) -> ResolvedImage:
        return await self.bus.request(images.RESOLVE, ImageRef(ref=ref, platform=platform or None))

    async def acquire(self, container_id: str, node_name: str, wanted: list[WantedVolume]) -> list[Volume]:
        request = AcquireVolumes(container_id=container_id, node=node_name, volumes=wanted)
        return (await self.bus.request(volumes.ACQUIRE, request)).volumes

    async def release_volumes(self, container_id: str, *, remove_anonymous: bool) -> None:
        request = ReleaseVolumes(container_id=container_id, remove_anonymous=remove_anonymous)
        await self.bus.request(volumes.RELEASE, request)

    async def join(self, request: JoinNetworks) -> Joined:
        return await self.bus.request(networks.JOIN, request)

    async def leave(self, container_id: str, network: str | None = None) -> None:
        await self.bus.request(networks.LEAVE, LeaveNetworks(container_id=container_id, network=network))

    async def start(self, node_name: str, order: ContainerOrder) -> Started:
        return await self.bus.request(node.START, order, node=node_name)
