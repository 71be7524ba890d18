"""Telling control, at every connection and now and then, what this node has."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from services.executor.agent.containers.lifecycle import Containers
from services.executor.agent.execs.watching import Execs
from services.executor.agent.layers.store import NodeLayers
from shared.bus.client import Bus
from shared.contracts import node as contract
from shared.contracts.containers import NodeFacts
from shared.contracts.node import Inventory
from shared.docker.moments import rfc3339_now
from shared.errors import DavitError

log = logging.getLogger(__name__)

PERIOD_S = 10.0
RETRY_S = 0.5


class InventoryLoop:
    """Sends the inventory and removes what control says should not be here."""

    def __init__(
        self, bus: Bus, node: str, facts: NodeFacts, containers: Containers, execs: Execs, layers: NodeLayers
    ) -> None:
        self._bus = bus
        self._node = node
        self.facts = facts
        self._containers = containers
        self._execs = execs
        self._layers = layers
        self._renewed = asyncio.Event()

    def renew(self, facts: NodeFacts) -> None:
        """Tell control of changed facts soon."""
        self.facts = facts
        self._renewed.set()

    async def run(self) -> None:
        while True:
            try:
                await self._exchange()
            except DavitError as error:
                log.warning("inventory not delivered: %s", error)
                await asyncio.sleep(RETRY_S)
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._renewed.wait(), PERIOD_S)

    async def _exchange(self) -> None:
        self._renewed.clear()
        self._containers.records.catch_up()
        now = rfc3339_now()
        facts = self.facts.model_copy(update={"seen_at": now, "fetches_layers": not self._layers.shared})
        items = [record.inventory_item() for record in self._containers.records.all()]
        inventory = Inventory(node=self._node, facts=facts, items=items, execs=self._execs.running())
        answer = await self._bus.request(contract.INVENTORY, inventory, node=self._node)
        for container_id in answer.remove:
            try:
                await self._discard(container_id)
            except DavitError as error:
                log.warning("container %s could not be removed: %s", container_id[:12], error)

    async def _discard(self, container_id: str) -> None:
        """A container nobody wants: end its process if it has one, then forget it."""
        record = self._containers.records.find(container_id)
        if record is not None and record.status in ("running", "paused", "starting", "restarting"):
            await self._containers.stop(container_id, 9, 0)
        await self._containers.remove(container_id)
