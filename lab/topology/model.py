"""The lab's file as types. `lab.topology.load` reads it, and says where in the file something is wrong."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lab.topology.impairment import Impairment
from lab.topology.units import Size

NAME = r"^[a-zA-Z0-9][a-zA-Z0-9_-]{0,29}$"
INTERFACE = r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,14}$"
Name = Annotated[str, Field(pattern=NAME)]
DATABASE_NODE = "database"
DEFAULT_SEGMENT = "lan"


def _network(text: str) -> str:
    network = ipaddress.ip_network(text)
    if network.num_addresses < 4:
        raise ValueError(f"{text} has no room for two nodes")
    return text


def _interface_address(text: str) -> str:
    if "/" not in text:
        raise ValueError(f"{text} says no prefix length, as 10.0.0.1/24 does")
    return str(ipaddress.ip_interface(text))


def _command(value: Any) -> Any:
    """A list of words, also from one line, split as a shell would."""
    import shlex

    return shlex.split(value) if isinstance(value, str) else value


def _variables(value: Any) -> Any:
    """A mapping; numbers and booleans as YAML would write them."""
    if isinstance(value, dict):
        return {key: str(item).lower() if isinstance(item, bool) else str(item) for key, item in value.items()
                if not isinstance(item, dict | list)}  # fmt: skip
    return value


Subnet = Annotated[str, AfterValidator(_network)]
InterfaceAddress = Annotated[str, AfterValidator(_interface_address)]
Command = Annotated[list[str], BeforeValidator(_command)]
Variables = Annotated[dict[str, str], BeforeValidator(_variables)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Node(_Part):
    """A machine of the lab.

    Attributes:
        role: ``manager``: a whole engine; ``worker``: an agent that a manager gives work; ``image``: a plain
            container, as an element of the network.
        labels: of the node, for placement.
        memory, cpus: What the node and all its containers may use together; None for as much as there is.
        daemon: Content of its ``daemon.json``.
        images: Loaded before the lab is ready: an archive's path, or a name that this machine's engine has.
        routes: ``10.2.0.0/24 via 10.1.0.1``, set in the node.
        ports: ``8080:80`` — a TCP port of this machine that leads to one of the node.
        exec: Commands that run in the node once it is ready.
        image, command, environment, binds: For ``image`` only: what to run, and with what.
    """

    role: Literal["manager", "worker", "image"] = "worker"
    labels: Variables = Field(default_factory=dict)
    memory: Size | None = None
    cpus: float | None = Field(default=None, gt=0)
    daemon: dict[str, Any] = Field(default_factory=dict)
    images: list[str] = Field(default_factory=list)
    routes: list[Annotated[str, Field(pattern=r"^\S+ via \S+$")]] = Field(default_factory=list)
    ports: list[Annotated[str, Field(pattern=r"^(\d+\.\d+\.\d+\.\d+:)?\d+:\d+$")]] = Field(default_factory=list)
    exec: list[Command] = Field(default_factory=list)
    image: str = ""
    command: Command = Field(default_factory=list)
    environment: Variables = Field(default_factory=dict)
    binds: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _fits_role(self) -> Self:
        own = ("image", "command", "environment", "binds")
        if self.role == "image":
            if not self.image:
                raise ValueError("image: a node of role image says which one it runs")
            for field in ("daemon", "images"):
                if getattr(self, field):
                    raise ValueError(f"{field}: a node of role image has no engine")
        else:
            for field in own:
                if getattr(self, field):
                    raise ValueError(f"{field}: only a node of role image has one")
        return self

    @model_validator(mode="after")
    def _daemon_is_understood(self) -> Self:
        if not self.daemon:
            return self
        from shared.config import EngineConfig
        from shared.errors import DavitError

        for key in ("data-root", "run-dir", "node", "nats-url", "database-url"):
            if key in self.daemon:
                raise ValueError(f"daemon: the lab itself decides {key}")
        try:
            EngineConfig.checked(self.daemon)
        except DavitError as error:
            raise ValueError(f"daemon: {error}") from error
        return self


class _Wire(Impairment):
    """Parameters of both directions."""

    mtu: int = Field(default=1500, ge=576, le=65535)

    @property
    def both(self) -> Impairment:
        return Impairment.model_construct(**{name: getattr(self, name) for name in Impairment.model_fields})


class Link(_Wire):
    """A wire between two nodes.

    Attributes:
        between: The two; ``a:eth3`` to name the interface as well.
        addresses: By node; an empty list for none, and without the field from the lab's own range.
        directions: Parameters of what the named node sends, in place of those of both directions.
    """

    between: Annotated[list[str], Field(min_length=2, max_length=2)]
    addresses: dict[str, list[InterfaceAddress]] | None = None
    directions: dict[str, Impairment] = Field(default_factory=dict)

    @property
    def ends(self) -> list[tuple[str, str]]:
        """Node and interface, "" where none is named."""
        parted = (text.partition(":") for text in self.between)
        return [(node, interface) for node, _, interface in parted]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        import re

        nodes = [node for node, _ in self.ends]
        if nodes[0] == nodes[1]:
            raise ValueError(f"between: {nodes[0]} cannot be wired to itself")
        for node, interface in self.ends:
            if interface and not re.match(INTERFACE, interface):
                raise ValueError(f"between: {interface!r} of {node} is not a name for an interface")
        for field in ("addresses", "directions"):
            for node in getattr(self, field) or {}:
                if node not in nodes:
                    raise ValueError(f"{field}: {node} is not an end of this link")
        return self


class Segment(_Wire):
    """A network that several nodes share, as through a switch. Parameters are those of each node's way to it.

    Attributes:
        subnet: Where addresses come from; without it from the lab's own range.
        nodes: Who is on it; None for all.
        addresses: Fixed ones, by node.
    """

    subnet: Subnet | None = None
    nodes: list[str] | None = None
    addresses: dict[str, list[InterfaceAddress]] = Field(default_factory=dict)


class Topology(_Part):
    """The whole file.

    Attributes:
        database: ``sqlite``, or ``postgres``, which several managers need: it runs in the lab as node ``database``.
        segments, links: Without either of them all nodes are on one segment, ``lan``.
        faults: What shall go wrong: ``at 10s: cut a-b for 30s``.
        seed: What is drawn by lot in `faults` follows from it.
    """

    name: Name
    database: Literal["sqlite", "postgres"] = "sqlite"
    nodes: Annotated[dict[Name, Node], Field(min_length=1)]
    segments: dict[Name, Segment] = Field(default_factory=dict)
    links: list[Link] = Field(default_factory=list)
    faults: list[dict[str, str]] = Field(default_factory=list)
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_empty(cls, values: Any) -> Any:
        """``w1:`` without a value is a node with nothing said about it."""
        if not isinstance(values, dict):
            return values
        filled = dict(values)
        for field in ("nodes", "segments"):
            if isinstance(filled.get(field), dict):
                filled[field] = {name: {} if part is None else part for name, part in filled[field].items()}
        return filled

    @property
    def wired(self) -> dict[str, Segment]:
        """The segments, with the one that there is when nothing is said."""
        return self.segments if self.segments or self.links else {DEFAULT_SEGMENT: Segment()}

    def managers(self) -> list[str]:
        return [name for name, node in self.nodes.items() if node.role == "manager"]

    def engines(self) -> list[str]:
        return [name for name, node in self.nodes.items() if node.role != "image"]


def problems(topology: Topology) -> Iterator[tuple[str, str]]:
    """What does not fit together: the path of the field (``links.0.between``), and what is wrong with it."""
    yield from _problems_of_names(topology)
    managers = topology.managers()
    workers = [name for name, node in topology.nodes.items() if node.role == "worker"]
    if workers and not managers:
        yield f"nodes.{workers[0]}.role", "a worker needs a manager, and this lab has none"
    if len(managers) > 1 and topology.database != "postgres":
        yield "database", "several managers need `database: postgres`, which the lab starts for them"
    for name, segment in topology.segments.items():
        for index, node in enumerate(segment.nodes or []):
            if node not in topology.nodes:
                yield f"segments.{name}.nodes.{index}", f"there is no node {node}"
        for node in segment.addresses:
            if node not in topology.nodes or (segment.nodes is not None and node not in segment.nodes):
                yield f"segments.{name}.addresses.{node}", f"{node} is not on this segment"
    for index, link in enumerate(topology.links):
        for end, (node, _) in enumerate(link.ends):
            if node not in topology.nodes:
                yield f"links.{index}.between.{end}", f"there is no node {node}"


def _problems_of_names(topology: Topology) -> Iterator[tuple[str, str]]:
    if DATABASE_NODE in topology.nodes and topology.database == "postgres":
        yield f"nodes.{DATABASE_NODE}", "this is the name of the lab's own Postgres"
    for name in topology.nodes:
        if name in topology.wired:
            yield f"nodes.{name}", "a node and a segment cannot have one name"
