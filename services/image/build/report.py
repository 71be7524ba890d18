"""What a build says while it goes on, whatever a client is shown of it.

Two doors listen: the classic builder's JSON lines (`output`), and the vertices of BuildKit's progress display.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from services.image.build.dockerfile.instructions import Instruction
from services.image.build.dockerfile.stages import Dockerfile


class StageReport(Protocol):
    """One stage speaks. Everything may wait while the client is slow."""

    async def step(
        self, number: int, total: int, instruction: Instruction, shown: Callable[[], Mapping[str, str]] | None
    ) -> None:
        """A step begins.

        Args:
            shown: What variables stand for in it, for a text with them replaced; None where there are none yet.
        """

    async def cached(self) -> None:
        """The step was done before."""

    async def running(self, container_id: str) -> None:
        """The step's command runs in a container."""

    async def removing(self, container_id: str) -> None:
        """That container is being removed."""

    async def wrote(self, is_error: bool, text: str) -> None:
        """The step's command wrote to its standard output or error."""

    async def pulling(self, line: Mapping[str, Any]) -> None:
        """An image is being fetched; Docker's progress record."""

    async def triggers(self, count: int) -> None:
        """The base image brought instructions along, which are carried out next."""

    async def result(self, image_id: str) -> None:
        """The step is done and led to an image."""

    async def image(self, image_id: str) -> None:
        """The stage is done."""

    async def finish(self) -> None:
        """Nothing more is said here."""


class BuildReport(Protocol):
    """A whole build speaks."""

    @property
    def started(self) -> bool:
        """Whether the client has been told anything yet."""

    async def plan(self, dockerfile: Dockerfile, needed: Sequence[int]) -> Mapping[int, StageReport]:
        """The stages that will be built, in the order of the file; a report for each."""

    async def warn(self, text: str) -> None: ...

    async def global_argument(self, number: int, total: int, instruction: Instruction) -> None:
        """An ARG before the first FROM was read."""
