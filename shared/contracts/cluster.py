"""The cluster: founding, joining, its nodes. Served by control, on managers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from shared.bus.client import Contract, Empty
from shared.cluster.membership import DEFAULT_PORT, Membership
from shared.contracts.containers import NodeFacts

Role = Literal["manager", "worker"]
Availability = Literal["active", "pause", "drain"]
# unknown: it has joined and never reported since.
NodeState = Literal["unknown", "down", "ready", "disconnected"]


class Cluster(BaseModel):
    """A cluster, as its managers know it.

    Attributes:
        version: Grows with each change; an update names the one that it is based on.
        spec: Docker's SwarmSpec, its defaults filled in.
        ca: The CA's certificate, PEM.
        worker_token, manager_token: With which machines join.
    """

    id: str
    version: int
    created_at: str
    updated_at: str
    spec: dict[str, Any]
    ca: str
    worker_token: str
    manager_token: str
    data_path_port: int = 4789
    default_addr_pool: list[str] = Field(default_factory=list)
    subnet_size: int = 0


class Node(BaseModel):
    """A node of the cluster.

    Attributes:
        name: Its own, by which subjects and records name it; Docker calls it the host name.
        state: What is known of its life now; message says why, where that is not plain.
        facts: As of its last report; None when there was none yet.
        heard_at: When it was last heard of, RFC 3339; empty: never.
        leader: Of a manager: whether the work that only one manager does is done there.
        containers: How many of it run.
        memory_available_bytes, load: Of the machine, as its last sign of life had them.
        door: Of a manager: ``address:port`` at which machines join.
    """

    id: str
    name: str
    version: int
    role: Role
    availability: Availability = "active"
    labels: dict[str, str] = Field(default_factory=dict)
    spec_name: str = ""
    address: str = ""
    state: NodeState = "unknown"
    message: str = ""
    created_at: str = ""
    updated_at: str = ""
    heard_at: str = ""
    facts: NodeFacts | None = None
    leader: bool = False
    door: str = ""
    containers: int = 0
    memory_available_bytes: int = 0
    load: float = 0.0


class InitCluster(BaseModel):
    """Make this engine the first manager of a new cluster.

    Attributes:
        advertise: The address at which the others reach this machine; empty: found out.
        listen: The address to listen on.
    """

    advertise: str = ""
    listen: str = "0.0.0.0"
    port: int = DEFAULT_PORT
    availability: Availability = "active"
    spec: dict[str, Any] = Field(default_factory=dict)
    data_path_port: int = 0
    default_addr_pool: list[str] = Field(default_factory=list)
    subnet_size: int = 0


class Founded(BaseModel):
    node_id: str


class ClusterState(BaseModel):
    """Of the machine that is asked: cluster is None outside of one.

    Attributes:
        managers: Ids and doors (``address:port``) of the managers.
    """

    cluster: Cluster | None = None
    node_id: str = ""
    address: str = ""
    nodes: int = 0
    managers: dict[str, str] = Field(default_factory=dict)


class UpdateCluster(BaseModel):
    """spec: None leaves it as it is."""

    version: int
    spec: dict[str, Any] | None = None
    rotate_worker_token: bool = False
    rotate_manager_token: bool = False


class LeaveCluster(BaseModel):
    force: bool = False


class JoinCluster(BaseModel):
    """A machine that asks to be let in.

    Attributes:
        secret: That of the token it was given.
        csr: PEM.
        node: The name it goes by; it must be free.
        addresses: Where it can be reached, its own idea first.
        seen_from: The address its request came from.
    """

    secret: str
    csr: str
    node: str
    addresses: list[str] = Field(default_factory=list)
    seen_from: str = ""
    availability: Availability = "active"


class Joined(BaseModel):
    certificate: str
    ca: str
    membership: Membership


class RenewCertificate(BaseModel):
    node: str
    csr: str


class Renewed(BaseModel):
    """managers: Where they are by now."""

    certificate: str
    managers: list[str]


class ListNodes(BaseModel):
    """Filters of Docker's: id, name, label, node.label, role, membership."""

    filters: dict[str, list[str]] = Field(default_factory=dict)


class Nodes(BaseModel):
    nodes: list[Node]


class NodeRef(BaseModel):
    """Id, name or unique prefix of an id; ``self`` for the machine that is asked."""

    ref: str


class UpdateNode(BaseModel):
    ref: str
    version: int
    role: Role
    availability: Availability
    labels: dict[str, str] = Field(default_factory=dict)
    name: str = ""


class RemoveNode(BaseModel):
    ref: str
    force: bool = False


class Heartbeat(BaseModel):
    """A sign of life, twice a second.

    Attributes:
        memory_available_bytes, load: Of the machine: MemAvailable, and the load average of a minute.
        containers: How many run.
        reserved_bytes, reserved_nano_cpus: What limits and reservations of these keep for them.
        ports: ``number/protocol`` of the machine that these publish.
    """

    node: str
    reserved_bytes: int = 0
    reserved_nano_cpus: int = 0
    ports: list[str] = Field(default_factory=list)
    memory_available_bytes: int = 0
    load: float = 0.0
    containers: int = 0


INIT = Contract("davit.control.cluster.init", InitCluster, Founded, deadline_s=20)
INSPECT = Contract("davit.control.cluster.inspect", Empty, ClusterState, idempotent=True)
UPDATE = Contract("davit.control.cluster.update", UpdateCluster, Empty)
LEAVE = Contract("davit.control.cluster.leave", LeaveCluster, Empty, deadline_s=20)
JOIN = Contract("davit.control.cluster.join", JoinCluster, Joined, deadline_s=20)
NODES = Contract("davit.control.node.list", ListNodes, Nodes, idempotent=True)
NODE = Contract("davit.control.node.inspect", NodeRef, Node, idempotent=True)
UPDATE_NODE = Contract("davit.control.node.update", UpdateNode, Empty)
REMOVE_NODE = Contract("davit.control.node.remove", RemoveNode, Empty)
# From nodes
RENEW = Contract("davit.control.cluster.renew.{node}", RenewCertificate, Renewed, idempotent=True)
PING = Contract("davit.node.{node}.ping", Empty, Empty, deadline_s=0.5)
# Broadcasts: a sign of life (JSON of Heartbeat), below its node's name; and that membership or nodes have changed.
HEARTBEATS = "davit.control.heartbeat"
CHANGED = "davit.cluster.changed"
