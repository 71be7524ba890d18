"""Networks as Docker shows them. Source: Docker Engine API 1.50, Network."""

from __future__ import annotations

from services.api.answers import networks as answers
from services.api.versions import Version
from shared.contracts.networks import EndpointView, IpamPool, Network

WITH_ENABLE_IPV4 = (1, 48)


def network(value: Network, version: Version) -> answers.NetworkShown:
    result: answers.NetworkShown = {
        "Name": value.name,
        "Id": value.id,
        "Created": value.created_at,
        "Scope": value.scope,
        "Driver": value.driver,
        "EnableIPv6": value.enable_ipv6,
        "IPAM": {
            "Driver": value.ipam.driver,
            "Options": value.ipam.options or None,
            "Config": [pool(item) for item in value.ipam.config],
        },
        "Internal": value.internal,
        "Attachable": value.attachable,
        "Ingress": value.ingress,
        "ConfigFrom": {"Network": value.config_from},
        "ConfigOnly": value.config_only,
        "Containers": {item.container_id: endpoint(item) for item in value.endpoints},
        "Options": value.options,
        "Labels": value.labels,
    }
    if version >= WITH_ENABLE_IPV4:
        result["EnableIPv4"] = value.enable_ipv4
    return result


def pool(value: IpamPool) -> answers.IpamPool:
    result: answers.IpamPool = {"Subnet": value.subnet}
    if value.ip_range:
        result["IPRange"] = value.ip_range
    if value.gateway:
        result["Gateway"] = value.gateway
    if value.aux:
        result["AuxiliaryAddresses"] = value.aux
    return result


def endpoint(value: EndpointView) -> answers.NetworkContainer:
    return {
        "Name": value.name,
        "EndpointID": value.endpoint_id,
        "MacAddress": value.mac_address,
        "IPv4Address": value.ipv4_address,
        "IPv6Address": value.ipv6_address,
    }
