"""A whole Dockerfile: global arguments, stages, and which stage needs which.

Source: Dockerfile reference, "FROM", "Understand how ARG and FROM interact"; docker build, ``--target``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from services.image.build.dockerfile.errors import DockerfileError, at_line
from services.image.build.dockerfile.instructions import Arg, Copy, From, Instruction, Label, Run, parse_instruction
from services.image.build.dockerfile.lines import Node, read_lines


@dataclass(frozen=True, slots=True)
class Stage:
    """One FROM and what follows it. `index` counts from 0."""

    index: int
    start: From
    instructions: tuple[Instruction, ...] = ()

    @property
    def name(self) -> str:
        return self.start.name


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """What a Dockerfile says.

    Attributes:
        arguments: The ARGs before the first FROM.
        escape: Its escape character.
        warnings: Texts for the user, found while reading.
    """

    arguments: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    escape: str = "\\"
    warnings: tuple[str, ...] = ()
    directives: dict[str, str] = field(default_factory=dict)

    def stage_index(self, name: str, *, before: int | None = None) -> int | None:
        """The stage with a name or a number; only among those before an index, when one is given."""
        candidates = self.stages[:before]
        for stage in candidates:
            if stage.name and stage.name == name.lower():
                return stage.index
        if name.isdecimal() and int(name) < len(candidates):
            return int(name)
        return None

    def until(self, target: str) -> Dockerfile:
        """Only the stages up to the target; all of them when it is empty. Raises DockerfileError for an unknown one."""
        if not target:
            return self
        index = self.stage_index(target)
        if index is None:
            raise DockerfileError(f"failed to reach build target {target} in Dockerfile")
        return replace(self, stages=self.stages[: index + 1])

    def with_labels(self, labels: dict[str, str]) -> Dockerfile:
        """With one more LABEL per label at the end of the last stage, sorted by name."""
        if not labels:
            return self
        added = tuple(
            Label(pairs=((name, value),), literal=True, keyword="LABEL", source=f"LABEL {name}={value}")
            for name, value in sorted(labels.items())
        )
        last = self.stages[-1]
        return replace(self, stages=(*self.stages[:-1], replace(last, instructions=(*last.instructions, *added))))


def parse_dockerfile(text: str, *, name: str = "Dockerfile") -> Dockerfile:
    """Understand a Dockerfile.

    Args:
        name: What the file is called, for the one error that says so.

    Raises:
        DockerfileError: With the failing line.
    """
    if not text:
        raise DockerfileError(f"the Dockerfile ({name}) cannot be empty")
    lines = read_lines(text)
    arguments: list[Arg] = []
    stages: list[Stage] = []
    body: list[Instruction] = []
    for node in lines.nodes:
        instruction = parse_instruction(node, escape=lines.escape)
        if isinstance(instruction, From):
            if stages:
                stages[-1] = replace(stages[-1], instructions=tuple(body))
            stages.append(Stage(len(stages), instruction))
            body = []
        elif stages:
            body.append(instruction)
        elif isinstance(instruction, Arg):
            arguments.append(instruction)
        else:
            raise DockerfileError("no build stage in current context", line=node.line)
    if not stages:
        raise DockerfileError("no build stage in current context")
    stages[-1] = replace(stages[-1], instructions=tuple(body))
    _check_names(stages)
    return Dockerfile(tuple(arguments), tuple(stages), lines.escape, lines.warnings, lines.directives)


def parse_trigger(text: str, *, escape: str = "\\") -> Instruction:
    """The instruction of an ONBUILD trigger that a base image brought along."""
    nodes: tuple[Node, ...] = read_lines(text).nodes
    if len(nodes) != 1:
        raise DockerfileError("onbuild trigger should be a single expression")
    return parse_instruction(nodes[0], escape=escape)


def _check_names(stages: list[Stage]) -> None:
    seen: set[str] = set()
    for stage in stages:
        if stage.name and stage.name in seen:
            raise at_line(stage.start.line, f"{stage.name} stage name already used")
        seen.add(stage.name)


def stage_references(stage: Stage, dockerfile: Dockerfile, *, given: Callable[[str], bool]) -> set[int]:
    """The earlier stages that a stage copies or mounts from, as far as the text itself says.

    Args:
        given: Whether a name stands for something else than a stage.
    """
    found: set[int] = set()
    for instruction in stage.instructions:
        for name in _named_origins(instruction):
            if given(name):
                continue
            index = dockerfile.stage_index(name, before=stage.index)
            if index is not None:
                found.add(index)
    return found


def _named_origins(instruction: Instruction) -> list[str]:
    if isinstance(instruction, Copy) and instruction.origin:
        return [instruction.origin]
    if isinstance(instruction, Run):
        return [
            value
            for mount in instruction.mounts
            for name, _, value in (option.partition("=") for option in mount.split(","))
            if name == "from" and value
        ]
    return []
