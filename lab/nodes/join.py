"""How the engines of a lab become one cluster: what each is started with. The only place that knows.

The first manager has the message bus and the images; whoever else has an engine is started with the bus's address.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lab.topology.model import DATABASE_NODE, Topology
from lab.topology.wiring import Net
from shared.docker.client import EngineClient
from shared.errors import DavitError, InvalidArgument, NotFound

BUS_PORT, REGISTRY_PORT, DATABASE_PORT = 4222, 5000, 5432


@dataclass(frozen=True)
class Daemon:
    """A program that runs beside the engine, started before it."""

    command: list[str]
    environment: dict[str, str]


@dataclass(frozen=True)
class EngineStart:
    """What a node's engine is started with.

    Attributes:
        services: As ``--services`` of `davit up`; None for all.
        bus, database: As ``--nats`` and ``--database``; "" for its own.
        files: Name -> content, in its directory.
        beside: What is started before it.
    """

    node: str
    daemon_json: dict[str, object] = field(default_factory=dict)
    services: str | None = None
    bus: str = ""
    database: str = ""
    files: dict[str, str] = field(default_factory=dict)
    beside: list[Daemon] = field(default_factory=list)


class Cluster:
    """The engines of one lab.

    Args:
        secret: The bus's password.
    """

    def __init__(self, topology: Topology, nets: Iterable[Net], secret: str) -> None:
        self._topology = topology
        self._nets = list(nets)
        self._secret = secret

    @property
    def _first(self) -> str:
        managers = self._topology.managers()
        return managers[0] if managers else ""

    def start_of(self, node: str, directory: Path, data: str) -> EngineStart:
        """What to start a node's engine with.

        Args:
            directory: Where its files will be.
            data: Its data root.

        Raises:
            InvalidArgument: It has no way to a manager.
        """
        from supervisor.nats import ENVIRONMENT, find_binary

        role = self._topology.nodes[node].role
        daemon: dict[str, object] = dict(self._topology.nodes[node].daemon)
        labels = [f"{key}={value}" for key, value in self._topology.nodes[node].labels.items()]
        if labels:
            daemon["labels"] = [*daemon.get("labels", []), *labels]  # type: ignore[misc]
        services, database = None, ""
        files: dict[str, str] = {}
        beside: list[Daemon] = []
        if node == self._first:
            files |= {"nats.conf": self._bus_configuration(data), "registry-users": ""}
            beside.append(Daemon([str(find_binary()), "-c", str(directory / "nats.conf")], ENVIRONMENT))
            # By name: each node's /etc/hosts has the address that it reaches the manager under.
            daemon = {"registry-listen": f"0.0.0.0:{REGISTRY_PORT}", "registry-advertise": f"{node}:{REGISTRY_PORT}",
                      "registry-users": str(directory / "registry-users")} | daemon  # fmt: skip
        if role == "worker":
            services = "agent"
        elif node != self._first:
            services = "network,volume,control,agent,api"
        if role == "manager" and self._topology.database == "postgres":
            database = self._database_url(node)
        return EngineStart(node, daemon, services, self.bus_url(node), database, files, beside)

    @staticmethod
    def arguments(start: EngineStart) -> list[str]:
        """The same for `davit up`."""
        pairs = (("--node", start.node), ("--services", start.services), ("--nats", start.bus),
                 ("--database", start.database))  # fmt: skip
        return [word for flag, value in pairs if value for word in (flag, value)]

    def _bus_configuration(self, data: str) -> str:
        store = json.dumps(f"{data}/bus")
        return (
            f'listen: "0.0.0.0:{BUS_PORT}"\n'
            f"jetstream {{ store_dir: {store}, sync_interval: always }}\n"
            f'max_payload: 8MB\nwrite_deadline: "10s"\n'
            f'authorization {{ user: davit, password: "{self._secret}" }}\n'
        )

    def bus_url(self, node: str) -> str:
        """The bus, as a node reaches it."""
        address = "127.0.0.1" if node == self._first else self.address(self._first, node)
        return f"nats://davit:{self._secret}@{address}:{BUS_PORT}"

    def _database_url(self, node: str) -> str:
        return f"postgresql://davit:{self._secret}@{self.address(DATABASE_NODE, node)}:{DATABASE_PORT}/davit"

    def address(self, of: str, seen_from: str) -> str:
        """An address of a node: on a network that the other is on as well, else any, which routes lead to.

        Raises:
            InvalidArgument: The node has no address at all.
        """
        own = [(net, port) for net in self._nets for port in net.ports if port.node == of and port.addresses]
        common = [port for net, port in own if net.port(seen_from) is not None]
        for port in (*common, *(port for _, port in own)):
            return port.addresses[0].partition("/")[0]
        raise InvalidArgument(f"nodes.{of}: it has no address under which {seen_from} could reach it")

    def others(self, node: str) -> list[str]:
        """All other nodes as ``name:address``, by addresses that this one reaches them under."""
        found = (line.split() for line in self.hosts(node).splitlines()[2:])
        return [f"{name}:{address}" for address, name in found if name != node]

    def hosts(self, node: str) -> str:
        """A node's ``/etc/hosts``: itself, and all others by an address that it reaches them under."""
        lines = ["127.0.0.1 localhost", "::1 localhost"]
        for other in dict.fromkeys(port.node for net in self._nets for port in net.ports):
            with contextlib.suppress(InvalidArgument):  # it has no address, and needs no name
                lines.append(f"{self.address(other, node)} {other}")
        return "\n".join(lines) + "\n"

    def knows(self, client: EngineClient, node: str) -> bool:
        """Whether a manager gives a node work by now: it would look for an image before it says there is none."""
        body = {"Image": "davit-lab-no-such-image:none", "Labels": {"davit.node": node}}
        try:
            client.post("/containers/create", body)
        except NotFound:
            return True
        except DavitError:
            return False
        raise AssertionError("an image of this name exists")
