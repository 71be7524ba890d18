"""How a step is written into an image's history: as the classic builder does, or as BuildKit does.

Everything else about a step is the same through both doors. Steps of different style are different images, so neither
finds the other's in the cache.

Source: histories of images that both builders make.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from services.image.build.dockerfile.instructions import Copy, Health, Instruction, Label, Run, Words
from services.image.build.steps import metadata
from services.image.catalog.domain import CACHE_ONLY

NO_OPERATION = "#(nop) "
# A step that the history of what comes out does not mention.
UNTOLD = ""


class Style(Protocol):
    """Texts of history."""

    @property
    def comment(self) -> str: ...

    @property
    def key_prefix(self) -> str:
        """How this style's cache keys begin."""

    def created_by(self, instruction: Instruction, command: Sequence[str]) -> str:
        """Args: command: the step as the classic builder words it."""


class ClassicStyle:
    comment = ""
    key_prefix = ""

    def created_by(self, instruction: Instruction, command: Sequence[str]) -> str:
        return " ".join(command)


class BuildkitStyle:
    comment = "buildkit.dockerfile.v0"
    key_prefix = CACHE_ONLY

    def created_by(self, instruction: Instruction, command: Sequence[str]) -> str:
        if isinstance(instruction, Run):
            return f"RUN {' '.join(command)} # buildkit"
        if isinstance(instruction, Copy):
            return f"{instruction.source} # buildkit"
        if instruction.keyword == "ONBUILD" or (isinstance(instruction, Label) and instruction.literal):
            return UNTOLD
        if isinstance(instruction, Health):
            return f"HEALTHCHECK {metadata.health_text(instruction.check, start_interval=True)}"
        text = command[-1].partition(NO_OPERATION)[2] or command[-1]
        if instruction.keyword == "EXPOSE" and isinstance(instruction, Words):
            return f"EXPOSE [{' '.join(_with_protocol(word) for word in text.split()[1:])}]"
        return text


def _with_protocol(port: str) -> str:
    return port if "/" in port else f"{port}/tcp"


CLASSIC: Style = ClassicStyle()
BUILDKIT: Style = BuildkitStyle()
