"""From a create request and its image to a record. Pure."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass

from services.executor.control.creation.mountspec import PlannedMount, mount_point
from services.executor.control.domain import Record
from services.executor.control.life import links
from shared.config import OWN_RUNTIME, EngineConfig
from shared.contracts.containers import Container, CreateContainer, NodeFacts
from shared.contracts.docker import ContainerConfig, EndpointSettings, HealthConfig, HostConfig, Ulimit
from shared.contracts.images import ResolvedImage
from shared.contracts.node import OrderedMount
from shared.contracts.volumes import Volume, WantedVolume
from shared.docker.addresses import check_ip, check_mac
from shared.docker.moments import rfc3339
from shared.docker.sizes import binary_bytes
from shared.errors import InvalidArgument

MOST = 2**63 - 1
DEFAULT_LOG_OPTIONS = {"max-size": "10m", "max-file": "3"}
LOCAL_LOG_OPTIONS = {"max-size": "20m", "max-file": "5", "compress": "true"}
SHORT_ID = 12


def merge_env(image: list[str], own: list[str]) -> list[str]:
    """The image's variables, overridden by the client's; Docker keeps the client's order first."""
    names = {entry.partition("=")[0] for entry in own}
    return own + [entry for entry in image if entry.partition("=")[0] not in names]


def merge_health(image: HealthConfig | None, own: HealthConfig | None) -> HealthConfig | None:
    if own is None or image is None:
        return own or image
    merged = own.model_copy()
    for name in ("test", "interval", "timeout", "start_period", "start_interval", "retries"):
        if not getattr(own, name):
            setattr(merged, name, getattr(image, name))
    return merged


def merge_config(own: ContainerConfig, image: ContainerConfig) -> ContainerConfig:
    """The client's configuration completed from the image's, as Docker merges them."""
    merged = own.model_copy(deep=True)
    merged.env = merge_env(image.env, own.env)
    merged.labels = image.labels | own.labels
    merged.exposed_ports = image.exposed_ports | own.exposed_ports
    merged.volumes = image.volumes | own.volumes
    merged.user = own.user or image.user
    merged.working_dir = own.working_dir or image.working_dir
    merged.stop_signal = own.stop_signal or image.stop_signal
    merged.stop_timeout = own.stop_timeout if own.stop_timeout is not None else image.stop_timeout
    merged.shell = own.shell or image.shell
    merged.healthcheck = merge_health(image.healthcheck, own.healthcheck)
    if own.entrypoint is None:
        merged.entrypoint = image.entrypoint
        if not own.cmd:
            merged.cmd = image.cmd
    elif own.entrypoint == [""]:  # --entrypoint "" takes the image's away
        merged.entrypoint = None
    return merged


def command(config: ContainerConfig) -> tuple[str, list[str]]:
    """Path and arguments. Raises InvalidArgument when there is nothing to run."""
    words = [*(config.entrypoint or []), *(config.cmd or [])]
    if not words:
        raise InvalidArgument("no command specified", field="Cmd")
    return words[0], words[1:]


