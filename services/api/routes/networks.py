"""/networks. Source: Docker Engine API 1.50, Network."""

from __future__ import annotations

from pydantic import Field
from starlette.responses import Response

from services.api.call import Call, Routes, empty_response, json_response
from services.api.repeating import until_answered
from services.api.views import networks as views
from shared.contracts import containers as container_contracts
from shared.contracts import networks as contracts
from shared.contracts.docker import DockerModel, EndpointSettings
from shared.contracts.networks import Ipam, IpamPool, NetworkRef
from shared.docker.null import Bool, Str, StrMap
from shared.errors import Conflict, Forbidden, InvalidArgument, NotFound

WITH_ENABLE_IPV4 = (1, 48)


class PoolBody(DockerModel):
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


class CreateBody(DockerModel):
    name: Str = ""
    check_duplicate: bool | None = None
    driver: Str = ""
    scope: Str = ""
    enable_ipv4: bool | None = Field(default=None, alias="EnableIPv4")
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


async def create(call: Call) -> Response:
    body = await call.json_body(CreateBody)
    if not body.name:
        raise InvalidArgument("invalid name: name is empty", field="Name")
    request = contracts.CreateNetwork(
        name=body.name,
        driver=body.driver,
        scope=body.scope,
        # From 1.44 on names are unique, whatever the client says.
        check_duplicate=True if call.version >= (1, 44) else bool(body.check_duplicate),
        enable_ipv4=body.enable_ipv4 if call.version >= WITH_ENABLE_IPV4 else None,
        enable_ipv6=body.enable_ipv6,
        internal=body.internal,
        attachable=body.attachable,
        ingress=body.ingress,
        config_only=body.config_only,
        config_from=body.config_from.network if body.config_from else "",
        ipam=body.ipam.contract() if body.ipam else None,
        options=body.options,
        labels=body.labels,
    )
    created = await until_answered(lambda _: call.ask(contracts.CREATE, request), done=(Conflict,))
    if created is None:  # an earlier attempt has made it: its name is taken now
        made = await call.ask(contracts.INSPECT, NetworkRef(ref=body.name))
        created = contracts.CreatedNetwork(id=made.id)
    return json_response({"Id": created.id, "Warning": created.warning}, 201)


async def list_all(call: Call) -> Response:
    result = await call.ask(contracts.LIST, contracts.ListNetworks(filters=call.params.filters()))
    return json_response([views.network(item, call.version) for item in result.networks])


async def inspect(call: Call) -> Response:
    params = call.params
    network = await call.ask(
        contracts.INSPECT,
        NetworkRef(ref=call.path("ref"), verbose=params.flag("verbose"), scope=params.text("scope")),
    )
    return json_response(views.network(network, call.version))


async def remove(call: Call) -> Response:
    request = NetworkRef(ref=call.path("ref"))
    await until_answered(lambda _: call.ask(contracts.REMOVE, request), done=(NotFound,))
    return empty_response()


async def connect(call: Call) -> Response:
    body = await call.json_body(ConnectBody)
    request = container_contracts.ConnectContainer(
        ref=body.container, network=call.path("ref"), settings=body.endpoint_config or EndpointSettings()
    )
    # To be connected, or not to be, is forbidden to those who are already.
    await until_answered(lambda _: call.ask(container_contracts.CONNECT, request), done=(Forbidden,))
    return empty_response(200)


async def disconnect(call: Call) -> Response:
    body = await call.json_body(DisconnectBody)
    if not body.container:
        raise InvalidArgument("invalid container name or ID: value is empty", field="Container")
    request = container_contracts.DisconnectContainer(ref=body.container, network=call.path("ref"), force=body.force)
    await until_answered(lambda _: call.ask(container_contracts.DISCONNECT, request), done=(Forbidden,))
    return empty_response(200)


async def prune(call: Call) -> Response:
    result = await call.ask(contracts.PRUNE, contracts.PruneNetworks(filters=call.params.filters()))
    return json_response({"NetworksDeleted": result.names or None})


ROUTES: Routes = (
    ("GET", "/networks", list_all),
    ("POST", "/networks/create", create),
    ("POST", "/networks/prune", prune),
    ("GET", "/networks/{ref}", inspect),
    ("DELETE", "/networks/{ref}", remove),
    ("POST", "/networks/{ref}/connect", connect),
    ("POST", "/networks/{ref}/disconnect", disconnect),
)
