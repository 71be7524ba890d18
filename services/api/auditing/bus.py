"""The bus as routes get it: nothing is asked of a service before the request that asks is recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel

from services.api.auditing.request import current
from shared.contracts import containers, images, networks, volumes

if TYPE_CHECKING:
    from services.api.call import Requester
    from shared.bus.client import Contract

Req = TypeVar("Req", bound=BaseModel)
Rep = TypeVar("Rep", bound=BaseModel)


class AuditedBus:
    """Asks through another bus."""

    def __init__(self, bus: Requester) -> None:
        self._bus = bus

    async def request(
        self, contract: Contract[Req, Rep], payload: Req, *, node: str | None = None, deadline_s: float | None = None
    ) -> Rep:
        request = current()
        if request is not None:
            await request.before_effect()
        return await self._bus.request(contract, payload, node=node, deadline_s=deadline_s)


async def labels_of(bus: Requester, resource: str, name: str) -> dict[str, str]:
    """The labels of an object, for policies that ask for them. Raises DavitError when there is no such object."""
    match resource:
        case "container":
            container = await bus.request(containers.INSPECT, containers.InspectContainer(ref=name))
            return container.config.labels
        case "volume":
            return (await bus.request(volumes.INSPECT, volumes.VolumeRef(name=name))).labels
        case "network":
            return (await bus.request(networks.INSPECT, networks.NetworkRef(ref=name))).labels
        case "image":
            return (await bus.request(images.INSPECT, images.InspectImage(ref=name))).config.labels
        case _:
            return {}
