"""Networks, endpoints and published ports: what the network service answers, and what it sends to nodes."""

from __future__ import annotations

from pydantic import BaseModel, Field

from shared.bus.client import Contract, Empty
from shared.contracts.docker import EndpointSettings, PortMap
from shared.docker.filters import Filters

# Driver options of an endpoint: its interface's name, and settings for it (``net.ipv4.conf.IFNAME.log_martians=1,…``).
IFNAME = "com.docker.network.endpoint.ifname"
SYSCTLS = "com.docker.network.endpoint.sysctls"


class IpamPool(BaseModel):
    """One address pool. CIDR texts; `aux` maps names to reserved addresses."""

    subnet: str = ""
    ip_range: str = ""
    gateway: str = ""
    aux: dict[str, str] = Field(default_factory=dict)


class Ipam(BaseModel):
    driver: str = "default"
    options: dict[str, str] = Field(default_factory=dict)
    config: list[IpamPool] = Field(default_factory=list)


class EndpointView(BaseModel):
    """One endpoint as `docker network inspect` lists it under Containers."""

    container_id: str
    name: str
    endpoint_id: str
    mac_address: str = ""
    ipv4_address: str = ""
    ipv6_address: str = ""


class Network(BaseModel):
    id: str
    name: str
    created_at: str = ""
    scope: str = "local"
    driver: str = "bridge"
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: str = ""
    ipam: Ipam = Field(default_factory=Ipam)
    options: dict[str, str] = Field(default_factory=dict)
    labels: dict[str, str] = Field(default_factory=dict)
    endpoints: list[EndpointView] = Field(default_factory=list)


class CreateNetwork(BaseModel):
    name: str
    driver: str = ""
    scope: str = ""
    check_duplicate: bool = True
    enable_ipv4: bool | None = None
    enable_ipv6: bool | None = None
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: str = ""
    ipam: Ipam | None = None
    options: dict[str, str] = Field(default_factory=dict)
    labels: dict[str, str] = Field(default_factory=dict)


class CreatedNetwork(BaseModel):
    id: str
    warning: str = ""


class NetworkRef(BaseModel):
    """A network by name, id or unique id prefix."""

    ref: str
    verbose: bool = False
    scope: str = ""


class ListNetworks(BaseModel):
    filters: Filters = Field(default_factory=dict)
    endpoints: bool = False


class Networks(BaseModel):
    networks: list[Network]


class PruneNetworks(BaseModel):
    filters: Filters = Field(default_factory=dict)


class PrunedNetworks(BaseModel):
    names: list[str]


class NodeNetwork(BaseModel):
    """What a node must know of a network to realise it in its kernel.

    Attributes:
        bridge: Interface name, 15 bytes at most: ``davit0`` or the like for the default network, ``dv-<12 hex>`` for
            others.
        subnet, gateway: CIDR of the pool and the bridge's own address; empty without that family.
        icc: Whether containers on it may talk to each other.
        masquerade: Whether traffic that leaves it is source-translated.
        host_binding_ip: Default address of published ports.
        dns: Whether 127.0.0.11 answers names on it (user-defined networks).
        foreign_bridge: Whether somebody else made the bridge, and configures it.
    """

    id: str
    name: str
    driver: str = "bridge"
    bridge: str = ""
    subnet: str = ""
    gateway: str = ""
    subnet6: str = ""
    gateway6: str = ""
    internal: bool = False
    mtu: int = 1500
    icc: bool = True
    masquerade: bool = True
    host_binding_ip: str = ""
    dns: bool = True
    foreign_bridge: bool = False
    options: dict[str, str] = Field(default_factory=dict)


class PublishedPort(BaseModel):
    """A published port; `host_ip` is ``0.0.0.0``, ``::`` or one address. protocol: tcp, udp or sctp."""

    protocol: str
    container_port: int
    host_ip: str
    host_port: int


class Attachment(BaseModel):
    """One endpoint, complete: everything a node needs to connect a container to a network.

    Attributes:
        interface: Name inside the container (``eth0``, …).
        address, address6: CIDR (``172.17.0.2/16``), empty without that family.
        container_name: Without the slash; for error texts.
        default_gateway: Whether the container's default route leaves through this endpoint.
        gw_priority: Which endpoint gets it when that one goes: the highest, then the network's name that sorts first.
        dns_names: Names that resolve to this endpoint on this network: container name, aliases, short id, hostname.
    """

    endpoint_id: str
    container_id: str
    container_name: str = ""
    network: NodeNetwork
    interface: str = "eth0"
    mac_address: str = ""
    address: str = ""
    address6: str = ""
    default_gateway: bool = True
    gw_priority: int = 0
    dns_names: list[str] = Field(default_factory=list)
    links: dict[str, str] = Field(default_factory=dict)
    ports: list[PublishedPort] = Field(default_factory=list)
    driver_opts: dict[str, str] = Field(default_factory=dict)


