"""A cluster's records, and what changes of them are possible. Pure.

Source: Docker Engine API 1.50, Swarm and Node objects; SwarmKit's defaults.
"""

from __future__ import annotations

import copy
import hmac
from typing import Any

from pydantic import BaseModel, Field

from shared.contracts.cluster import Availability, Cluster, Node, NodeState, Role
from shared.contracts.containers import NodeFacts
from shared.docker.moments import rfc3339
from shared.errors import Conflict, InvalidArgument
from shared.events.record import DomainEvent

DAY_NS = 24 * 3600 * 1_000_000_000
_DEFAULT_SPEC: dict[str, Any] = {
    "Name": "default",
    "Labels": {},
    "Orchestration": {"TaskHistoryRetentionLimit": 5},
    "Raft": {
        "SnapshotInterval": 10000,
        "KeepOldSnapshots": 0,
        "LogEntriesForSlowFollowers": 500,
        "ElectionTick": 10,
        "HeartbeatTick": 1,
    },
    "Dispatcher": {"HeartbeatPeriod": 5_000_000_000},
    "CAConfig": {"NodeCertExpiry": 90 * DAY_NS},
    "TaskDefaults": {},
    "EncryptionConfig": {"AutoLockManagers": False},
}


class ClusterRecord(BaseModel):
    """The cluster itself; there is one or none."""

    id: str
    version: int = 1
    created_ns: int
    updated_ns: int
    spec: dict[str, Any]
    ca: str
    worker_secret: str
    manager_secret: str
    worker_token: str
    manager_token: str
    data_path_port: int = 4789
    default_addr_pool: list[str] = Field(default_factory=list)
    subnet_size: int = 24

    def role_of(self, secret: str) -> Role | None:
        """What a machine with this secret may join as; None: it may not. Compared in constant time."""
        if hmac.compare_digest(secret, self.worker_secret):
            return "worker"
        return "manager" if hmac.compare_digest(secret, self.manager_secret) else None

    def view(self) -> Cluster:
        shared = self.model_dump(include=Cluster.model_fields.keys() & type(self).model_fields.keys())
        return Cluster(**shared, created_at=rfc3339(self.created_ns), updated_at=rfc3339(self.updated_ns))


class Member(BaseModel):
    """A node of the cluster. state is the one last written down; who asks is told the present one."""

    id: str
    name: str
    version: int = 1
    role: Role
    availability: Availability = "active"
    labels: dict[str, str] = Field(default_factory=dict)
    spec_name: str = ""
    address: str = ""
    door: str = ""
    subject: str = ""
    state: NodeState = "unknown"
    created_ns: int
    updated_ns: int

    def view(self, facts: NodeFacts | None, heard_ns: int, *, state: NodeState, message: str, leader: bool) -> Node:
        shared = self.model_dump(include=Node.model_fields.keys() & type(self).model_fields.keys() - {"state"})
        return Node(
            **shared,
            state=state,
            message=message,
            facts=facts,
            leader=leader,
            created_at=rfc3339(self.created_ns),
            updated_at=rfc3339(self.updated_ns),
            heard_at=rfc3339(heard_ns) if heard_ns else "",
        )

    def event(self, action: str, **attributes: str) -> DomainEvent:
        """Docker's event about a node."""
        return DomainEvent(
            type="node", action=action, actor_id=self.id, scope="swarm", attributes={"name": self.name, **attributes}
        )

    def changed(
        self, *, role: Role, availability: Availability, labels: dict[str, str], name: str
    ) -> tuple[Member, dict[str, str]]:
        """The member after an update, and what an event tells of the difference."""
        told: dict[str, str] = {}
        for key, old, new in (("availability", self.availability, availability), ("role", self.role, role)):
            if old != new:
                told |= {f"{key}.old": old, f"{key}.new": new}
        updated = self.model_copy(
            update={"role": role, "availability": availability, "labels": labels, "spec_name": name}
        )
        return updated, told


def check_version(current: int, named: int) -> None:
    """Raises InvalidArgument, in SwarmKit's words: the update is based on what is not the present state."""
    if current != named:
        raise InvalidArgument("rpc error: code = Unknown desc = update out of sequence", field="version")


def default_spec(given: dict[str, Any]) -> dict[str, Any]:
    """A cluster's specification, with defaults for what was not given."""
    return merged(copy.deepcopy(_DEFAULT_SPEC), given)


def merged(base: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """`base` with what was given; null and zero mean "not said" there, as in Docker."""
    for key, value in given.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict) and key != "Labels":
            merged(base[key], value)
        elif value not in (None, 0, ""):
            base[key] = value
    return base


def check_last_manager(members: list[Member], leaving: Member) -> None:
    """Raises Conflict: without this one, nobody would manage the cluster."""
    if leaving.role == "manager" and not any(one.role == "manager" for one in members if one.id != leaving.id):
        raise Conflict(
            "attempting to demote the last manager of the swarm: promote or join another one first",
            node=leaving.name,
        )
