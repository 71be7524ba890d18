"""What a create means to older versions of the API: fields that they do not have, and defaults that have changed.

Source: moby, `postContainersCreate`; the reference engine's answers for versions up to 1.41.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shared.errors import InvalidArgument

if TYPE_CHECKING:
    from services.api.requests.containers import ContainerBody
    from services.api.versions import Version
    from shared.contracts.docker import Mount

# The versions before which one network was all that a container could be created with.
ONE_NETWORK = (1, 44)
WITHOUT_CONTAINER_MAC = (1, 52)
OPTIONS_OF = {"volume": "volume_options", "tmpfs": "tmpfs_options", "bind": "bind_options"}


def to_version(body: ContainerBody, version: Version) -> None:
    """Change a body to what it says in a version.

    Raises:
        InvalidArgument: It says what that version refuses.
    """
    for since, rule in RULES:
        if version < since:
            rule(body)
    if version >= WITHOUT_CONTAINER_MAC and body.mac_address:
        raise InvalidArgument(
            "container-wide MAC address no longer supported; use endpoint-specific MAC address instead",
            field="MacAddress",
        )


def _mounts(body: ContainerBody) -> list[Mount]:
    return body.host_config.mounts if body.host_config is not None else []


def _shareable_ipc(body: ContainerBody) -> None:
    if body.host_config is None:
        return
    body.host_config.ipc_mode = body.host_config.ipc_mode or "shareable"
    body.host_config.kernel_memory_tcp = 0
    for mount in _mounts(body):
        if mount.bind_options is not None:
            mount.bind_options.non_recursive = False


def _loose_mounts(body: ContainerBody) -> None:
    """Options of other types of mounts were not looked at, nor was the size of the console."""
    for mount in _mounts(body):
        if mount.bind_options is not None:
            mount.bind_options.create_mountpoint = False
        for kind, name in OPTIONS_OF.items():
            if mount.type != kind:
                setattr(mount, name, None)
    if body.host_config is not None:
        body.host_config.console_size = []


def _no_annotations(body: ContainerBody) -> None:
    if body.host_config is not None:
        body.host_config.annotations = {}


def _one_network(body: ContainerBody) -> None:
    if body.healthcheck is not None:
        body.healthcheck.start_interval = 0
    for mount in _mounts(body):
        if mount.bind_options is not None and mount.bind_options.read_only_force_recursive:
            raise InvalidArgument(
                "BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer", field="HostConfig.Mounts.BindOptions"
            )
        if mount.type == "bind" and mount.bind_options is not None:
            mount.bind_options.read_only_non_recursive = True
    networks = body.networking_config.endpoints_config if body.networking_config is not None else {}
    if len(networks) > 1:
        raise InvalidArgument(
            f"Container cannot be created with multiple network endpoints: {', '.join(networks)}",
            field="NetworkingConfig.EndpointsConfig",
        )


def _no_subpaths(body: ContainerBody) -> None:
    for mount in _mounts(body):
        if mount.volume_options is not None and mount.volume_options.subpath:
            raise InvalidArgument(
                "VolumeOptions.Subpath needs API v1.45 or newer", field="HostConfig.Mounts.VolumeOptions.Subpath"
            )


def _no_image_mounts(body: ContainerBody) -> None:
    for mount in _mounts(body):
        if mount.image_options is not None and mount.image_options.subpath:
            raise InvalidArgument(
                "ImageOptions.Subpath needs API v1.48 or newer", field="HostConfig.Mounts.ImageOptions.Subpath"
            )
    networks = body.networking_config.endpoints_config if body.networking_config is not None else {}
    for endpoint in networks.values():
        endpoint.gw_priority = 0


# The version that changed it -> what it was before.
RULES: tuple[tuple[tuple[int, int], Callable[[ContainerBody], None]], ...] = (
    ((1, 40), _shareable_ipc),
    ((1, 42), _loose_mounts),
    ((1, 43), _no_annotations),
    (ONE_NETWORK, _one_network),
    ((1, 45), _no_subpaths),
    ((1, 48), _no_image_mounts),
)
