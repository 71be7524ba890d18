"""The engine's configuration: `daemon.json`, then the environment, then flags; the later one wins.

Keys are Docker's own where Docker has one. An unknown key is an error that names it, and so is a key that Docker
knows and davit does not act on: nothing is accepted and ignored. Only this module reads files and the environment.

Source: dockerd reference, "Daemon configuration file".
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from shared import configvalues as values_of
from shared.contracts.docker import ULIMITS
from shared.docker.logconfig import check_options
from shared.docker.sizes import binary_bytes
from shared.errors import InvalidArgument, Unsupported
from shared.logs import HIDDEN, hide_secrets, is_secret

DEFAULT_FILE = Path("/etc/davit/daemon.json")
ENVIRONMENT_PREFIX = "DAVIT_"
DAY_S = 24 * 3600
# davit's own runtime, and the names of Docker's under which clients ask for it unless another is configured there.
OWN_RUNTIME = "davit"
OWN_RUNTIMES = frozenset({OWN_RUNTIME, "runc", "io.containerd.runc.v2"})
_RUNTIME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")

# Variables with our prefix that are not settings of the engine.
_NOT_SETTINGS = frozenset(
    {"config_file", "services", "ready_fd", "failpoints", "listen_fds", "version", "supervisor_fd", "supervisor_pid"}
)
# Docker's keys that this engine does not act on.
_DOCKER_ONLY_KEYS = """
    allow-direct-routing allow-nondistributable-artifacts api-cors-header authorization-plugins bridge-accept-fwmark
    builder cdi-spec-dirs cluster-advertise cluster-store cpu-rt-period cpu-rt-runtime default-gateway
    default-gateway-v6 default-network-opts exec-opts features firewall-backend fixed-cidr-v6 host-gateway-ip
    http-proxy https-proxy init-path insecure-registry ip-forward-no-drop ipv6 max-download-attempts metrics-addr
    min-api-version network-control-plane-mtu network-diagnostic-port no-new-privileges no-proxy
    node-generic-resources oom-score-adjust proxies raw-logs rootless seccomp-profile selinux-enabled storage-opts
    userland-proxy-path userns-remap
"""
_DOCKER_ONLY = frozenset(_DOCKER_ONLY_KEYS.split())
# Docker's keys that are accepted because they change nothing here, and why; `davit up` and the log say so.
WITHOUT_EFFECT = {
    "containerd": "containers are the agent's: no containerd is asked",
    "containerd-namespace": "containers are the agent's: no containerd is asked",
    "containerd-plugin-namespace": "containers are the agent's: no containerd is asked",
    "containerd-plugins-namespace": "containers are the agent's: no containerd is asked",
    "experimental": "there is nothing experimental to switch on or off",
    "storage-driver": "layers are overlay mounts, whichever name they have",
    "swarm-default-advertise-addr": "nothing is advertised until a cluster is made, which names its own address",
}
NO_BRIDGE = "none"
OVERLAYS = ("overlay2", "overlay", "overlayfs")


def _listed(value: Any) -> Any:
    """A list, also from ``a,b`` as the environment and flags spell it."""
    if isinstance(value, str) and not value.lstrip().startswith("["):
        return [item.strip() for item in value.split(",") if item.strip()]
    return _parsed(value)


def _parsed(value: Any) -> Any:
    """A structure, also from its JSON as the environment spells it."""
    if isinstance(value, str):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise ValueError(f"not JSON: {error}") from error
    return value


_Listed = BeforeValidator(_listed)
StringList = Annotated[list[str], _Listed]
StringMap = Annotated[dict[str, str], BeforeValidator(_parsed)]


class AddressPool(BaseModel):
    """``{"base": "172.30.0.0/16", "size": 24}``: where networks without a subnet of their own get one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: str
    size: int

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        values_of.pool(self.base, self.size)
        return self


