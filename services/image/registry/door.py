"""The registry client's handlers, made when the first of them is needed.

The HTTP client costs a tenth of a second and several megabytes, which an engine that only runs containers does
without.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.image.catalog.depot import Depot
from shared.bus.client import Bus, Empty
from shared.config import EngineConfig
from shared.contracts.images import (
    Distribution,
    DistributionRequest,
    LoginRequest,
    LoginResult,
    PullImage,
    PushImage,
    SearchHits,
    SearchRequest,
)

if TYPE_CHECKING:
    from services.image.registry.pull import Puller
    from services.image.registry.push import Pusher
    from services.image.registry.queries import RegistryQueries


@dataclass(frozen=True, slots=True)
class _Parts:
    puller: Puller
    pusher: Pusher
    queries: RegistryQueries


class RegistryDoor:
    """Serves PULL, PUSH, LOGIN, DISTRIBUTION and SEARCH."""

    def __init__(self, depot: Depot, bus: Bus, config: EngineConfig) -> None:
        self._depot = depot
        self._bus = bus
        self._config = config
        self._made: _Parts | None = None

    async def reload(self, config: EngineConfig) -> None:
        """Use these mirrors, insecure registries and limits from now on; what is on its way keeps its own."""
        self._config = config
        self._made = None

    async def pull(self, request: PullImage) -> Empty:
        return await (await self._parts()).puller.pull(request)

    async def push(self, request: PushImage) -> Empty:
        return await (await self._parts()).pusher.push(request)

    async def login(self, request: LoginRequest) -> LoginResult:
        return await (await self._parts()).queries.login(request)

    async def distribution(self, request: DistributionRequest) -> Distribution:
        return await (await self._parts()).queries.distribution(request)

    async def search(self, request: SearchRequest) -> SearchHits:
        return await (await self._parts()).queries.search(request)

    async def _parts(self) -> _Parts:
        if self._made is None:
            self._made = await asyncio.to_thread(self._make)
        return self._made

    def _make(self) -> _Parts:
        from services.image.registry.hosts import CERTIFICATES, Hosts
        from services.image.registry.pull import Puller
        from services.image.registry.push import Pusher
        from services.image.registry.queries import RegistryQueries

        config = self._config
        hosts = Hosts(
            config.registry_mirrors, config.insecure_registries, (config.data_root / "certs.d", *CERTIFICATES)
        )
        return _Parts(
            Puller(self._depot, self._bus, hosts, config.max_concurrent_downloads),
            Pusher(self._depot, self._bus, hosts, config.max_concurrent_uploads),
            RegistryQueries(hosts),
        )
