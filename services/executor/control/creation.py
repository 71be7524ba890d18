"""From a create request and its image to a record. Pure but for the ids it draws."""

from __future__ import annotations

from services.executor.control.domain import Record, rfc3339
from services.executor.control.mountspec import PlannedMount, mount_point, parse_bind
from shared.config import EngineConfig
from shared.contracts.containers import Container, CreateContainer
from shared.contracts.docker import ContainerConfig, EndpointSettings, HealthConfig, HostConfig
from shared.contracts.images import ResolvedImage
from shared.contracts.volumes import Volume
from shared.errors import InvalidArgument

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_LOG_OPTIONS = {"max-size": "10m", "max-file": "3"}
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


def final_env(config: ContainerConfig, hostname: str) -> list[str]:
    """What the process finds: PATH and HOSTNAME first, TERM with a terminal, then the configured ones."""
    names = {entry.partition("=")[0] for entry in config.env}
    base = [DEFAULT_PATH] if "PATH" not in names else []
    if "HOSTNAME" not in names:
        base.append(f"HOSTNAME={hostname}")
    if config.tty and "TERM" not in names:
        base.append("TERM=xterm")
    return base + config.env


def with_defaults(host: HostConfig, config: EngineConfig) -> HostConfig:
    """What Docker fills in and shows in inspect."""
    filled = host.model_copy(deep=True)
    filled.network_mode = host.network_mode if host.network_mode not in ("", "default") else "bridge"
    filled.ipc_mode = host.ipc_mode or "private"
    filled.restart_policy.name = host.restart_policy.name or "no"
    filled.runtime = host.runtime or config.default_runtime or "davit"
    filled.shm_size = host.shm_size or 64 * 1024 * 1024
    if not filled.log_config.type:
        filled.log_config.type = config.log_driver
        filled.log_config.config = dict(config.log_opts)
    if filled.init is None and config.init:
        filled.init = True
    return filled


def log_options(host: HostConfig, config: ContainerConfig) -> dict[str, str]:
    """Rotation by default, where Docker lets logs fill the disk; labels and env ride along when asked for."""
    options = DEFAULT_LOG_OPTIONS | host.log_config.config
    attributes = {}
    for key in filter(None, options.pop("labels", "").split(",")):
        if key in config.labels:
            attributes[f"attr.{key}"] = config.labels[key]
    variables = dict(entry.partition("=")[::2] for entry in config.env)
    for key in filter(None, options.pop("env", "").split(",")):
        if key in variables:
            attributes[f"attr.{key}"] = variables[key]
    return options | attributes


def requested_networks(request: CreateContainer, host: HostConfig) -> dict[str, EndpointSettings]:
    """What was asked of each network; the one that NetworkMode names comes first. Empty for none, host, container."""
    mode = host.network_mode
    if mode in ("none", "host") or mode.startswith("container:"):
        return {}
    given = dict(request.networking_config.endpoints_config)
    primary = given.pop(mode, None) or (given.pop("default", None) if mode == "bridge" else None) or EndpointSettings()
    if request.config.mac_address and not primary.mac_address:
        primary.mac_address = request.config.mac_address
    if host.links and not primary.links:
        primary.links = list(host.links)
    return {mode: primary} | given


def inherited_mounts(sources: list[tuple[Record, bool]]) -> list[PlannedMount]:
    """Mounts of --volumes-from: (record, read only) pairs in order."""
    found: list[PlannedMount] = []
    for record, read_only in sources:
        for point in record.container.mounts:
            if point.type not in ("bind", "volume"):
                continue
            source = point.name if point.type == "volume" else point.source
            mode = "ro" if read_only or not point.rw else "rw"
            found.append(parse_bind(f"{source}:{point.destination}:{mode}"))
    return found


def new_record(
    request: CreateContainer,
    image: ResolvedImage,
    config: EngineConfig,
    *,
    merged: ContainerConfig,
    host: HostConfig,
    name: str,
    container_id: str,
    node: str,
    planned: list[PlannedMount],
    volumes: dict[int, Volume],
    now_ns: int,
) -> Record:
    """The record of a new container.

    Args:
        volumes: What each planned mount got, by its position.
    """
    path, args = command(merged)
    hostname = merged.hostname or (container_id[:SHORT_ID] if host.network_mode != "host" else "")
    if not host.network_mode.startswith("container:"):
        merged.hostname = hostname
    directory = config.data_root / "containers" / container_id
    mounts = []
    for position, item in enumerate(planned):
        volume = volumes.get(position)
        mount = item.mount
        if volume is not None:
            mount = mount.model_copy(update={"source": volume.name, "volume_options": volume.options})
        mounts.append(mount)
    networks = requested_networks(request, host)
    container = Container(
        id=container_id,
        name=name,
        created_at=rfc3339(now_ns),
        path=path,
        args=args,
        image_id=image.id,
        config=merged,
        host_config=host,
        mounts=[mount_point(item, volumes.get(position)) for position, item in enumerate(planned)],
        networks=networks or ({host.network_mode: EndpointSettings()} if host.network_mode in ("none", "host") else {}),
        node=node,
        layers=image.layers,
        log_path=str(directory / f"{container_id}-json.log") if host.log_config.type != "none" else "",
        hostname_path=str(directory / "hostname"),
        hosts_path=str(directory / "hosts"),
        resolv_conf_path=str(directory / "resolv.conf"),
        upper_dir=str(directory / "upper"),
    )
    record = Record(
        container=container,
        created_ns=now_ns,
        mounts=mounts,
        hostname=hostname,
        image_name=request.config.image,
        requested_networks=networks,
        log_driver="none" if host.log_config.type == "none" else "json-file",
        log_options=log_options(host, merged),
    )
    container.config.env = final_env(merged, hostname)
    return record