class RuntimeEntry(BaseModel):
    """An alternative OCI runtime: the path of its executable and the arguments before the command."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    path: str = Field(min_length=1)
    runtime_args: list[str] = Field(default_factory=list, alias="runtimeArgs")


class UlimitEntry(BaseModel):
    """``{"Name": "nofile", "Hard": 64000, "Soft": 64000}``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    Name: str
    Hard: int = Field(ge=-1)
    Soft: int = Field(ge=-1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.Name not in ULIMITS:
            raise ValueError(f"invalid ulimit type: {self.Name}")
        if self.Hard != -1 and (self.Soft == -1 or self.Soft > self.Hard):
            raise ValueError(f"soft limit {self.Soft} is more than the hard limit {self.Hard}")
        return self


class AuditSink(BaseModel):
    """Where audit records are delivered.

    ``{"name": "siem", "type": "webhook", "url": "https://…", "secret-file": "/etc/davit/hook", "format": "ocsf"}``

    Attributes:
        format: How they are written there; empty: CloudEvents for webhooks, as they are for all else.
        path: Of a file. url, secret_file, ca_file: of a webhook.
        start: Where a new one begins: with the oldest record that is kept, or with what comes from now on.
        batch: How many records at once, at most.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=lambda name: name.replace("_", "-"))

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    type: Literal["file", "webhook", "nats"]
    format: Literal["", "native", "cloudevents", "ocsf"] = ""
    path: str = ""
    url: str = ""
    secret_file: str = ""
    ca_file: str = ""
    start: Literal["oldest", "now"] = "oldest"
    batch: int = Field(default=200, ge=1, le=1000)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        takes = {"file": ("path",), "webhook": ("url", "secret_file", "ca_file"), "nats": ()}[self.type]
        for field in ("path", "url", "secret_file", "ca_file"):
            if getattr(self, field) and field not in takes:
                raise ValueError(f"{self.name}: {field.replace('_', '-')} is nothing that a {self.type} has")
        if self.type == "file" and not self.path.startswith("/"):
            raise ValueError(f"{self.name}: path is not an absolute path")
        if self.type == "webhook" and not re.match(r"https?://[^/\s]+", self.url):
            raise ValueError(f"{self.name}: url is not of the form https://host/…")
        return self

    @property
    def form(self) -> str:
        return self.format or ("cloudevents" if self.type == "webhook" else "native")


def _key(name: str) -> str:
    return name.replace("_", "-")


class EngineConfig(BaseModel):
    """What the operator decided. Attribute ``data_root`` is key ``data-root`` is variable ``DAVIT_DATA_ROOT``.

    Attributes:
        hosts: Where the API listens: ``unix://…``, ``tcp://…``. Empty: ``unix://<run_dir>/docker.sock``.
        node: This machine's name in the cluster.
        nats_url: An existing bus; empty means the embedded one.
        database_url: ``postgresql://…``; empty means one SQLite file per service under the data root.
        log_driver, log_opts: Defaults for containers' logs.
        registry_listen: ``host:port`` where images can be pulled and pushed; empty for nowhere.
        registry_advertise: ``host:port`` under which other nodes reach that; empty: found out.
        registry_users: File of ``user:hash`` lines (htpasswd) of those who may; empty for everybody.
        registry_rights: File of who may pull, push and delete which repositories; empty: each user everything.
        registry_auth: How users prove who they are: by their password each time, or by tokens they get for it.
        event_retention_s: How long events stay on record.
        audit_mode: Whether what cannot be recorded is refused, or done and counted.
        audit_policy: File of what is recorded of which request; empty: everything but answers and pings.
        audit_key: File with the key that signs the audit log; empty: one that is made under the data root.
        audit_sign_command, audit_verifier: A command that signs instead, and its public key.
        audit_retention_s, audit_max_size: How long audit records are kept, and how much of them at most.
        audit_sinks: Where they are delivered.
        instance: In the names of what several engines would otherwise have in common: default bridge, firewall
            table, control group. Empty for the engine of a machine's default data root; chosen when another is new.
        cgroup_parent: Below which control group containers are; empty: one of this engine's own.
        pidfile: Where the pid of the engine's first process is written; empty for nowhere.
        bridge: An existing bridge for the default network, or ``none`` for no such network.
        fixed_cidr: The part of the default network's subnet that containers get their addresses from.
        iptables, ip6tables: Whether the engine has a firewall table, and whether it is about IPv6 too.
        ip_forward: Whether the engine turns forwarding on.
        ip_masq: Whether traffic of the default network leaves with the host's address.
        userland_proxy: Whether what the kernel cannot translate is carried by the agent.
        live_restore: Whether containers go on when the engine is stopped; they always do when it is killed.
        shutdown_timeout: Without live_restore, how long containers may take to end, in seconds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=_key, populate_by_name=True)

    data_root: Path = Path("/var/lib/davit")
    run_dir: Path = Path("/run/davit")
    hosts: StringList = Field(default_factory=list)
    group: str = ""
    node: str = Field(default_factory=socket.gethostname, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    nats_url: str = ""
    database_url: str = ""
    debug: bool = False
    log_level: Literal["debug", "info", "warn", "warning", "error", "fatal"] = "info"
    log_format: Literal["text", "json"] = "text"

    tls: bool = False
    tlsverify: bool = False
    tlscacert: str = ""
    tlscert: str = ""
    tlskey: str = ""

    registry_mirrors: Annotated[list[values_of.Mirror], _Listed] = Field(default_factory=list)
    insecure_registries: Annotated[list[values_of.RegistryOrNetwork], _Listed] = Field(default_factory=list)
    max_concurrent_downloads: int = Field(default=3, ge=1)
    max_concurrent_uploads: int = Field(default=5, ge=1)
    registry_listen: str = ""
    registry_advertise: str = ""
    registry_tls_cert: str = ""
    registry_tls_key: str = ""
    registry_users: str = ""
    registry_rights: str = ""
    registry_auth: Literal["basic", "token"] = "basic"

    log_driver: values_of.LogDriver = "json-file"
    log_opts: StringMap = Field(default_factory=dict)
    runtimes: Annotated[dict[str, RuntimeEntry], BeforeValidator(_parsed)] = Field(default_factory=dict)
    default_runtime: str = ""
    default_ulimits: Annotated[dict[str, UlimitEntry], BeforeValidator(_parsed)] = Field(default_factory=dict)
    default_shm_size: values_of.Size = "64m"
    default_ipc_mode: Literal["private", "shareable"] = "private"
    default_cgroupns_mode: Literal["private", "host"] = "private"
    init: bool = False
    labels: Annotated[list[values_of.Label], _Listed] = Field(default_factory=list)

    instance: str = Field(default="", pattern=r"^[a-z0-9]{0,8}$")
    cgroup_parent: str = ""
    pidfile: str = ""

    default_address_pools: Annotated[list[AddressPool], BeforeValidator(_parsed)] = Field(default_factory=list)
    bridge: values_of.InterfaceName = ""
    bip: values_of.HostInNetwork = ""
    fixed_cidr: values_of.Network4 = ""
    dns: Annotated[list[values_of.Address], _Listed] = Field(default_factory=list)
    dns_opts: StringList = Field(default_factory=list)
    dns_search: StringList = Field(default_factory=list)
    iptables: bool = True
    ip6tables: bool = True
    ip_forward: bool = True
    ip_masq: bool = True
    userland_proxy: bool = True
    mtu: int = Field(default=1500, ge=68, le=65535)
    icc: bool = True
    ip: values_of.Address = "0.0.0.0"

    live_restore: bool = True
    shutdown_timeout: int = Field(default=15, ge=0, le=3600)
    event_retention_s: int = Field(default=7 * DAY_S, ge=60)

    audit_mode: Literal["enforced", "best-effort"] = "best-effort"
    audit_policy: str = ""
    audit_key: str = ""
    audit_sign_command: StringList = Field(default_factory=list)
    audit_verifier: str = ""
    audit_retention_s: int = Field(default=400 * DAY_S, ge=3600)
    audit_max_size: values_of.Size = "2g"
    audit_sinks: Annotated[list[AuditSink], BeforeValidator(_parsed)] = Field(default_factory=list)

    _without_effect: list[str] = PrivateAttr(default_factory=list)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        values_of.default_network(self.bridge, self.bip, self.fixed_cidr)
        try:
            check_options(self.log_driver, self.log_opts, "log-opts")
        except InvalidArgument as error:
            raise ValueError(f"log-opts: {error.message}") from error
        if bool(self.audit_sign_command) != bool(self.audit_verifier):
            raise ValueError("audit-sign-command and audit-verifier: each needs the other")
        names = [sink.name for sink in self.audit_sinks]
        if len(names) != len(set(names)):
            raise ValueError("audit-sinks: two have the same name")
        if not self.registry_users and (self.registry_rights or self.registry_auth == "token"):
            key = "registry-rights" if self.registry_rights else "registry-auth"
            raise ValueError(f"{key}: without registry-users nobody has to say who they are")
        for name in self.runtimes:
            if not _RUNTIME_NAME.fullmatch(name):
                raise ValueError(f"runtimes: {name!r} is not a name for a runtime")
            if name == OWN_RUNTIME:
                raise ValueError(f"runtimes: runtime name '{name}' is reserved")
        if self.default_runtime and self.default_runtime not in OWN_RUNTIMES | set(self.runtimes):
            raise ValueError(f"specified default runtime '{self.default_runtime}' does not exist")
        return self

    @classmethod
    def load(
        cls,
        environment: Mapping[str, str] | None = None,
        *,
        file: Path | None = None,
        flags: Mapping[str, Any] | None = None,
    ) -> Self:
        """Read all sources and check them.

        Args:
            environment: Variables; None is the process's own.
            file: The configuration file; None is what ``DAVIT_CONFIG_FILE`` says, else the default one if it exists.
            flags: Settings by attribute name; None values are not set.

        Raises:
            InvalidArgument: Names the key and what is wrong with it.
            Unsupported: A key of Docker's that this engine does not act on.
        """
        environment = os.environ if environment is None else environment
        values = _from_file(file, environment)
        variables = _from_environment(environment)
        _override(values, variables)
        given = {_key(name): value for name, value in (flags or {}).items() if value is not None}
        _override(values, given)
        try:
            return cls.checked(values)
        except (InvalidArgument, Unsupported) as error:
            key = str(error.detail.get("field", "")).partition(".")[0]
            if key in variables and key not in given:
                error.message += f" (from {_variable(key)} in the environment)"
            raise

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> Self:
        """The configuration with these keys, spelled as in the file. Raises as `load` does."""
        for key in values:
            if key in _DOCKER_ONLY:
                raise Unsupported(f"the configuration key {key} is not supported by this engine", field=key)
        driver = values.get("storage-driver")
        if driver and driver not in OVERLAYS:
            raise Unsupported(f"configuration key storage-driver: there is no {driver} here", field="storage-driver")
        known = {key: value for key, value in values.items() if key not in WITHOUT_EFFECT}
        if exec_root := known.pop("exec-root", None):  # Docker's name for it
            known.setdefault("run-dir", exec_root)
        try:
            config = cls.model_validate(known)
        except ValidationError as error:
            raise _named(error) from error
        config._without_effect += [key for key in values if key in WITHOUT_EFFECT]
        return config

    @property
    def without_effect(self) -> list[str]:
        """Sentences about settings that were given and change nothing."""
        return [f"{key}: {WITHOUT_EFFECT[key]}" for key in self._without_effect]

    @property
    def default_cgroup(self) -> str:
        """The control group that containers without a parent of their own are below."""
        return self.cgroup_parent or (f"/davit-{self.instance}" if self.instance else "/davit")

    @property
    def firewall_table(self) -> str:
        return f"davit_{self.instance}" if self.instance else "davit"

    @property
    def default_bridge(self) -> str:
        """The bridge of the default network; empty for none."""
        if self.bridge:
            return "" if self.bridge == NO_BRIDGE else self.bridge
        return f"davit-{self.instance}" if self.instance else "davit0"

    @property
    def stop_within_s(self) -> float:
        """How long the containers may take to end with the engine."""
        return 0.0 if self.live_restore else float(self.shutdown_timeout)

    def environment(self, flags: Mapping[str, Any]) -> dict[str, str]:
        """The variables that give a child process the settings that `load` got as flags."""
        variables = {}
        dumped = self.model_dump(mode="json", by_alias=True)
        if "runtimes" in flags:  # those of the file may change
            dumped["runtimes"] = {name: dumped["runtimes"][name] for name in flags["runtimes"]}
        for name in flags:
            if _key(name) in WITHOUT_EFFECT:  # for the log
                variables[ENVIRONMENT_PREFIX + name.upper()] = str(flags[name])
                continue
            value = dumped[_key(name)]
            variables[ENVIRONMENT_PREFIX + name.upper()] = value if isinstance(value, str) else _spelled(value)
        return variables

    def loggable(self) -> dict[str, Any]:
        """The settings that differ from the defaults, secrets hidden."""
        dumped = self.model_dump(mode="json", include=self.model_fields_set)
        return {
            key: HIDDEN if is_secret(key) else hide_secrets(value) if isinstance(value, str) else value
            for key, value in dumped.items()
        }

    @property
    def api_hosts(self) -> list[str]:
        return list(self.hosts) or [f"unix://{self.run_dir}/docker.sock"]

    @property
    def python_log_level(self) -> str:
        """The level in the names of `logging`."""
        level = "debug" if self.debug else self.log_level
        return {"warn": "warning", "fatal": "critical"}.get(level, level)

    @property
    def audit_max_bytes(self) -> int:
        size = self.audit_max_size
        return binary_bytes(size) if isinstance(size, str) else size

    @property
    def database(self) -> str:
        """The URL for `shared.state.database.Database.open`."""
        return self.database_url or f"sqlite:///{self.data_root / 'db'}"


FIRST_ACTIVATED = 3  # sd_listen_fds(3), SD_LISTEN_FDS_START


class ProcessSettings(BaseModel):
    """What the supervisor or a test tells one process, beside the engine's configuration.

    Attributes:
        ready_fd: A descriptor to write ``ready`` or the reason of a failed start to; None without a supervisor.
        failpoints: See `shared.failpoints`.
        supervisor_pid: Whom to tell that the cluster's files have changed; 0 without a supervisor.
        listen_fds: Host -> descriptor of its listening socket, opened by the supervisor so that connections wait,
            instead of failing, while the edge restarts, and so that copies of it share one.
        activated_fd: The one socket that systemd has started this process for. Source: sd_listen_fds(3).
    """

    ready_fd: int | None = None
    failpoints: str = ""
    supervisor_pid: int = 0
    listen_fds: dict[str, int] = Field(default_factory=dict)
    activated_fd: int | None = None

    @classmethod
    def load(cls, environment: Mapping[str, str] | None = None) -> Self:
        environment = os.environ if environment is None else environment
        ready_fd = environment.get("DAVIT_READY_FD")
        return cls(
            ready_fd=int(ready_fd) if ready_fd else None,
            failpoints=environment.get("DAVIT_FAILPOINTS", ""),
            supervisor_pid=int(environment.get("DAVIT_SUPERVISOR_PID") or 0),
            listen_fds=_descriptors(environment.get("DAVIT_LISTEN_FDS", "")),
            activated_fd=FIRST_ACTIVATED if environment.get("LISTEN_PID") == str(os.getpid()) else None,
        )


def _descriptors(text: str) -> dict[str, int]:
    """``3:unix:///run/davit/docker.sock,4:tcp://0.0.0.0:2376`` as host -> descriptor."""
    pairs = (item.partition(":") for item in text.split(",") if item)
    return {host: int(number) for number, _, host in pairs}


def _override(values: dict[str, Any], others: Mapping[str, Any]) -> None:
    """Let later settings win over earlier ones; a runtime is added to those that there are.

    Raises:
        InvalidArgument: The runtimes are not JSON.
    """
    before = values.get("runtimes")
    values.update(others)
    if isinstance(before, dict) and "runtimes" in others:
        try:
            more = _parsed(others["runtimes"])
        except ValueError as error:
            raise InvalidArgument(f"configuration key runtimes: {error}", field="runtimes") from error
        values["runtimes"] = before | more if isinstance(more, dict) else more


def _spelled(value: Any) -> str:
    return orjson.dumps(value).decode()


def _from_file(file: Path | None, environment: Mapping[str, str]) -> dict[str, Any]:
    named = file or (Path(environment["DAVIT_CONFIG_FILE"]) if environment.get("DAVIT_CONFIG_FILE") else None)
    path = named or DEFAULT_FILE
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        if named is None:
            return {}
        raise InvalidArgument(f"the configuration file {path} does not exist") from error
    except OSError as error:
        raise InvalidArgument(f"the configuration file {path} cannot be read: {error.strerror}") from error
    try:
        values = orjson.loads(content or b"{}")
    except orjson.JSONDecodeError as error:
        raise InvalidArgument(f"the configuration file {path} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise InvalidArgument(f"the configuration file {path} does not hold a JSON object")
    return values


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """The settings among the variables. Other programs may use the prefix: what is no setting is left alone."""
    values: dict[str, Any] = {}
    for variable, value in environment.items():
        key = _key_of(variable)
        if value != "" and (key in _KEYS or key in _DOCKER_ONLY):
            values[key] = value
    return values


def unknown_variables(environment: Mapping[str, str] | None = None) -> list[str]:
    """Variables with our prefix that are no setting, for a warning: they may be misspelled."""
    environment = os.environ if environment is None else environment
    return sorted(
        variable
        for variable, value in environment.items()
        if value != ""
        and (key := _key_of(variable))
        and key not in _KEYS | _DOCKER_ONLY
        and key.replace("-", "_") not in _NOT_SETTINGS
        and not key.startswith("test-")
    )


def _key_of(variable: str) -> str:
    """The key that a variable would set; empty without our prefix."""
    if not variable.startswith(ENVIRONMENT_PREFIX):
        return ""
    return _key(variable.removeprefix(ENVIRONMENT_PREFIX).lower())


def _variable(key: str) -> str:
    return ENVIRONMENT_PREFIX + key.replace("-", "_").upper()


_KEYS = frozenset(_key(name) for name in EngineConfig.model_fields) | WITHOUT_EFFECT.keys() | {"exec-root"}


def _named(error: ValidationError) -> InvalidArgument:
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return InvalidArgument(f"unknown configuration key {field}", field=field)
    reason = first["msg"].removeprefix("Value error, ")
    return InvalidArgument(f"configuration key {field}: {reason}" if field else reason, field=field)
