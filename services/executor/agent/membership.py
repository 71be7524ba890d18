"""A node as a member of a cluster: signs of life, and a certificate that is renewed before it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from services.executor.agent import host
from services.executor.agent.containers.records import NodeRecords
from shared.bus.client import EMPTY, Bus, Empty, node_token
from shared.cluster.membership import ClusterDirectory
from shared.contracts import cluster as contract
from shared.contracts.cluster import Heartbeat, RenewCertificate
from shared.contracts.node import ContainerOrder
from shared.errors import DavitError

log = logging.getLogger(__name__)

BEAT_EVERY_S = 0.5
RENEW_CHECKED_EVERY_S = 3600.0
RENEW_AGAIN_S = 60.0
LIVING = ("running", "paused", "restarting")


class Member:
    """This node's part in its cluster; outside of one, nothing but an ear for becoming a member.

    Args:
        spawn: Starts an owned background task.
    """

    def __init__(
        self,
        bus: Bus,
        node: str,
        directory: ClusterDirectory,
        records: NodeRecords,
        spawn: Callable[..., asyncio.Task[None]],
    ) -> None:
        self._bus = bus
        self._node = node
        self._directory = directory
        self._records = records
        self._spawn = spawn
        self._beating: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._bus.serve(contract.PING, self._ping, node=self._node)
        await self._bus.listen(contract.CHANGED, self._changed)
        self._follow()

    async def _ping(self, _: Empty) -> Empty:
        return EMPTY

    async def _changed(self, _: bytes) -> None:
        self._follow()

    def _follow(self) -> None:
        """Beat as a member; be quiet otherwise."""
        member = self._directory.membership() is not None
        if member and self._beating is None:
            self._beating = self._spawn(self._live(), name="signs of life")
        elif not member and self._beating is not None:
            self._beating.cancel()
            self._beating = None

    async def _live(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._beat_for_ever())
            tasks.create_task(self._renew_for_ever())

    async def _beat_for_ever(self) -> None:
        subject = f"{contract.HEARTBEATS}.{node_token(self._node)}"
        while True:
            living = [record.order for record in self._records.all() if record.status in LIVING]
            hosts = [order.host_config for order in living]
            beat = Heartbeat(
                node=self._node,
                memory_available_bytes=host.memory_available_bytes(),
                load=host.load(),
                containers=len(living),
                reserved_bytes=sum(one.memory_reservation or max(0, one.memory) for one in hosts),
                reserved_nano_cpus=sum(one.nano_cpus for one in hosts),
                ports=published(living),
            )
            try:
                await self._bus.publish(subject, beat.model_dump_json().encode())
            except DavitError as error:  # the bus is away; so are those who would hear it
                log.debug("no sign of life could be given: %s", error)
            await asyncio.sleep(BEAT_EVERY_S)

    async def _renew_for_ever(self) -> None:
        """Managers' agents too: a manager's gate shows the same certificate."""
        pause_s = 0.0
        while True:
            await asyncio.sleep(pause_s)
            pause_s = RENEW_CHECKED_EVERY_S
            try:
                await self._renew_if_due()
            except (DavitError, OSError) as error:
                log.warning("the node's certificate was not renewed: %s", error)
                pause_s = RENEW_AGAIN_S

    async def _renew_if_due(self) -> None:
        due_s = await asyncio.to_thread(_due_in_s, self._directory)
        if due_s > 0:
            return
        from shared.cluster.certificates import new_request

        key, csr = await asyncio.to_thread(new_request)
        renewed = await self._bus.request(
            contract.RENEW, RenewCertificate(node=self._node, csr=csr.decode()), node=self._node
        )
        membership = self._directory.membership()
        if membership is not None:
            membership.managers = renewed.managers
            self._directory.replace_certificate(membership, certificate=renewed.certificate.encode(), key=key)
            log.info("the node's certificate was renewed")


def published(orders: list[ContainerOrder]) -> list[str]:
    """``number/protocol`` of this machine that containers publish."""
    found = set()
    for order in orders:
        for attachment in order.attachments:
            found |= {f"{port.host_port}/{port.protocol}" for port in attachment.ports}
    return sorted(found)


def _due_in_s(directory: ClusterDirectory) -> float:
    """Read in a thread, once in an hour: `cryptography` is loaded for it, and only in members."""
    from shared.cluster.certificates import renew_in_s

    return renew_in_s(directory.certificate.read_bytes())
