"""Binds, mounts, image volumes and --volumes-from: from Docker's texts to what a node mounts. Pure.

Source: Docker's ``-v`` grammar ``[source:]target[:options]``; Docker Engine API 1.50, HostConfig.Mounts.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass

from shared.contracts.containers import MountPoint
from shared.contracts.docker import ContainerConfig, HostConfig, Mount
from shared.contracts.node import OrderedMount
from shared.contracts.volumes import Volume, WantedVolume
from shared.errors import InvalidArgument

VOLUME_NAME = re.compile(r"^[a-zA-Z0-9][a-zA-Z0-9_.-]*$")
PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
MODES = {"rw", "ro", "z", "Z", "nocopy", "consistent", "cached", "delegated"}


@dataclass(slots=True)
class PlannedMount:
    """A mount before its volume is known; `volume` is set for volumes."""

    mount: OrderedMount
    volume: WantedVolume | None = None
    mode: str = ""


def _bad_spec(spec: str, why: str = "") -> InvalidArgument:
    text = f"invalid volume specification: '{spec}'"
    return InvalidArgument(f"{text}: {why}" if why else text, field="HostConfig.Binds")


def _target(path: str, kind: str, spec: str) -> str:
    if not path:
        raise _bad_spec(spec, f'invalid mount config for type "{kind}": field Target must not be empty')
    if not path.startswith("/"):
        raise _bad_spec(
            spec, f"invalid mount config for type \"{kind}\": invalid mount path: '{path}' mount path must be absolute"
        )
    clean = posixpath.normpath(path)
    if clean == "/":
        raise _bad_spec(
            spec, f"invalid mount config for type \"{kind}\": invalid specification: destination can't be '/'"
        )
    return clean


def parse_bind(spec: str) -> PlannedMount:
    """One entry of HostConfig.Binds."""
    parts = spec.split(":")
    if not 1 <= len(parts) <= 3 or not parts[0]:
        raise _bad_spec(spec)
    if len(parts) == 1:
        return PlannedMount(
            OrderedMount(type="volume", target=_target(spec, "volume", spec), copy_up=True), WantedVolume()
        )
    source, mode = parts[0], parts[2] if len(parts) == 3 else ""
    words = mode.split(",") if mode else []
    if any(word not in MODES and word not in PROPAGATIONS for word in words) or {"ro", "rw"} <= set(words):
        raise InvalidArgument(f"invalid mode: {mode}", field="HostConfig.Binds")
    if source.startswith("/"):
        return _bind_of(spec, source, _target(parts[1], "bind", spec), words, mode)
    target = _target(parts[1], "volume", spec)
    check_volume_name(source, "HostConfig.Binds")
    mount = OrderedMount(
        type="volume", source=source, target=target, read_only="ro" in words, copy_up="nocopy" not in words
    )
    return PlannedMount(mount, WantedVolume(name=source), mode=mode or "z")


def _bind_of(spec: str, source: str, target: str, words: list[str], mode: str) -> PlannedMount:
    if "nocopy" in words:
        raise _bad_spec(spec, 'invalid mount config for type "bind": field VolumeOptions must not be specified')
    mount = OrderedMount(
        type="bind",
        source=posixpath.normpath(source),
        target=target,
        read_only="ro" in words,
        propagation=next((word for word in words if word in PROPAGATIONS), ""),
        create_source=True,
    )
    return PlannedMount(mount, mode=mode)


def check_volume_name(name: str, field: str) -> None:
    """Raises InvalidArgument with Docker's words."""
    if len(name) < 2 and VOLUME_NAME.match(name):
        raise InvalidArgument(
            f"create {name}: volume name is too short, names should be at least two alphanumeric characters",
            field=field,
        )
    if not VOLUME_NAME.match(name):
        raise InvalidArgument(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path',
            field=field,
        )


def _refuse(mount: Mount, why: str) -> InvalidArgument:
    return InvalidArgument(f'invalid mount config for type "{mount.type}": {why}', field="HostConfig.Mounts")


def parse_mount(mount: Mount) -> PlannedMount:
    """One entry of HostConfig.Mounts."""
    if mount.type not in ("bind", "volume", "tmpfs", "image"):
        raise _refuse(mount, "mount type unknown")
    if not mount.target:
        raise _refuse(mount, "field Target must not be empty")
    if not mount.target.startswith("/"):
        raise _refuse(mount, f"invalid mount path: '{mount.target}' mount path must be absolute")
    target = posixpath.normpath(mount.target)
    if target == "/":
        raise _refuse(mount, "invalid specification: destination can't be '/'")
    for kind, options in (
        ("bind", mount.bind_options),
        ("volume", mount.volume_options),
        ("tmpfs", mount.tmpfs_options),
        ("image", mount.image_options),
    ):
        if options is not None and mount.type != kind:
            raise _refuse(mount, f"field {kind.title()}Options must not be specified")
    match mount.type:
        case "bind":
            return _bind_mount(mount, target)
        case "volume":
            return _volume_mount(mount, target)
        case "tmpfs":
            return _tmpfs_mount(mount, target)
        case _:
            return _image_mount(mount, target)


def _bind_mount(mount: Mount, target: str) -> PlannedMount:
    if not mount.source:
        raise _refuse(mount, "field Source must not be empty")
    if not mount.source.startswith("/"):
        raise _refuse(mount, f"invalid mount path: '{mount.source}' mount path must be absolute")
    options = mount.bind_options
    propagation = options.propagation if options else ""
    if propagation and propagation not in PROPAGATIONS:
        raise _refuse(mount, f"invalid propagation mode: {propagation}")
    recursive = "auto"
    if options and options.read_only_non_recursive:
        recursive = "no"
    elif options and options.read_only_force_recursive:
        recursive = "force"
    return PlannedMount(
        OrderedMount(
            type="bind",
            source=posixpath.normpath(mount.source),
            target=target,
            read_only=mount.read_only,
            propagation=propagation,
            recursive=not (options and options.non_recursive),
            recursive_read_only=recursive,
            create_source=bool(options and options.create_mountpoint),
        )
    )


