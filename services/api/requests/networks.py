"""Queries and bodies of /networks. Source: Docker Engine API 1.50, Network."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from services.api.parameters import FilterMap, Flag, QueryModel, Text
from services.api.versions import Since
from shared.contracts.docker import DockerModel, EndpointSettings
from shared.contracts.networks import Ipam, IpamPool
from shared.docker.null import Bool, Str, StrMap


class PoolBody(DockerModel):
    """Addresses to give from."""

    subnet: Str = ""
    ip_range: Str = Field(default="", alias="IPRange")
    gateway: Str = ""
    auxiliary_addresses: StrMap = Field(default_factory=dict)


class IpamBody(DockerModel):
    driver: Str = ""
    options: StrMap = Field(default_factory=dict)
    config: list[PoolBody] | None = None

    def contract(self) -> Ipam:
        pools = [
            IpamPool(subnet=item.subnet, ip_range=item.ip_range, gateway=item.gateway, aux=item.auxiliary_addresses)
            for item in self.config or []
        ]
        return Ipam(driver=self.driver or "default", options=self.options, config=pools)


class ConfigReference(DockerModel):
    network: Str = ""


class NetworkBody(DockerModel):
    """A network to be made."""

    name: Str = ""
    check_duplicate: bool | None = None
    driver: Str = ""
    scope: Str = ""
    enable_ipv4: Annotated[bool | None, Since(1, 48)] = Field(default=None, alias="EnableIPv4")
    enable_ipv6: bool | None = Field(default=None, alias="EnableIPv6")
    ipam: IpamBody | None = Field(default=None, alias="IPAM")
    internal: Bool = False
    attachable: Bool = False
    ingress: Bool = False
    config_only: Bool = False
    config_from: ConfigReference | None = None
    options: StrMap = Field(default_factory=dict)
    labels: StrMap = Field(default_factory=dict)


class ConnectBody(DockerModel):
    container: Str = ""
    endpoint_config: EndpointSettings | None = None


class DisconnectBody(DockerModel):
    container: Str = ""
    force: Bool = False


class FiltersQuery(QueryModel):
    filters: FilterMap = Field(default_factory=dict)


class InspectQuery(QueryModel):
    verbose: Flag = Field(False, description="With the services of a swarm's network.")
    scope: Text = Field("", description="Only a network of that scope: local, swarm or global.")
