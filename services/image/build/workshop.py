"""What all stages of one build share, and where it gets from what its client has: files, secrets, credentials."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from services.image.build.cache.cachedirs import CacheDirectories
from services.image.build.context.directories import DirectoryTree, KnownDigests
from services.image.build.context.tree import Tree
from services.image.build.flights import Flights
from services.image.build.ports import BuiltImage, Executor, ImageStore
from services.image.build.steps.layer import LayerPlan, WrittenLayer
from services.image.build.style import CLASSIC, Style
from services.image.build.workdirs import Scratch
from shared.cancellation import to_the_end
from shared.contracts.images import BuildSettings, RegistryAuth
from shared.errors import Unsupported

log = logging.getLogger(__name__)


class Secrets(Protocol):
    """Where secrets come from."""

    async def find(self, identifier: str) -> bytes | None:
        """A secret's value; None when the client has none of that name."""


@dataclass(frozen=True, slots=True)
class GivenSecrets:
    """Secrets that came with the request."""

    values: Mapping[str, bytes]

    async def find(self, identifier: str) -> bytes | None:
        return self.values.get(identifier)


class Agents(Protocol):
    """Where ``RUN --mount=type=ssh`` gets the client's SSH agent from."""

    async def listen(self, identifier: str, place: Path, stack: AsyncExitStack) -> bool:
        """Have a socket at a path lead to the client's agent until the stack ends; False when there is none."""


class NoAgents:
    """For clients without a session."""

    async def listen(self, identifier: str, place: Path, stack: AsyncExitStack) -> bool:
        raise Unsupported("RUN --mount=type=ssh needs a session with the client's agent", field="--mount")


class NamedContexts(Protocol):
    """What else than images and stages a name can stand for in FROM and ``--from``."""

    def has(self, name: str) -> bool:
        """Whether the client said what a name means."""

    async def find(self, name: str, platform: str) -> BuiltImage | Tree | None:
        """What the client said that a name means; None when it said nothing of it."""


class NoContexts:
    """For clients that cannot say so."""

    def has(self, name: str) -> bool:
        return False

    async def find(self, name: str, platform: str) -> BuiltImage | Tree | None:
        return None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where files are copied or mounted from.

    Attributes:
        image_id: Of the image that the tree is; empty when its content has to be looked at.
        from_context: Whether it is the build context.
    """

    tree: Tree
    image_id: str = ""
    from_context: bool = True


FindContext = Callable[[bool], Awaitable[Tree]]


def given_context(tree: Tree) -> FindContext:
    """A build context that is here already."""

    async def context(whole: bool) -> Tree:
        return tree

    return context


@dataclass(slots=True)
class Workshop:
    """What all stages of a build share.

    Attributes:
        context: Gets the build context when something of it is needed: all of it, or what the Dockerfile names.
        containers: Containers that exist at this moment, to be removed whatever happens.
        removals: Containers that are being removed while the build goes on; it ends after them.
        auths: Asked for credentials before an image is pulled; None: those of the request.
        uncached: Stages of which nothing is taken from the cache.
        privileged: The client allows ``RUN --security=insecure``.
        host_network: The client allows ``RUN --network=host``.
        flights: Steps that are being done, also by other builds.
    """

    request: BuildSettings
    images: ImageStore
    executor: Executor
    context: FindContext
    scratch: Scratch
    secrets_dir: Scratch
    caches: CacheDirectories
    digests: KnownDigests
    secrets: Secrets = field(default_factory=lambda: GivenSecrets({}))
    agents: Agents = field(default_factory=NoAgents)
    contexts: NamedContexts = field(default_factory=NoContexts)
    auths: Callable[[str], Awaitable[Mapping[str, RegistryAuth]]] | None = None
    style: Style = CLASSIC
    uncached: frozenset[str] = frozenset()
    privileged: bool = False
    host_network: bool = True
    flights: Flights = field(default_factory=Flights)
    containers: set[str] = field(default_factory=set)
    removals: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    def files_of(self, image: BuiltImage) -> DirectoryTree:
        return DirectoryTree(image.layers, self.digests)

    def origin(self, image: BuiltImage) -> Origin:
        return Origin(self.files_of(image), image.id or "scratch", from_context=False)

    async def credentials(self, name: str) -> Mapping[str, RegistryAuth]:
        """What the client knows for the registry of an image."""
        return self.request.auths if self.auths is None else await self.auths(name)

    def write_layer(self, plan: LayerPlan) -> WrittenLayer:
        """Write a planned layer; nothing of it stays when that fails. Blocks."""
        target = self.images.begin_layer()
        try:
            return plan.write(target)
        except BaseException:
            target.discard()
            raise

    async def remove_containers(self) -> None:
        """Wait for removals under way, and remove the containers of a build that ends early; go on past failures."""
        for container_id in self.containers - self.removals.keys():
            self.removals[container_id] = asyncio.create_task(self.executor.remove(container_id))
        outcomes = asyncio.gather(*self.removals.values(), return_exceptions=True)
        try:
            await to_the_end(outcomes)  # no container may outlive its build
        finally:
            for container_id, outcome in zip(self.removals, outcomes.result(), strict=True):
                if isinstance(outcome, BaseException):
                    log.warning("container %s of a build could not be removed: %s", container_id, outcome)
