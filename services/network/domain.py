"""What a network is, and which requests for one make sense. Pure.

Source: Docker Engine API 1.50, Network; options of the bridge driver; error texts of the reference engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, Field

from services.network import ipam
from services.network.ipam import Pool
from shared.contracts.networks import CreateNetwork, Ipam, IpamPool, Network, NodeNetwork
from shared.docker.words import parse_bool
from shared.errors import Forbidden, InvalidArgument, NotFound, Unsupported

PREDEFINED = ("bridge", "host", "none")
DRIVERS = ("bridge", "macvlan")
SINGLE = {"host": "host", "null": "null", "none": "null"}
MACVLAN_MODES = ("", "bridge", "private", "vepa", "passthru")

BRIDGE_NAME = "com.docker.network.bridge.name"
ICC = "com.docker.network.bridge.enable_icc"
MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
HOST_BINDING = "com.docker.network.bridge.host_binding_ipv4"
DEFAULT = "com.docker.network.bridge.default_bridge"
MTU = "com.docker.network.driver.mtu"
CONTAINER_PREFIX = "com.docker.network.container_iface_prefix"
# Known to Docker's bridge driver; this engine's bridges always translate and always isolate.
REFUSED_OPTIONS = (
    "com.docker.network.bridge.gateway_mode_ipv4",
    "com.docker.network.bridge.gateway_mode_ipv6",
    "com.docker.network.bridge.inhibit_ipv4",
    "com.docker.network.bridge.trusted_host_interfaces",
    "com.docker.network.host_ipv4",
    "com.docker.network.host_ipv6",
    "com.docker.network.windowsshim.networkname",
)
# IFNAMSIZ without the final zero byte.
LONGEST_INTERFACE = 15


class NetworkRecord(BaseModel):
    """A network as it is stored. Never changes once created.

    Attributes:
        pools: IPv4 first. user_pools: whether the user chose them.
    """

    id: str
    name: str
    created_at: str
    driver: str = "bridge"
    bridge: str = ""
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    internal: bool = False
    attachable: bool = False
    config_only: bool = False
    config_from: str = ""
    ipam_options: dict[str, str] = Field(default_factory=dict)
    pools: list[IpamPool] = Field(default_factory=list)
    user_pools: bool = False
    options: dict[str, str] = Field(default_factory=dict)
    labels: dict[str, str] = Field(default_factory=dict)
    mtu: int = 1500
    icc: bool = True
    masquerade: bool = True
    host_binding_ip: str = ""
    foreign_bridge: bool = False

    @property
    def predefined(self) -> bool:
        return self.name in PREDEFINED

    @property
    def has_names(self) -> bool:
        """Whether 127.0.0.11 answers on it: on every network but the predefined ones."""
        return not self.predefined

    def pool(self, version: int) -> Pool | None:
        """The addresses of a family, if the network has it: an IPv6 subnet alone does not switch that on."""
        if not (self.enable_ipv6 if version == 6 else self.enable_ipv4):
            return None
        for wanted in self.pools:
            pool = ipam.parse_pool(wanted)
            if pool.subnet.version == version:
                return pool
        return None

    def view(self) -> Network:
        return Network(
            id=self.id,
            name=self.name,
            created_at=self.created_at,
            driver=self.driver,
            enable_ipv4=self.enable_ipv4,
            enable_ipv6=self.enable_ipv6,
            internal=self.internal,
            attachable=self.attachable,
            config_only=self.config_only,
            config_from=self.config_from,
            ipam=Ipam(options=self.ipam_options, config=self.pools),
            options=self.options,
            labels=self.labels,
        )

    def node_view(self) -> NodeNetwork:
        four, six = self.pool(4), self.pool(6)
        return NodeNetwork(
            id=self.id,
            name=self.name,
            driver=self.driver,
            bridge=self.bridge,
            subnet=str(four.subnet) if four else "",
            gateway=four.cidr(four.gateway) if four else "",
            subnet6=str(six.subnet) if six else "",
            gateway6=six.cidr(six.gateway) if six else "",
            internal=self.internal,
            mtu=self.mtu,
            icc=self.icc,
            masquerade=self.masquerade,
            host_binding_ip=self.host_binding_ip,
            dns=self.has_names,
            foreign_bridge=self.foreign_bridge,
            options=self.options,
        )


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the operator configured: pools for networks without a subnet, the default bridge.

    Attributes:
        bridge: The default network's interface; empty for no default network.
        foreign_bridge: Whether it is there already, and configured by somebody else.
        bip: Its address, if the operator or the bridge itself says it.
        fixed_cidr: Where in its subnet containers get their addresses.
    """

    pools: Sequence[tuple[str, int]]
    bridge: str = "davit0"
    foreign_bridge: bool = False
    bip: str = ""
    fixed_cidr: str = ""
    masquerade: bool = True
    mtu: int = 1500
    icc: bool = True
    host_binding_ip: str = "0.0.0.0"

    @property
    def user_pools(self) -> bool:
        """Whether the default network's subnet is not the engine's to choose."""
        return bool(self.bip or self.fixed_cidr)


