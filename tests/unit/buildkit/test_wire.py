"""The generated messages are those of the .proto files beside them."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor

from services.image.buildkit import wire

HOME = Path(wire.__file__).parent
_OPENED = re.compile(r"^\s*(message|enum|oneof|service)\s+(\w+)\s*\{(.*)$")
_FIELD = re.compile(r"(?:^|[{;])\s*(repeated\s+)?(map<[^>]+>|[\w.]+)\s+(\w+)\s*=\s*(\d+)\s*;")


def written(text: str) -> dict[str, dict[str, int]]:
    """Messages of a file, each with its fields' numbers."""
    found: dict[str, dict[str, int]] = {}
    stack: list[tuple[str, str]] = []
    for line in re.sub(r"//.*", "", text).splitlines():
        rest = line
        if opened := _OPENED.match(line):
            stack.append((opened[1], opened[2]))
            rest = opened[3]
            if opened[1] == "message":
                found[".".join(name for kind, name in stack if kind == "message")] = {}
        messages = [name for kind, name in stack if kind == "message"]
        if messages and stack[-1][0] in ("message", "oneof"):
            found[".".join(messages)] |= {match[3]: int(match[4]) for match in _FIELD.finditer(rest)}
        for _ in range(rest.count("}") - rest.count("{")):
            stack.pop()
    return found


def generated(message: Descriptor, above: str = "") -> dict[str, dict[str, int]]:
    name = f"{above}{message.name}"
    found = {name: {field.name: field.number for field in message.fields}}
    for inner in message.nested_types:
        if not inner.GetOptions().map_entry:
            found |= generated(inner, f"{name}.")
    return found


@pytest.mark.parametrize("path", sorted(HOME.glob("*.proto")), ids=lambda path: path.stem)
def test_fields(path: Path) -> None:
    module = importlib.import_module(f"{wire.__name__}.{path.stem}_pb2")
    made: dict[str, dict[str, int]] = {}
    for message in module.DESCRIPTOR.message_types_by_name.values():
        made |= generated(message)
    assert made
    assert written(path.read_text()) == made
