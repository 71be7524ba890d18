"""What the checks compare: the managers' records, and the nodes' kernel, each read once."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lab.lab import Lab
from lab.record import ON

_ID = re.compile(r"[0-9a-f]{64}")


@dataclass
class Container:
    """A container as the records have it, and where its processes are."""

    values: dict[str, Any]
    nodes: set[str] = field(default_factory=set)

    @property
    def id(self) -> str:
        return str(self.values["Id"])

    @property
    def name(self) -> str:
        return str(self.values["Name"]).lstrip("/")

    @property
    def running(self) -> bool:
        return bool(self.values["State"]["Running"])

    @property
    def pid(self) -> int:
        return int(self.values["State"]["Pid"])

    @property
    def networks(self) -> dict[str, dict[str, Any]]:
        return dict(self.values["NetworkSettings"]["Networks"])


class View:
    """One look at a lab."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    @cached_property
    def engines(self) -> list[str]:
        """The nodes with an engine that are to be on."""
        return [name for name in self.lab.topology.engines() if self.lab.record.nodes.get(name, ON) == ON]

    @cached_property
    def managers(self) -> list[str]:
        return [name for name in self.lab.topology.managers() if name in self.engines]

    @cached_property
    def containers(self) -> list[Container]:
        """All that the records have. Raises DavitError."""
        if not self.managers:
            return []
        client = self.lab.client(self.managers[0])
        found = [
            Container(client.get(f"/containers/{entry['Id']}/json")) for entry in client.get("/containers/json?all=1")
        ]
        for container in found:
            container.nodes = {node for node, ids in self.processes.items() if container.id in ids}
        return found

    @cached_property
    def processes(self) -> dict[str, dict[str, set[int]]]:
        """Node -> container id -> processes in its control group, as the kernel has them."""
        return {node: self._of(node) for node in self.engines}

    def _of(self, node: str) -> dict[str, set[int]]:
        """By the names of the node's control groups, wherever the engine has them."""
        found: dict[str, set[int]] = {}
        cgroup = self.lab.cgroup(node)
        for directory in cgroup.directories:
            for group, _, _ in os.walk(directory):
                name = os.path.basename(group)
                if _ID.fullmatch(name):
                    pids = cgroup.child(os.path.relpath(group, directory)).pids()
                    if pids:
                        found[name] = pids
        return found

    def on_disk(self, node: str) -> set[str]:
        """Ids of the containers that a node keeps files of."""
        directory = self.lab.places.node(node) / "data" / "containers"
        return {path.name for path in directory.iterdir()} if directory.is_dir() else set()

    @staticmethod
    def namespace(container: Container) -> Path:
        return Path(f"/proc/{container.pid}/ns/net")
