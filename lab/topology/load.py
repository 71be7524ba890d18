"""Reads a lab's file; what is wrong in it is told with its line and its field.

Source: YAML 1.1 as PyYAML's `safe_load` reads it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from lab.topology import containerlab
from lab.topology.check import FieldPath, checked, refused
from lab.topology.model import Node, Topology
from shared.errors import InvalidArgument


def read(path: Path) -> Topology:
    """The topology of a file. Raises InvalidArgument, which names file, line and field."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"the lab file {path} cannot be read: {error}") from error
    topology = parse(text, path.name, default_name=path.name.split(".")[0])
    nodes = {name: _absolute(node, path.absolute().parent) for name, node in topology.nodes.items()}
    return topology.model_copy(update={"nodes": nodes})


def _absolute(node: Node, directory: Path) -> Node:
    """The node with paths that do not depend on where the command was typed: they are the file's neighbours."""

    def archive(text: str) -> str:
        return str(directory / text) if (directory / text).is_file() else text

    binds = [text if text.startswith("/") else os.path.normpath(directory / text) for text in node.binds]
    changed: dict[str, Any] = {"image": archive(node.image) if node.image else ""}
    changed |= {"images": [archive(text) for text in node.images], "binds": binds}
    return node.model_copy(update={name: value for name, value in changed.items() if value != getattr(node, name)})


def parse(text: str, file: str, *, default_name: str = "lab") -> Topology:
    """The topology of a text; `file` is what errors call it. Raises InvalidArgument."""
    tree, values = _yaml(text, file)
    if not isinstance(values, dict):
        raise InvalidArgument(f"{file}:1: a lab file is a mapping with `nodes`, not {type(values).__name__}")
    lines = _Lines(tree)
    found = lines.duplicates()
    if not found and containerlab.is_one(values):
        values, found = containerlab.translated(values)
        lines.foreign = True
    if found:
        raise refused(file, lines, found)
    topology = checked({"name": default_name} | values, file, lines)
    _feasible(topology, file, lines)
    return topology


def _feasible(topology: Topology, file: str, lines: _Lines) -> None:
    """Whether there are addresses for all, and the timeline can be understood. Raises InvalidArgument."""
    from lab.faults.plan import known_of, plan
    from lab.topology.wiring import wire

    try:
        nets = wire(topology, {})
    except ValueError as error:
        field, _, text = str(error).partition(": ")
        raise refused(file, lines, [(tuple(field.split(".")), text)]) from error
    try:
        plan(topology.faults, topology.seed, known_of(topology, nets))
    except InvalidArgument as error:
        _, _, index = str(error.detail["field"]).partition(".")
        raise refused(file, lines, [(("faults", int(index)), str(error))]) from error


def _yaml(text: str, file: str) -> tuple[yaml.Node | None, Any]:
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InvalidArgument(f"{file}:{line}: not YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:  # a date that is none, say
        raise InvalidArgument(f"{file}: not YAML: {error}") from error


class _Lines:
    """Where each field of a YAML document stands."""

    def __init__(self, tree: yaml.Node | None) -> None:
        self._tree = tree
        self.foreign = False

    def of(self, path: FieldPath) -> int:
        """The line of a field, or of the nearest part around it that is in the file; 1 for the whole."""
        node, line = self._tree, 1
        for part in path:
            node, found = _step(node, part)
            if found is None:
                break
            line = found
        return line

    def duplicates(self) -> list[tuple[FieldPath, str]]:
        """Keys that stand twice in one mapping; YAML would let the last one win silently."""
        return [] if self._tree is None else list(_duplicates(self._tree, ()))


def _step(node: yaml.Node | None, part: str | int) -> tuple[yaml.Node | None, int | None]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return value, key.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part].start_mark.line + 1
    return None, None


def _duplicates(node: yaml.Node, path: FieldPath) -> Iterable[tuple[FieldPath, str]]:
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _duplicates(item, (*path, index))
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                yield (*path, key.value), f"stands twice; the second time in line {key.start_mark.line + 1}"
            seen.add(key.value)
            yield from _duplicates(value, (*path, key.value))
