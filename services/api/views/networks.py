"""Networks as Docker shows them. Source: Docker Engine API 1.50, Network."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from services.api.answers import networks as answers
from services.api.versions import Version
from shared.contracts.networks import EndpointView, IpamPool, Network

WITH_ENABLE_IPV4 = (1, 48)
WITH_STATUS = (1, 52)
MOST = 2**64 - 1


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


def with_status(value: Network, version: Version) -> answers.NetworkShown:
    """A network by itself: from 1.52 on with the numbers of its addresses."""
    result = network(value, version)
    if version >= WITH_STATUS:
        subnets = {item.subnet: _subnet(item, value.endpoints) for item in value.ipam.config if item.subnet}
        result["Status"] = {"IPAM": {"Subnets": subnets}}
    return result


def _subnet(item: IpamPool, endpoints: list[EndpointView]) -> answers.SubnetStatus:
    """Used are the subnet's own address, its broadcast, the gateway and what is given or set aside."""
    subnet = ip_network(item.subnet, strict=False)
    given = [text.partition("/")[0] for one in endpoints for text in (one.ipv4_address, one.ipv6_address)]
    named = {ip_address(text) for text in (item.gateway.partition("/")[0], *item.aux.values(), *given) if text}
    used = {address for address in named if address in subnet} | {subnet.network_address}
    if subnet.version == 4:
        used.add(subnet.broadcast_address)
    pool_range = ip_network(item.ip_range, strict=False) if item.ip_range else subnet
    free = pool_range.num_addresses - sum(address in pool_range for address in used)
    return {"IPsInUse": min(len(used), MOST), "DynamicIPsAvailable": min(max(free, 0), MOST)}


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