def with_defaults(host: HostConfig, own: ContainerConfig, config: EngineConfig, node: NodeFacts) -> HostConfig:
    """What Docker fills in and shows in inspect."""
    filled = host.model_copy(deep=True)
    if filled.network_mode in ("", "default"):
        filled.network_mode = "bridge" if config.default_bridge else "none"
    if own.network_disabled:
        filled.network_mode = "none"
    filled.ipc_mode = host.ipc_mode or config.default_ipc_mode
    filled.restart_policy.name = host.restart_policy.name or "no"
    filled.runtime = host.runtime or node.default_runtime or config.default_runtime or OWN_RUNTIME
    filled.shm_size = host.shm_size or shm_bytes(config.default_shm_size)
    if not filled.cgroupns_mode:
        filled.cgroupns_mode = config.default_cgroupns_mode if node.cgroup_version == "2" else "host"
    if filled.pids_limit is not None and filled.pids_limit <= 0:
        filled.pids_limit = None
    if filled.memory_swappiness == -1:
        filled.memory_swappiness = None
    if filled.memory > 0 and not filled.memory_swap:
        filled.memory_swap = min(filled.memory * 2, MOST)  # what 64 bits hold
    if not filled.log_config.type:
        filled.log_config.type = config.log_driver
        filled.log_config.config = config.log_opts | filled.log_config.config
    if filled.init is None and config.init:
        filled.init = True
    if (filled.privileged or "host" in (filled.pid_mode, filled.ipc_mode)) and not _labelled(filled):
        filled.security_opt = [*filled.security_opt, "label=disable"]  # they reach what labels would protect
    named = {limit.name for limit in filled.ulimits}
    filled.ulimits += [
        Ulimit(name=limit.Name, soft=limit.Soft, hard=limit.Hard)
        for limit in config.default_ulimits.values()
        if limit.Name not in named
    ]
    return filled


def _labelled(host: HostConfig) -> bool:
    return any(option.startswith(("label=", "label:")) for option in host.security_opt)


def shm_bytes(size: int | str) -> int:
    """daemon.json's default-shm-size: bytes, or a text such as ``64m``."""
    return size if isinstance(size, int) else binary_bytes(size)


def log_options(
    record_id: str, name: str, image: ResolvedImage, host: HostConfig, config: ContainerConfig
) -> dict[str, str]:
    """Rotation for the node's log writer (by default, where Docker fills the disk) and each line's attributes."""
    defaults = LOCAL_LOG_OPTIONS if host.log_config.type == "local" else DEFAULT_LOG_OPTIONS
    given = host.log_config.config
    options = defaults | {key: given[key] for key in ("max-size", "max-file", "compress") if key in given}
    variables = dict(entry.partition("=")[::2] for entry in config.env)
    attributes: dict[str, str] = {}
    for option, values in (("labels", config.labels), ("env", variables)):
        wanted = set(filter(None, given.get(option, "").split(",")))
        pattern = given.get(f"{option}-regex", "")
        for key, value in values.items():
            if key in wanted or (pattern and re.search(pattern, key)):
                attributes[key] = value
    if given.get("tag"):
        attributes["tag"] = expand_tag(given["tag"], record_id, name, image.id, config.image)
    return options | {f"attr.{key}": value for key, value in attributes.items()}


def expand_tag(template: str, container_id: str, name: str, image_id: str, image_name: str) -> str:
    """A log tag, such as ``{{.Name}}/{{.ID}}``.

    Source: Docker documentation, "Customize log driver output".
    """
    plain_image = image_id.removeprefix("sha256:")
    values = {
        "ID": container_id[:SHORT_ID],
        "FullID": container_id,
        "Name": name,
        "ImageID": plain_image[:SHORT_ID],
        "ImageFullID": plain_image,
        "ImageName": image_name,
        "DaemonName": "docker",
    }

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise InvalidArgument(f"invalid log tag: {match[0]}", field="HostConfig.LogConfig.Config.tag")
        return values[match[1]]

    return re.sub(r"\{\{\s*\.?(\w+)\s*\}\}", value, template)


def check_endpoint(settings: EndpointSettings) -> None:
    """What can be seen to be wrong before a network is looked at. Raises InvalidArgument."""
    wish = settings.ipam_config
    if wish is not None:
        check_ip(wish.ipv4_address, 4, "IPAMConfig.IPv4Address")
        check_ip(wish.ipv6_address, 6, "IPAMConfig.IPv6Address")
    check_mac(settings.mac_address, "MacAddress")


