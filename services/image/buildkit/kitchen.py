"""What all builds of this process share."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from services.image.archives.saving import Saver
from services.image.build.context.directories import DirectoryTree, KnownDigests
from services.image.build.context.tree import Tree
from services.image.build.flights import Flights
from services.image.build.images import DepotImages
from services.image.build.ports import BuiltImage, Executor
from services.image.build.workdirs import WorkDirectories
from services.image.buildkit.contexts import Contexts
from services.image.buildkit.sessions import Sessions
from shared.bus.client import Bus
from shared.errors import NotFound

if TYPE_CHECKING:
    from services.image.buildkit.targets import Target

REMEMBERED_RESULTS = 1024


class Results:
    """Results by id, as clients name them; also those of builds that have ended, for builds that go on from them."""

    def __init__(self) -> None:
        self._results: OrderedDict[str, Target] = OrderedDict()

    def add(self, target: Target) -> None:
        self._results[target.id] = target
        if len(self._results) > REMEMBERED_RESULTS:
            self._results.popitem(last=False)

    def get(self, identifier: str) -> Target:
        """Raises NotFound."""
        try:
            return self._results[identifier]
        except KeyError:
            raise NotFound(f"no result {identifier}", field="Ref") from None


@dataclass(frozen=True, slots=True)
class Kitchen:
    """What all builds of this process share."""

    images: DepotImages
    executor: Executor
    directories: WorkDirectories
    contexts: Contexts
    sessions: Sessions
    saver: Saver
    bus: Bus
    digests: KnownDigests = field(default_factory=KnownDigests)
    flights: Flights = field(default_factory=Flights)
    results: Results = field(default_factory=Results)

    def tree_of(self, image: BuiltImage) -> Tree:
        """An image's files."""
        return DirectoryTree(image.layers, self.digests)
