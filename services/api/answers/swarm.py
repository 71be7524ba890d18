"""Answers of the routes of the cluster and its nodes. Source: Docker Engine API 1.50, Swarm, Node."""

from __future__ import annotations

from typing import Any, NotRequired

from typing_extensions import TypedDict


class ObjectVersion(TypedDict):
    """An update names the index that it is based on."""

    Index: int


class TLSInfo(TypedDict):
    """The CA: its certificate, and subject and public key of it in base64 of DER."""

    TrustRoot: str
    CertIssuerSubject: str
    CertIssuerPublicKey: str


class ClusterInfo(TypedDict):
    """A cluster without its join tokens."""

    ID: str
    Version: ObjectVersion
    CreatedAt: str
    UpdatedAt: str
    Spec: dict[str, Any]
    TLSInfo: TLSInfo
    RootRotationInProgress: bool
    DataPathPort: int
    DefaultAddrPool: list[str]
    SubnetSize: int


class JoinTokens(TypedDict):
    Worker: str
    Manager: str


class Swarm(ClusterInfo):
    """A cluster, for who may let machines in."""

    JoinTokens: JoinTokens


class PeerNode(TypedDict):
    NodeID: str
    Addr: str


class SwarmInfo(TypedDict):
    """The cluster as `info` shows it."""

    NodeID: str
    NodeAddr: str
    LocalNodeState: str
    ControlAvailable: bool
    Error: str
    RemoteManagers: list[PeerNode] | None
    Nodes: NotRequired[int]
    Managers: NotRequired[int]
    Cluster: NotRequired[ClusterInfo]


class NodeShown(TypedDict):
    """A node. Davit: what this engine knows beyond Docker's fields."""

    ID: str
    Version: ObjectVersion
    CreatedAt: str
    UpdatedAt: str
    Spec: dict[str, Any]
    Description: dict[str, Any]
    Status: dict[str, str]
    ManagerStatus: NotRequired[dict[str, Any]]
    Davit: dict[str, Any]