def requested_networks(request: CreateContainer, host: HostConfig) -> dict[str, EndpointSettings]:
    """What was asked of each network; the one that NetworkMode names comes first. Empty for container:…"""
    mode = host.network_mode
    if mode.startswith("container:"):
        return {}
    given = dict(request.networking_config.endpoints_config)
    for settings in given.values():
        check_endpoint(settings)
    check_mac(request.config.mac_address, "MacAddress")
    if mode in ("none", "host"):  # no others beside these
        return {mode: given.get(mode) or EndpointSettings()}
    primary = given.pop(mode, None) or (given.pop("default", None) if mode == "bridge" else None) or EndpointSettings()
    if request.config.mac_address and not primary.mac_address:
        primary.mac_address = request.config.mac_address
    if host.links and not primary.links and mode not in links.DEFAULT_MODES:
        primary.links = list(host.links)
    return {mode: primary} | given


def inherited_mounts(source: Record, *, read_only: bool) -> list[PlannedMount]:
    """The binds and volumes of another container, for --volumes-from."""
    found = []
    for mount in source.mounts:
        if mount.type not in ("bind", "volume"):
            continue
        copy = mount.model_copy(update={"read_only": mount.read_only or read_only})
        found.append(PlannedMount(copy, WantedVolume(name=mount.source) if mount.type == "volume" else None))
    return found


@dataclass(slots=True)
class Draft:
    """What a new container's record is made from.

    Attributes:
        merged: The client's configuration completed from the image's.
        host: With defaults filled in and references resolved.
        resolved_at: When the image was asked for, in seconds of the monotonic clock.
    """

    request: CreateContainer
    image: ResolvedImage
    merged: ContainerConfig
    host: HostConfig
    node: NodeFacts
    container_id: str
    now_ns: int
    resolved_at: float = 0.0

    def hostname(self) -> str:
        if self.merged.hostname:
            return self.merged.hostname
        if self.host.network_mode == "host" or self.host.uts_mode == "host":
            return self.node.hostname
        return self.container_id[:SHORT_ID]


def cleaned(directory: str) -> str:
    """A working directory without ``..`` and doubled slashes, by its text alone: ``/a/../b`` needs no /a."""
    return posixpath.normpath("/" + directory.lstrip("/")) if directory else ""


def new_record(
    draft: Draft, config: EngineConfig, name: str, planned: list[PlannedMount], volumes: dict[int, Volume]
) -> Record:
    """The record of a new container.

    Args:
        volumes: What each planned mount got, by its position.
    """
    request, host, merged, container_id = draft.request, draft.host, draft.merged, draft.container_id
    path, args = command(merged)
    merged.hostname = hostname = draft.hostname()
    merged.working_dir = cleaned(merged.working_dir)
    directory = config.data_root / "containers" / container_id
    networks = requested_networks(request, host)
    container = Container(
        id=container_id,
        name=name,
        created_at=rfc3339(draft.now_ns),
        path=path,
        args=args,
        image_id=draft.image.id,
        config=merged,
        host_config=host,
        mounts=[mount_point(item, volumes.get(position)) for position, item in enumerate(planned)],
        networks=networks,
        node=draft.node.node,
        layers=draft.image.layers,
        log_path=str(directory / f"{container_id}-json.log") if host.log_config.type != "none" else "",
        hostname_path=str(directory / "hostname"),
        hosts_path=str(directory / "hosts"),
        resolv_conf_path=str(directory / "resolv.conf"),
        upper_dir=str(directory / "upper"),
    )
    return Record(
        container=container,
        created_ns=draft.now_ns,
        mounts=[_with_volume(item.mount, volumes.get(position)) for position, item in enumerate(planned)],
        hostname=hostname,
        image_name=request.config.image,
        requested_networks=networks,
        log_driver="none" if host.log_config.type == "none" else "json-file",
        log_options=log_options(container_id, name, draft.image, host, merged),
        holding=bool(networks),
    )


def _with_volume(mount: OrderedMount, volume: Volume | None) -> OrderedMount:
    if volume is None:
        return mount
    return mount.model_copy(update={"source": volume.name, "volume_options": volume.options})