def new_network(
    request: CreateNetwork,
    *,
    network_id: str,
    created_at: str,
    taken: Iterable[ipam.Net],
    defaults: Defaults,
    bridges: Iterable[str] = (),
) -> NetworkRecord:
    """A network as asked for, with its pools chosen.

    Args:
        taken: Subnets of the networks there are.
        bridges: Their interface names.

    Raises:
        InvalidArgument, Forbidden, NotFound, Unsupported: In Docker's words where it has some.
    """
    driver = _checked(request)
    known = list(taken)
    ipv4 = request.enable_ipv4 is not False
    ipv6 = bool(request.enable_ipv6)
    if not ipv4 and not ipv6 and driver == "bridge" and not request.config_only:
        raise InvalidArgument("IPv4 or IPv6 must be enabled", field="EnableIPv4")
    record = NetworkRecord(
        id=network_id,
        name=request.name,
        created_at=created_at,
        driver=driver,
        bridge=_bridge_name(request.options, network_id, bridges) if driver == "bridge" else "",
        enable_ipv4=ipv4,
        enable_ipv6=ipv6,
        internal=request.internal,
        attachable=request.attachable,
        config_only=request.config_only,
        config_from=request.config_from,
        ipam_options=request.ipam.options if request.ipam else {},
        user_pools=bool(request.ipam and request.ipam.config),
        options=request.options,
        labels=request.labels,
        mtu=_integer(request.options, MTU, defaults.mtu),
        icc=_boolean(request.options, ICC, default=True),
        masquerade=_boolean(request.options, MASQUERADE, default=True),
        host_binding_ip=request.options.get(HOST_BINDING, ""),
    )
    pools = [] if request.config_only and not record.user_pools else _pools(request, record, known, defaults)
    return record.model_copy(update={"pools": [pool.view() for pool in pools]})


def default_network(
    network_id: str,
    created_at: str,
    defaults: Defaults,
    *,
    taken: Iterable[ipam.Net] = (),
    before: NetworkRecord | None = None,
) -> NetworkRecord:
    """The network ``bridge`` as the operator wants it.

    Args:
        taken: Subnets that it cannot have, when it is to get one.
        before: What it has been so far: its subnet and its bridge are kept unless the operator names others.
    """
    subnet, gateway, bridge = "", "", defaults.bridge
    if before is not None and not before.user_pools:
        subnet = before.pools[0].subnet
    if before is not None and not (before.foreign_bridge or defaults.foreign_bridge):
        bridge = before.bridge  # the name of the engine that made it; copies of this service may be called otherwise
    if defaults.bip:
        subnet, gateway = defaults.bip, defaults.bip.partition("/")[0]
    elif defaults.fixed_cidr:  # all that there is, as in dockerd
        subnet = defaults.fixed_cidr
    subnet = subnet or str(ipam.choose_subnet(defaults.pools, taken))
    pool = ipam.parse_pool(IpamPool(subnet=subnet, gateway=gateway, ip_range=defaults.fixed_cidr))
    return NetworkRecord(
        id=network_id,
        name="bridge",
        created_at=created_at,
        bridge=bridge,
        foreign_bridge=defaults.foreign_bridge,
        pools=[pool.view()],
        user_pools=defaults.user_pools,
        mtu=defaults.mtu,
        icc=defaults.icc,
        masquerade=defaults.masquerade,
        host_binding_ip="" if defaults.host_binding_ip == "0.0.0.0" else defaults.host_binding_ip,
        options={
            DEFAULT: "true",
            ICC: "true" if defaults.icc else "false",
            MASQUERADE: "true" if defaults.masquerade else "false",
            HOST_BINDING: defaults.host_binding_ip,
            BRIDGE_NAME: bridge,
            MTU: str(defaults.mtu),
        },
    )


def networks_without_addresses(ids: dict[str, str], created_at: str) -> list[NetworkRecord]:
    """The two that are always there and have no subnet: host and none."""
    return [
        NetworkRecord(id=ids["host"], name="host", created_at=created_at, driver="host"),
        NetworkRecord(id=ids["none"], name="none", created_at=created_at, driver="null"),
    ]


