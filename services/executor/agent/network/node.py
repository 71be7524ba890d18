"""`NodeNetwork`: what the rest of the agent uses of this package.

Kernel work runs on one worker thread, names and proxies in the loop. Packets flow without the agent; names (127.0.0.11)
and IPv6 ports of IPv4 containers need it, and come back when it adopts the containers after a restart.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from pydantic import ValidationError

from services.executor.agent.network import dns, files
from services.executor.agent.network.dns import DnsServer, DnsView
from services.executor.agent.network.dnsrecords import NameRecords
from services.executor.agent.network.kernel import KernelNetwork
from services.executor.agent.network.policy import NetworkPolicy
from services.executor.agent.network.proxy import PortProxy
from services.executor.agent.network.sandbox import Sandbox, SandboxPool
from shared.bus.client import EMPTY, Bus, Contract, Empty
from shared.config import EngineConfig
from shared.contracts import networks as contract
from shared.contracts.networks import ApplyNetwork, Attachment, NodeNetworks, NodeNetworksRequest
from shared.errors import DavitError

log = logging.getLogger(__name__)

CHECK_INTERVAL_S = 1.0
REFRESH_RETRY_S = 1.0
# The truth is asked for again this often, for the broadcasts that were missed.
REFRESH_INTERVAL_S = 60.0

HEARD_RECORDS = 1000

RecordChange = Callable[[Attachment], None]
P = ParamSpec("P")
R = TypeVar("R")

_RECORD_ADDED = Contract(contract.RECORD_ADDED, Attachment, Empty)
_NETWORK_REMOVED = Contract(contract.NETWORK_REMOVED, ApplyNetwork, Empty)
_RECORD_REMOVED = Contract(contract.RECORD_REMOVED, Attachment, Empty)


class NodeNetwork:
    """This node's share of every network.

    Args:
        bus: None in tests without a network service.
        state_dir: Where the last known records are kept, for a start without the bus.
    """

    def __init__(self, bus: Bus | None, config: EngineConfig, node: str, state_dir: Path) -> None:
        self._bus = bus
        self._config = config
        self._policy = NetworkPolicy.of(config)
        self._node = node
        self._state_file = Path(state_dir) / "wanted.json"
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._pool = SandboxPool()
        self._kernel: KernelNetwork | None = None
        self._records = NameRecords()
        self._heard: deque[tuple[RecordChange, Attachment]] = deque(maxlen=HEARD_RECORDS)
        self._servers: dict[str, DnsServer] = {}
        self._chosen_dns: dict[str, list[str]] = {}
        self._proxies: dict[str, list[PortProxy]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.closed = False

    @property
    def kernel(self) -> KernelNetwork:
        if self._kernel is None:
            raise RuntimeError("the node's network is not started")
        return self._kernel

    async def start(self) -> None:
        """Make the last known networks exist, and keep them so. Works without the bus.

        Raises:
            OSError, Unavailable: The kernel or a library does not allow it (no root, no nftables).
        """
        known = self._load()
        self._records.replace(known.attachments)
        self._kernel = await self._run(KernelNetwork, self._pool, self._policy)
        await self._run(self.kernel.start, known.networks)
        self._pool.start()
        if self._bus is not None:
            # A queue group of this node's own: every agent hears every broadcast.
            queue = f"agent.{self._node}"
            await self._bus.serve(_RECORD_ADDED, self._record_added, queue=queue)
            await self._bus.serve(_RECORD_REMOVED, self._record_removed, queue=queue)
            await self._bus.serve(_NETWORK_REMOVED, self.remove, queue=queue)
            self._own(self._keep_refreshing(), "network records")
        self._own(self._keep_checking(), "network check")

    async def close(self) -> None:
        """Stop; running containers keep their networks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for container_id in list(self._servers):
            self._stop_names(container_id)
        for endpoint_id in list(self._proxies):
            self._stop_proxies(endpoint_id)
        await asyncio.get_running_loop().run_in_executor(None, self._pool.close)
        if self._kernel is not None:
            await self._run(self._kernel.close)
        self._worker.shutdown()
        self.closed = True

    async def settle(self) -> None:
        """Every running container is adopted: drop published ports that nobody claimed."""
        await self._run(self.kernel.settle)

    # Orders

    async def apply(self, request: ApplyNetwork) -> Empty:
        await self._run(self.kernel.apply, request.network)
        self._store()
        return EMPTY

    async def remove(self, request: ApplyNetwork) -> Empty:
        await self._run(self.kernel.remove, request.network)
        self._store()
        return EMPTY

    # Containers

    async def prepare(
        self, container_id: str, attachments: Sequence[Attachment], servers: Sequence[str] = ()
    ) -> Sandbox:
        """A configured network namespace for a container about to start; `release` undoes it.

        Args:
            servers: DNS servers chosen for this container (``--dns``); the engine's or the host's when empty.

        Raises:
            Conflict: A published port is taken on this node, in Docker's words.
        """
        self._forget(container_id)
        box = await self._run(self.kernel.prepare, container_id, attachments)
        self._chosen_dns[container_id] = list(servers)
        try:
            await self._serve_names(container_id, box)
            self._start_proxies(attachments)
        except BaseException:
            await self.release(container_id)
            raise
        return box

    async def empty(self, container_id: str) -> Sandbox:
        """A namespace with loopback only (network ``none``)."""
        self._forget(container_id)
        return await self._run(self.kernel.empty, container_id)

    async def release(self, container_id: str) -> None:
        """Undo `prepare`, `empty` or `adopt`. Idempotent."""
        self._forget(container_id)
        await self._run(self.kernel.release, container_id)

    async def attach(self, container_id: str, pid: int, attachment: Attachment) -> None:
        """Connect a running container to one more network."""
        box = await self._run(self.kernel.attach, container_id, pid, attachment)
        await self._serve_names(container_id, box)
        self._start_proxies([attachment])

    async def detach(self, container_id: str, pid: int, attachment: Attachment) -> None:
        """Take a running container off a network."""
        self._stop_proxies(attachment.endpoint_id)
        self._records.remove(attachment)
        box = await self._run(self.kernel.detach, container_id, pid, attachment)
        await self._serve_names(container_id, box)

    async def adopt(
        self, container_id: str, pid: int, attachments: Sequence[Attachment], servers: Sequence[str] = ()
    ) -> None:
        """Take over a running container after a restart of the agent. Call `settle` after the last one."""
        if not attachments:
            return
        box = await self._run(self.kernel.adopt, container_id, pid, attachments)
        self._chosen_dns[container_id] = list(servers)
        await self._serve_names(container_id, box)
        self._start_proxies(attachments)

    def _forget(self, container_id: str) -> None:
        self._stop_names(container_id)
        self._chosen_dns.pop(container_id, None)
        if self._kernel is not None:
            for attachment in self._kernel.attachments(container_id):
                self._records.remove(attachment)
                self._stop_proxies(attachment.endpoint_id)

    # Names

    async def _serve_names(self, container_id: str, box: Sandbox) -> None:
        """Answer names for a container as its networks now are; stop when none of them has names."""
        attachments = [one for one in self.kernel.attachments(container_id) if one.network.dns]
        if not attachments:
            self._stop_names(container_id)
            return
        for attachment in attachments:
            self._records.add(attachment)
        view = self._view(container_id, attachments)
        server = self._servers.get(container_id)
        if server is not None:
            server.view = view
            return
        udp, tcp = await self._run(dns.open_sockets, box.netns_fd)
        server = self._servers[container_id] = DnsServer(udp, tcp, self._records, view)
        server.start()

    def _view(self, container_id: str, attachments: Sequence[Attachment]) -> DnsView:
        asked = self._chosen_dns.get(container_id) or self._config.dns
        servers = list(asked) or files.host_servers()
        aliases = {alias.lower(): name for one in attachments for alias, name in one.links.items()}
        everywhere = self.kernel.attachments(container_id)
        return DnsView(
            networks=[one.network.id for one in attachments],
            links=aliases,
            servers=dns.outside_servers([one.network.internal for one in everywhere], servers),
        )

    def _stop_names(self, container_id: str) -> None:
        server = self._servers.pop(container_id, None)
        if server is not None:
            server.close()

    async def _record_added(self, attachment: Attachment) -> Empty:
        return self._record_heard(self._records.add, attachment)

    async def _record_removed(self, attachment: Attachment) -> Empty:
        return self._record_heard(self._records.remove, attachment)

    def _record_heard(self, change: RecordChange, attachment: Attachment) -> Empty:
        change(attachment)
        self._heard.append((change, attachment))
        return EMPTY

    # Proxies

    def _start_proxies(self, attachments: Sequence[Attachment]) -> None:
        for attachment in attachments:
            target = (attachment.address or attachment.address6).partition("/")[0]
            for held in self.kernel.ports.held.get(attachment.endpoint_id, []):
                carried = held.port.protocol in ("tcp", "udp") and self._policy.needs_proxy(attachment, held.port)
                if carried and held.socket is not None:
                    proxy = PortProxy(held.socket, (target, held.port.container_port))
                    self._proxies.setdefault(attachment.endpoint_id, []).append(proxy)
                    proxy.start()

    def _stop_proxies(self, endpoint_id: str) -> None:
        for proxy in self._proxies.pop(endpoint_id, []):
            proxy.close()

    # Records and repair

    async def refresh(self) -> None:
        """Ask the network service for everything wanted here, and follow it.

        Raises:
            DavitError: The service does not answer.
        """
        if self._bus is None:
            return
        self._heard.clear()
        answer = await self._bus.request(contract.NODE_WANTED, NodeNetworksRequest(node=self._node), node=self._node)
        await self._run(self._follow, answer)
        self._records.replace(answer.attachments)
        # What came and went while the answer was under way is newer than it.
        for change, attachment in [*((self._records.add, one) for one in self.kernel.present()), *self._heard]:
            change(attachment)
        self._store(answer)

    def _follow(self, answer: NodeNetworks) -> None:
        wanted_ids = {network.id for network in answer.networks}
        for network in list(self.kernel.networks.values()):
            # One that a container here is on stays: the answer may be older than the container's start.
            if network.id not in wanted_ids and not self.kernel.in_use(network.id):
                self.kernel.remove(network)
        for network in answer.networks:
            self.kernel.apply(network)

    async def _keep_refreshing(self) -> None:
        while True:
            pause_s = REFRESH_INTERVAL_S
            try:
                await self.refresh()
            except (DavitError, OSError) as error:
                log.info("the network service's records are not to be had: %s", error)
                pause_s = REFRESH_RETRY_S
            await asyncio.sleep(pause_s)

    async def _keep_checking(self) -> None:
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            try:
                await self._run(self.kernel.check)
            except OSError as error:
                log.warning("the node's network could not be checked: %s", error)

    def _load(self) -> NodeNetworks:
        try:
            return NodeNetworks.model_validate_json(self._state_file.read_bytes())
        except FileNotFoundError:
            return NodeNetworks(networks=[], attachments=[])
        except ValidationError as error:
            # Records can be asked for again; a node without networks cannot.
            log.warning("%s cannot be read and is ignored: %s", self._state_file, error)
            return NodeNetworks(networks=[], attachments=[])

    def _store(self, state: NodeNetworks | None = None) -> None:
        state = state or NodeNetworks(networks=list(self.kernel.networks.values()), attachments=[])
        self._state_file.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._state_file.with_suffix(".new")
        fresh.write_text(state.model_dump_json())
        os.replace(fresh, self._state_file)

    def _own(self, work: Awaitable[None], name: str) -> None:
        self._tasks.append(asyncio.ensure_future(work))
        log.debug("started %s", name)

    async def _run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run kernel work on the worker thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker, lambda: work(*args, **kwargs))
