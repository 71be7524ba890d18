"""Answers of /networks. Source: Docker Engine API 1.50, Network."""

from __future__ import annotations

from typing import Annotated, NotRequired

from typing_extensions import TypedDict

from services.api.versions import Since
from shared.docker.integers import UInt64


class IpamPool(TypedDict):
    Subnet: str
    IPRange: NotRequired[str]
    Gateway: NotRequired[str]
    AuxiliaryAddresses: NotRequired[dict[str, str]]


class Ipam(TypedDict):
    Driver: str
    Options: dict[str, str] | None
    Config: list[IpamPool]


class ConfigFrom(TypedDict):
    Network: str


class NetworkContainer(TypedDict):
    """A container in a network."""

    Name: str
    EndpointID: str
    MacAddress: str
    IPv4Address: str
    IPv6Address: str


class SubnetStatus(TypedDict):
    """Addresses of a subnet."""

    IPsInUse: UInt64
    DynamicIPsAvailable: UInt64


class IpamStatus(TypedDict):
    Subnets: dict[str, SubnetStatus]


class NetworkStatus(TypedDict):
    """How much of its addresses a network has given."""

    IPAM: IpamStatus


class NetworkShown(TypedDict):
    """A network."""

    Name: str
    Id: str
    Created: str
    Scope: str
    Driver: str
    EnableIPv4: NotRequired[Annotated[bool, Since(1, 48)]]
    EnableIPv6: bool
    IPAM: Ipam
    Internal: bool
    Attachable: bool
    Ingress: bool
    ConfigFrom: ConfigFrom
    ConfigOnly: bool
    Containers: dict[str, NetworkContainer]
    Options: dict[str, str]
    Labels: dict[str, str]
    Status: NotRequired[Annotated[NetworkStatus, Since(1, 52)]]


class NetworkCreated(TypedDict):
    Id: str
    Warning: str


class NetworksPruned(TypedDict):
    NetworksDeleted: list[str] | None