def _volume_mount(mount: Mount, target: str) -> PlannedMount:
    options = mount.volume_options
    if mount.source:
        check_volume_name(mount.source, "HostConfig.Mounts")
    subpath = options.subpath if options else ""
    if subpath and not mount.source:
        raise _refuse(mount, "must not set Subpath when using anonymous volumes")
    _check_subpath(mount, subpath)
    driver = options.driver_config if options else None
    return PlannedMount(
        OrderedMount(
            type="volume", source=mount.source, target=target, read_only=mount.read_only,
            copy_up=not (options and options.no_copy), subpath=subpath,
        ),
        WantedVolume(
            name=mount.source,
            driver=driver.name if driver else "",
            options=driver.options if driver else {},
            labels=options.labels if options else {},
        ),
        mode="z",
    )  # fmt: skip


def _check_subpath(mount: Mount, subpath: str) -> None:
    """Raises InvalidArgument for one that leads out, wherever links may lead. Source: Go, filepath.IsLocal."""
    if subpath and (subpath.startswith("/") or posixpath.normpath(subpath).split("/")[0] == ".."):
        raise _refuse(mount, f"subpath must be a relative path within the {mount.type}: {subpath}")


def _image_mount(mount: Mount, target: str) -> PlannedMount:
    """Its source is the reference until the image is found; then its id, with the layers."""
    if not mount.source:
        raise _refuse(mount, "field Source must not be empty")
    subpath = mount.image_options.subpath if mount.image_options else ""
    _check_subpath(mount, subpath)
    return PlannedMount(OrderedMount(type="image", source=mount.source, target=target, read_only=True, subpath=subpath))


def _tmpfs_mount(mount: Mount, target: str) -> PlannedMount:
    if mount.source:
        raise _refuse(mount, "field Source must not be specified")
    words: list[str] = []
    options = mount.tmpfs_options
    if options is not None:
        if options.size_bytes < 0:
            raise _refuse(mount, "invalid tmpfs size")
        if options.size_bytes:
            words.append(f"size={options.size_bytes}")
        if options.mode:
            words.append(f"mode={options.mode:o}")
        words += ["=".join(pair) for pair in options.options]
    return PlannedMount(OrderedMount(type="tmpfs", target=target, read_only=mount.read_only, options=words))


def plan_mounts(config: ContainerConfig, host: HostConfig, inherited: list[PlannedMount]) -> list[PlannedMount]:
    """All mounts of a container: --volumes-from, then -v and --mount, then the image's volumes where nothing is.

    Raises:
        InvalidArgument: A spec that cannot be read, or two for one target ("Duplicate mount point").
    """
    by_target = {planned.mount.target: planned for planned in inherited}
    own: set[str] = set()
    for planned in [*map(parse_bind, host.binds), *map(parse_mount, host.mounts)]:
        target = planned.mount.target
        if target in own:
            raise InvalidArgument(f"Duplicate mount point: {target}", field="HostConfig.Binds")
        own.add(target)
        by_target[target] = planned
    tmpfs = {posixpath.normpath(target) for target in host.tmpfs}
    for target in sorted(tmpfs & own):
        raise InvalidArgument(f"Duplicate mount point: {target}", field="HostConfig.Tmpfs")
    for path in config.volumes:
        # a relative one counts from the root: -v data, VOLUME data
        target = _target(path and posixpath.join("/", path), "volume", path)
        if target not in by_target and target not in tmpfs:
            by_target[target] = PlannedMount(OrderedMount(type="volume", target=target, copy_up=True), WantedVolume())
    return list(by_target.values())


def settle_propagation(planned: list[PlannedMount], data_root: str) -> None:
    """Decide how binds propagate where nobody said it.

    What shows the engine's own directory must not hold on to its mounts, which would be busy for ever.

    Raises:
        InvalidArgument: Another propagation of such a bind than "rslave" or "rshared".
    """
    for mount in (one.mount for one in planned if one.mount.type == "bind"):
        if not _shows(mount.source, data_root):
            mount.propagation = mount.propagation or "rprivate"
        elif mount.propagation in ("", "rslave", "rshared"):
            mount.propagation = mount.propagation or "rslave"
        else:
            raise InvalidArgument(
                'invalid mount config: must use either propagation mode "rslave" or "rshared" when mount source is '
                f'within the daemon root, daemon root: "{data_root}", bind mount source: "{mount.source}", '
                f'propagation: "{mount.propagation}"',
                field="HostConfig.Mounts",
            )


def _shows(source: str, root: str) -> bool:
    """Whether one of two directories is in the other."""
    one, other = source.rstrip("/") + "/", root.rstrip("/") + "/"
    return one.startswith(other) or other.startswith(one)


def mount_point(planned: PlannedMount, volume: Volume | None) -> MountPoint:
    """The mount as inspect shows it."""
    mount = planned.mount
    if volume is not None:
        return MountPoint(
            type="volume", name=volume.name, source=volume.mountpoint, destination=mount.target,
            driver=volume.driver, mode=planned.mode, rw=not mount.read_only,
        )  # fmt: skip
    return MountPoint(
        type=mount.type, source=mount.source, destination=mount.target, mode=planned.mode, rw=not mount.read_only,
        propagation=mount.propagation if mount.type == "bind" else "",
    )  # fmt: skip
