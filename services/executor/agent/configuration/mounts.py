"""A container's mounts as OCI entries: bind sources checked or made, volumes filled, generated files bound.

Source: OCI runtime-spec 1.2, config.md, Mounts; Docker's rules for ``-v`` and ``--mount``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.executor.agent.containers.records import ContainerPaths
from services.executor.runtime.steps.rootfs import unescaped
from shared.contracts.docker import HostConfig
from shared.contracts.node import OrderedMount
from shared.errors import InvalidArgument, NotFound

OciMount = dict[str, Any]
VolumeSource = Callable[[OrderedMount], OciMount]
GENERATED = {"/etc/hosts": "hosts", "/etc/hostname": "hostname", "/etc/resolv.conf": "resolv_conf"}
DEFAULT_TMPFS = ["noexec", "nosuid", "nodev"]


def check_sources(mounts: list[OrderedMount]) -> None:
    """Raises InvalidArgument for a bind whose source is missing and may not be made."""
    for mount in mounts:
        if mount.type == "bind" and not mount.create_source and not os.path.lexists(mount.source):
            raise InvalidArgument(
                f'invalid mount config for type "bind": bind source path does not exist: {mount.source}', field="Mounts"
            )


def _bind(mount: OrderedMount, data_root: str) -> OciMount:
    if mount.create_source and not os.path.lexists(mount.source):
        try:
            os.makedirs(mount.source, mode=0o755, exist_ok=True)
        except OSError as error:
            raise InvalidArgument(f"error while creating mount source path '{mount.source}': {error}") from error
    if mount.propagation != "rslave" or not _shows(mount.source, data_root):  # else that is the engine's choice
        check_propagation(mount)
    options = ["rbind" if mount.recursive else "bind", mount.propagation or "rprivate"]
    options += _read_only(mount)
    return {"destination": mount.target, "type": "bind", "source": mount.source, "options": options}


def _shows(source: str, root: str) -> bool:
    one, other = source.rstrip("/") + "/", root.rstrip("/") + "/"
    return one.startswith(other) or other.startswith(one)


def check_propagation(mount: OrderedMount) -> None:
    """Mounts can only propagate to and from a mount of the host that does so itself.

    Raises:
        InvalidArgument: The source's does not. Source: mount_namespaces(7), "Shared subtrees".
    """
    wanted = mount.propagation.removeprefix("r")
    if wanted not in ("shared", "slave"):
        return
    place, tags = mount_of(os.path.realpath(mount.source))
    if not any(tag.startswith(("shared:", "master:") if wanted == "slave" else "shared:") for tag in tags):
        kind = "shared or slave" if wanted == "slave" else "shared"
        raise InvalidArgument(f"path {mount.source} is mounted on {place} but it is not a {kind} mount", field="Mounts")


def mount_of(path: str, mountinfo: str = "/proc/self/mountinfo") -> tuple[str, list[str]]:
    """The mount point that a path is on, and its optional fields in mountinfo. Source: proc_pid_mountinfo(5)."""
    best: tuple[str, list[str]] = ("/", [])
    for line in Path(mountinfo).read_text(errors="surrogateescape").split("\n")[:-1]:
        fields = line.split(" ")
        place = unescaped(fields[4])
        inside = place in ("/", path) or path.startswith(place + "/")
        if inside and len(place) >= len(best[0]):  # of several on one place, the last is on top
            best = place, fields[6 : fields.index("-")]
    return best


def _read_only(mount: OrderedMount) -> list[str]:
    if not mount.read_only:
        return ["rw"]
    return ["ro"] if mount.recursive_read_only == "no" else ["ro", "rro"]


def _tmpfs(mount: OrderedMount) -> OciMount:
    given = [word for word in mount.options if word]
    names = {word.split("=")[0] for word in given}
    options = [word for word in DEFAULT_TMPFS if word.removeprefix("no") not in names and word not in names]
    if mount.read_only and "ro" not in names:
        options.append("ro")
    return {"destination": mount.target, "type": "tmpfs", "source": "tmpfs", "options": options + given}


def beneath(root: str, subpath: str, target: str) -> str:
    """A path below a directory, resolved without leaving it. Raises NotFound, InvalidArgument."""
    base = os.path.realpath(root)
    path = os.path.realpath(os.path.join(base, subpath))
    if path != base and not path.startswith(base + os.sep):
        raise InvalidArgument(f"subpath {subpath} of the mount at {target} leaves its volume", field="Subpath")
    if not os.path.exists(path):
        raise NotFound(f"cannot access path {subpath}: no such file or directory")
    return path


def by_depth(mounts: list[OciMount]) -> list[OciMount]:
    """Shallowest destination first, so that a deeper one is not hidden."""
    return sorted(mounts, key=lambda mount: str(mount["destination"]).rstrip("/").count("/"))


def user_mounts(mounts: list[OrderedMount], layers_root: Path, volume_source: VolumeSource) -> list[OciMount]:
    """The mounts a user asked for, in any order."""
    result: list[OciMount] = []
    for mount in mounts:
        match mount.type:
            case "bind":
                result.append(_bind(mount, str(layers_root.parent)))
            case "tmpfs":
                result.append(_tmpfs(mount))
            case "volume":
                entry = volume_source(mount)
                if entry["type"] == "bind" and mount.subpath:
                    entry["source"] = beneath(entry["source"], mount.subpath, mount.target)
                entry["options"] = [*entry["options"], *_read_only(mount)]
                result.append(entry)
            case "image":
                result.append(_image(mount, layers_root))
    return result


def _image(mount: OrderedMount, layers_root: Path) -> OciMount:
    lower = [str(layers_root / chain.removeprefix("sha256:") / "fs") for chain in reversed(mount.layers)]
    if len(lower) == 1 or mount.subpath:
        source = lower[0] if len(lower) == 1 else ""
        if not source:
            raise InvalidArgument("a subpath of an image with several layers cannot be mounted", field="Subpath")
        source = beneath(source, mount.subpath, mount.target) if mount.subpath else source
        return {"destination": mount.target, "type": "bind", "source": source, "options": ["bind", "ro"]}
    return {
        "destination": mount.target,
        "type": "overlay",
        "source": "overlay",
        "options": ["ro", "lowerdir=" + ":".join(lower)],
    }


def generated_files(paths: ContainerPaths, taken: set[str], *, read_only: bool = False) -> list[OciMount]:
    """hosts, hostname and resolv.conf, except where the user mounted something of their own.

    Args:
        read_only: As the rootfs they belong to is.
    """
    return [
        {
            "destination": target,
            "type": "bind",
            "source": str(getattr(paths, attribute)),
            "options": ["rbind", "rprivate", "ro" if read_only else "rw"],
        }
        for target, attribute in GENERATED.items()
        if target not in taken
    ]


def shm_size_bytes(host: HostConfig) -> int:
    return host.shm_size or 64 * 1024 * 1024
