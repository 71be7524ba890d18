"""Answers of /networks. Source: Docker Engine API 1.50, Network."""

from __future__ import annotations

from typing import Annotated, NotRequired

from typing_extensions import TypedDict

from services.api.versions import Since


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


class NetworkCreated(TypedDict):
    Id: str
    Warning: str


class NetworksPruned(TypedDict):
    NetworksDeleted: list[str] | None