class HostPort(BaseModel):
    """A port of a node. protocol: tcp, udp or sctp."""

    protocol: str
    port: int


class JoinNetworks(BaseModel):
    """Give a container its endpoints and ports. Idempotent per container: the same again answers the same.

    Attributes:
        generation: The start that they are for: a release that is for an earlier one leaves them alone.
        avoid: Ports that turned out to be in use on the node. What the container has is given back, and chosen anew.
        networks: Network reference -> what was asked for; the first named is the one NetworkMode names.
        exposed: ``80/tcp`` texts, of image and container, for publish_all.
        ports: Bindings as asked; host port empty, a number, or a range.
    """

    container_id: str
    container_name: str
    hostname: str = ""
    node: str
    networks: dict[str, EndpointSettings]
    ports: PortMap = Field(default_factory=dict)
    exposed: list[str] = Field(default_factory=list)
    publish_all: bool = False
    primary: str = ""
    generation: int = 0
    avoid: list[HostPort] = Field(default_factory=list)


class Joined(BaseModel):
    """Endpoints, with Docker's view of each by network name, and the ports as they were allocated."""

    attachments: list[Attachment]
    settings: dict[str, EndpointSettings]
    ports: PortMap = Field(default_factory=dict)


class ConnectNetwork(BaseModel):
    container_id: str
    container_name: str
    hostname: str = ""
    node: str
    network: str
    settings: EndpointSettings = Field(default_factory=EndpointSettings)
    generation: int = 0


class LeaveNetworks(BaseModel):
    """Release a container's endpoints: all, or the one on `network`; and only those for a start up to `generation`."""

    container_id: str
    network: str | None = None
    generation: int | None = None


class Left(BaseModel):
    """What was released. kept: there are endpoints for a later start."""

    attachments: list[Attachment] = Field(default_factory=list)
    kept: bool = False


class RenameEndpoints(BaseModel):
    container_id: str
    container_name: str


class NodeNetworksRequest(BaseModel):
    node: str


class NodeNetworks(BaseModel):
    """All that a node should have: networks, and the endpoints whose names its DNS answers (of every node)."""

    networks: list[NodeNetwork]
    attachments: list[Attachment]


class ApplyNetwork(BaseModel):
    """Make a network exist on a node now (create) or go away (remove)."""

    network: NodeNetwork


CREATE = Contract("davit.network.network.create", CreateNetwork, CreatedNetwork)
INSPECT = Contract("davit.network.network.inspect", NetworkRef, Network, idempotent=True)
LIST = Contract("davit.network.network.list", ListNetworks, Networks, idempotent=True)
REMOVE = Contract("davit.network.network.remove", NetworkRef, Empty, frees=True)
PRUNE = Contract("davit.network.network.prune", PruneNetworks, PrunedNetworks, deadline_s=60, frees=True)
# Asked by control.
JOIN = Contract("davit.network.endpoint.join", JoinNetworks, Joined, idempotent=True)
CONNECT = Contract("davit.network.endpoint.connect", ConnectNetwork, Joined, idempotent=True)
LEAVE = Contract("davit.network.endpoint.leave", LeaveNetworks, Left, idempotent=True, frees=True)
RENAME = Contract("davit.network.endpoint.rename", RenameEndpoints, Empty, idempotent=True)
# Asked by agents at start and when they reconnect.
NODE_WANTED = Contract("davit.network.node.wanted.{node}", NodeNetworksRequest, NodeNetworks, idempotent=True)
# Sent to agents.
NODE_APPLY = Contract("davit.node.{node}.network.apply", ApplyNetwork, Empty, idempotent=True)
NODE_REMOVE = Contract("davit.node.{node}.network.remove", ApplyNetwork, Empty, idempotent=True)
# Broadcast (plain publish, JSON of Attachment) so that every agent's DNS follows at once; NODE_WANTED is the truth.
RECORD_ADDED = "davit.dns.added"
RECORD_REMOVED = "davit.dns.removed"
# Broadcast (JSON of ApplyNetwork) after a network was removed, so that every node takes its bridge away.
NETWORK_REMOVED = "davit.network.removed"
