"""The cluster and its nodes as Docker shows them.

Source: Docker Engine API 1.50, Swarm, Node, SystemInfo.Swarm.
"""

from __future__ import annotations

import base64
from typing import Any

from services.api.answers import swarm as answers
from shared.contracts.cluster import Cluster, ClusterState, Node

GO_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
INACTIVE: answers.SwarmInfo = {
    "NodeID": "",
    "NodeAddr": "",
    "LocalNodeState": "inactive",
    "ControlAvailable": False,
    "Error": "",
    "RemoteManagers": None,
}


def tls_info(ca: str) -> answers.TLSInfo:
    """What clients are told of the CA."""
    from shared.cluster.certificates import issuer_facts

    subject, public_key = issuer_facts(ca.encode())
    return {
        "TrustRoot": ca,
        "CertIssuerSubject": base64.b64encode(subject).decode(),
        "CertIssuerPublicKey": base64.b64encode(public_key).decode(),
    }


def cluster_info(cluster: Cluster) -> answers.ClusterInfo:
    """A cluster without its join tokens."""
    return {
        "ID": cluster.id,
        "Version": {"Index": cluster.version},
        "CreatedAt": cluster.created_at,
        "UpdatedAt": cluster.updated_at,
        "Spec": cluster.spec,
        "TLSInfo": tls_info(cluster.ca),
        "RootRotationInProgress": False,
        "DataPathPort": cluster.data_path_port,
        "DefaultAddrPool": cluster.default_addr_pool,
        "SubnetSize": cluster.subnet_size,
    }


def swarm(cluster: Cluster) -> answers.Swarm:
    tokens: answers.JoinTokens = {"Worker": cluster.worker_token, "Manager": cluster.manager_token}
    return {**cluster_info(cluster), "JoinTokens": tokens}


def info(state: ClusterState) -> answers.SwarmInfo:
    """The part of ``GET /info`` that is about the cluster."""
    if state.cluster is None:
        return INACTIVE
    managers: list[answers.PeerNode] = [{"NodeID": key, "Addr": door} for key, door in sorted(state.managers.items())]
    return {
        "NodeID": state.node_id,
        "NodeAddr": state.address,
        "LocalNodeState": "active",
        "ControlAvailable": True,
        "Error": "",
        "RemoteManagers": managers,
        "Nodes": state.nodes,
        "Managers": len(managers),
        "Cluster": cluster_info(state.cluster),
    }


def node(value: Node, ca: str) -> answers.NodeShown:
    """A node. ca: the cluster's, PEM."""
    status = {"State": value.state, "Addr": value.address}
    if value.message:
        status["Message"] = value.message
    result: answers.NodeShown = {
        "ID": value.id,
        "Version": {"Index": value.version},
        "CreatedAt": value.created_at,
        "UpdatedAt": value.updated_at,
        "Spec": _spec(value),
        "Description": _description(value, ca),
        "Status": status,
        "Davit": _beyond_docker(value),
    }
    if value.role == "manager":
        reachability = "reachable" if value.state in ("ready", "unknown") else "unreachable"
        result["ManagerStatus"] = {"Reachability": reachability, "Addr": value.door}
        if value.leader:
            result["ManagerStatus"]["Leader"] = True
    return result


def _spec(value: Node) -> dict[str, Any]:
    spec = {"Labels": value.labels, "Role": value.role, "Availability": value.availability}
    return spec | ({"Name": value.spec_name} if value.spec_name else {})


def _description(value: Node, ca: str) -> dict[str, Any]:
    description: dict[str, Any] = {"Hostname": value.name, "TLSInfo": tls_info(ca)}
    facts = value.facts
    if facts is None:
        return description
    plugins = {
        "Log": ("json-file", "local", "none"),
        "Network": ("bridge", "host", "macvlan", "null"),
        "Volume": ("local",),
    }
    return description | {
        "Platform": {"Architecture": facts.architecture, "OS": "linux"},
        "Resources": {"NanoCPUs": facts.cpus * 1_000_000_000, "MemoryBytes": facts.memory_bytes},
        "Engine": {
            "EngineVersion": facts.version,
            "Labels": dict(label.partition("=")[::2] for label in facts.labels),
            "Plugins": [{"Type": kind, "Name": name} for kind, names in plugins.items() for name in names],
        },
    }


def _beyond_docker(value: Node) -> dict[str, Any]:
    """What `davit node` shows and Docker has no field for."""
    facts = value.facts
    beyond: dict[str, Any] = {
        "Containers": value.containers,
        "MemoryAvailable": value.memory_available_bytes,
        "LoadAverage": value.load,
        "HeardAt": value.heard_at,
    }
    if facts is not None:
        beyond |= {
            "KernelVersion": facts.kernel_version,
            "OperatingSystem": facts.operating_system,
            "CgroupVersion": facts.cgroup_version,
            "Runtimes": sorted(facts.runtimes),
            "DiskFree": facts.disk_free_bytes,
            "GoArchitecture": GO_ARCHITECTURES.get(facts.architecture, facts.architecture),
        }
    return beyond
