"""What the checks of a new container look at, and how they refuse."""

from __future__ import annotations

from dataclasses import dataclass

from shared.contracts.containers import NodeFacts
from shared.contracts.docker import ContainerConfig, HostConfig
from shared.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Subject:
    """What is checked, and the facts of the node it will run on."""

    config: ContainerConfig
    host: HostConfig
    node: NodeFacts
    daemon_runtimes: frozenset[str]

    @property
    def cpus(self) -> int:
        return self.node.cpus


def refuse(text: str, field: str) -> InvalidArgument:
    return InvalidArgument(text, field=field)


def unsupported(name: str, why: str) -> InvalidArgument:
    return InvalidArgument(f"HostConfig.{name} is not supported by this engine: {why}", field=f"HostConfig.{name}")
