"""A spec's mounts, checked and ready to be made.

Source: OCI runtime-spec 1.2, config.md "Mounts".
"""

from __future__ import annotations

import os

from services.executor.runtime.errors import InvalidSpec
from services.executor.runtime.kernel import mountcalls
from services.executor.runtime.spec import idmap
from services.executor.runtime.spec.mountoptions import MountOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Mount:
    """One entry of `mounts`.

    Attributes:
        field: its path in config.json, for errors.
        destination: absolute, normalised, as the container sees it.
        kind: filesystem type; "bind" for bind mounts whatever the spec says.
        source: absolute path for bind mounts, else what the filesystem is told (a device, or a name).
        mappings: (uid, gid) map lines for an idmapped mount, else None.
        tree: descriptor of the source as a detached mount, where it was opened beforehand.
    """

    __slots__ = ("destination", "field", "kind", "mappings", "options", "source", "tree")

    def __init__(self, field: str, entry: dict[str, Any], bundle: str, root: str = "") -> None:
        destination = entry.get("destination")
        if not isinstance(destination, str) or not destination:
            raise InvalidSpec(f"{field}.destination", "is required")
        self.field = field
        self.destination = _beneath(os.path.normpath("/" + destination.lstrip("/")), root)
        self.options = MountOptions(entry.get("options") or [])
        self.kind = str(entry.get("type") or "")
        if self.options.is_bind or self.kind in {"bind", "rbind"}:
            self.options.flags |= mountcalls.MS_BIND | (mountcalls.MS_REC if self.kind == "rbind" else 0)
            self.kind = "bind"
        self.source = str(entry.get("source") or "")
        if self.kind == "bind":
            if not self.source:
                raise InvalidSpec(f"{field}.source", "a bind mount needs one")
            self.source = os.path.join(bundle, self.source)
        elif not self.kind and not self.options.flags & mountcalls.MS_REMOUNT:
            raise InvalidSpec(f"{field}.type", "is required unless the mount is a bind mount")
        self.mappings = self._mappings(entry)
        self.tree: int | None = None

    def _mappings(self, entry: dict[str, Any]) -> tuple[list[str], list[str]] | None:
        uids, gids = entry.get("uidMappings"), entry.get("gidMappings")
        if self.options.idmap is not None and self.kind != "bind":
            raise InvalidSpec(f"{self.field}.options", "only a bind mount can be id-mapped")
        if not uids and not gids:
            return None
        if not uids or not gids:
            raise InvalidSpec(f"{self.field}.uidMappings", "uidMappings and gidMappings go together")
        if self.kind != "bind":
            raise InvalidSpec(f"{self.field}.uidMappings", "only a bind mount can be id-mapped")
        return (
            idmap.map_lines(uids, f"{self.field}.uidMappings"),
            idmap.map_lines(gids, f"{self.field}.gidMappings"),
        )


def _beneath(destination: str, root: str) -> str:
    """A destination; one that begins with the rootfs's own path on the host means what is below it, as with runc."""
    if root not in ("", "/") and (destination == root or destination.startswith(root + "/")):
        return destination[len(root) :] or "/"
    return destination


def plan(spec: dict[str, Any], bundle: str) -> list[Mount]:
    """The mounts in order. Relative bind sources are relative to the bundle."""
    root = os.path.normpath(os.path.join(bundle, str((spec.get("root") or {}).get("path") or "")))
    return [Mount(f"mounts[{i}]", entry, bundle, root) for i, entry in enumerate(spec.get("mounts") or [])]