def check_name(name: str) -> None:
    """Raises InvalidArgument, Forbidden, in Docker's words."""
    if not name.strip():
        raise InvalidArgument(f"invalid name: {name}", field="Name")
    if name in (*PREDEFINED, "default", "container"):
        raise Forbidden(f"operation is not permitted on predefined {name} network ", field="Name")


def _checked(request: CreateNetwork) -> str:
    """The driver of a request that may be carried out."""
    driver = request.driver or "bridge"
    if request.ingress:
        raise Forbidden("Ingress network can only be global scope network", field="Ingress")
    if request.scope == "swarm":
        raise Forbidden("cannot create a swarm scoped network when swarm is not active", field="Scope")
    if request.scope not in ("", "local"):
        raise InvalidArgument(f"invalid network scope: {request.scope}", field="Scope")
    if driver in SINGLE:
        raise Forbidden(f'only one instance of "{SINGLE[driver]}" network is allowed', field="Driver")
    if driver not in DRIVERS:
        raise NotFound(f'plugin "{driver}" not found', field="Driver")
    if request.ipam and request.ipam.driver not in ("", "default"):
        raise NotFound(f'plugin "{request.ipam.driver}" not found', field="IPAM.Driver")
    for option in REFUSED_OPTIONS:
        if option in request.options:
            raise Unsupported(f"network option {option} is not supported", field=f"Options.{option}")
    if driver == "macvlan" and not request.config_only:
        _check_macvlan(request)
    return driver


def _check_macvlan(request: CreateNetwork) -> None:
    if not request.options.get("parent"):
        raise Unsupported("a macvlan network needs the option parent, an interface of the host", field="Options.parent")
    if request.options.get("macvlan_mode", "") not in MACVLAN_MODES:
        raise InvalidArgument(
            f"requested macvlan mode '{request.options['macvlan_mode']}' is not valid, 'bridge' mode is the macvlan "
            "driver default",
            field="Options.macvlan_mode",
        )


def _bridge_name(options: dict[str, str], network_id: str, others: Iterable[str]) -> str:
    name = options.get(BRIDGE_NAME, "")
    if not name:
        return f"dv-{network_id[:12]}"
    if len(name) > LONGEST_INTERFACE or "/" in name or any(character.isspace() for character in name):
        raise InvalidArgument(
            f"{name!r} is not an interface name of at most {LONGEST_INTERFACE} characters",
            field=f"Options.{BRIDGE_NAME}",
        )
    if name in others:
        raise Forbidden(f"networks have same bridge name: {name}", field=f"Options.{BRIDGE_NAME}")
    return name


def _pools(request: CreateNetwork, record: NetworkRecord, taken: list[ipam.Net], defaults: Defaults) -> list[Pool]:
    wanted = request.ipam.config if request.ipam else []
    pools = [ipam.parse_pool(pool) for pool in wanted]
    fours = [pool for pool in pools if pool.subnet.version == 4]
    sixes = [pool for pool in pools if pool.subnet.version == 6]
    if len(fours) > 1 or len(sixes) > 1:
        raise Forbidden("bridge driver doesn't support multiple subnets", field="IPAM.Config")
    if fours and not record.enable_ipv4:
        raise InvalidArgument("IPv4 is disabled, but an IPv4 subnet is given", field="IPAM.Config")
    for pool in pools:
        ipam.check_overlap(pool.subnet, taken)
    if not fours and record.enable_ipv4:
        fours = [ipam.parse_pool(IpamPool(subnet=str(ipam.choose_subnet(defaults.pools, taken))))]
    if not sixes and record.enable_ipv6:
        sixes = [ipam.parse_pool(IpamPool(subnet=str(ipam.unique_local_subnet(record.id))))]
    return fours + sixes


def _boolean(options: dict[str, str], key: str, *, default: bool) -> bool:
    text = options.get(key, "")
    try:
        return parse_bool(text) if text else default
    except InvalidArgument as error:
        raise InvalidArgument(
            f"failed to parse {key} value: {text} ({error.message})", field=f"Options.{key}"
        ) from error


def _integer(options: dict[str, str], key: str, default: int) -> int:
    text = options.get(key, "")
    if text == "":
        return default
    try:
        value = int(text)
    except ValueError as error:
        raise InvalidArgument(
            f'failed to parse {key} value: {text} (strconv.Atoi: parsing "{text}": invalid syntax)',
            field=f"Options.{key}",
        ) from error
    if not 0 <= value <= 65535:
        raise InvalidArgument(f"failed to parse {key} value: {text} (not an MTU)", field=f"Options.{key}")
    return value or default


def remove_refusal(record: NetworkRecord) -> Forbidden | None:
    """Why a network may never be removed."""
    if record.predefined:
        return Forbidden(f"{record.name} is a pre-defined network and cannot be removed")
    return None
