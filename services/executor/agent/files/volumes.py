"""Local volumes on their node: directories below the data root, mounted with the driver's options where there are any.

Source: Docker's local driver: options type, o and device as mount(8) takes them.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import Any

from services.executor.agent.configuration.mounts import beneath
from services.executor.agent.files.rootfs import Place, look, tree_bytes
from services.executor.agent.layers.views import image_view
from shared.bus.client import EMPTY, Empty
from shared.contracts.node import ContainerOrder, OrderedMount
from shared.contracts.volumes import NodeVolume, VolumeSizes
from shared.contracts.volumes import NodeVolumes as VolumeNames
from shared.errors import Conflict, Internal, InvalidArgument, NotFound
from shared.layers.worker import Packer, Unpacker

OciMount = dict[str, Any]


class NodeVolumes:
    """The volumes of this node."""

    def __init__(self, data_root: Path) -> None:
        self._root = data_root / "volumes"

    def directory(self, name: str) -> Path:
        """Where a volume's data is. Raises InvalidArgument for a name that is no plain file name."""
        if not name or "/" in name or name in (".", ".."):
            raise InvalidArgument(f"invalid volume name: {name!r}", field="Name")
        return self._root / name / "_data"

    # Orders

    def _ensure(self, name: str) -> Path:
        directory = self.directory(name)
        try:
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            os.chmod(directory.parent.parent, 0o711)
        except OSError as error:
            raise Internal(f"the directory of volume {name} cannot be made: {error}") from error
        return directory

    async def ensure(self, volume: NodeVolume) -> Empty:
        await asyncio.to_thread(self._ensure, volume.name)
        return EMPTY

    async def remove(self, volume: NodeVolume) -> Empty:
        directory = self.directory(volume.name).parent
        try:
            await asyncio.to_thread(shutil.rmtree, directory)
        except FileNotFoundError:
            return EMPTY
        except OSError as error:
            raise Internal(f"the data of volume {volume.name} cannot be removed: {error}") from error
        return EMPTY

    async def sizes(self, request: VolumeNames) -> VolumeSizes:
        found = {}
        for name in request.names:
            directory = self.directory(name)
            if directory.is_dir():
                found[name] = await asyncio.to_thread(tree_bytes, directory)
        return VolumeSizes(sizes=found)

    # Mounts

    def source(self, mount: OrderedMount) -> str:
        """The host directory behind a bind or a volume.

        Raises:
            Conflict: A volume that is a device or another file system, which only a running container has mounted.
        """
        if mount.type == "bind":
            return mount.source
        options = mount.volume_options
        if not options.get("device"):
            return str(self.directory(mount.source))
        if {"bind", "rbind"} & set(options.get("o", "").split(",")):
            return options["device"]
        raise Conflict(f"volume {mount.source} is mounted while a container that uses it runs, and none does")

    def mount(self, mount: OrderedMount) -> OciMount:
        """The OCI mount of a volume, without read-only flags: a bind of its directory, or the device it names."""
        options = mount.volume_options
        kind, device = options.get("type", ""), options.get("device", "")
        words = [word for word in options.get("o", "").split(",") if word]
        if not device and not kind:
            source = str(self.directory(mount.source))
            return {"destination": mount.target, "type": "bind", "source": source, "options": ["rbind", "rprivate"]}
        if "bind" in words or "rbind" in words:
            if not os.path.lexists(device):
                raise NotFound(
                    f"error while mounting volume '{self.directory(mount.source)}': failed to mount local volume: "
                    f"mount {device}:{self.directory(mount.source)}: no such file or directory"
                )
            return {"destination": mount.target, "type": "bind", "source": device, "options": [*words, "rprivate"]}
        if kind == "tmpfs" and mount.copy_up:
            words = [*words, "tmpcopyup"]
        return {"destination": mount.target, "type": kind, "source": device or kind, "options": words}

    async def prepare(self, order: ContainerOrder, lower: list[str]) -> None:
        """Before a start: make missing directories, and copy the image's data into volumes that are empty."""
        mounts = [one for one in order.mounts if one.type == "volume"]
        if mounts:
            await asyncio.to_thread(self._prepare, mounts, lower)

    def _prepare(self, mounts: list[OrderedMount], lower: list[str]) -> None:
        for mount in mounts:
            if not mount.volume_options.get("device"):
                self._ensure(mount.source)
            directory = self._to_fill(mount) if mount.copy_up else None
            if directory is not None and not any(os.scandir(directory)):
                self._copy_up(mount, directory, lower)

    def _to_fill(self, mount: OrderedMount) -> Path | None:
        """The directory that the container is going to see; None where that is another file system's, or no directory.

        Of a tmpfs each container has its own, which the runtime fills.
        """
        entry = self.mount(mount)
        if entry["type"] != "bind":
            return None
        path = Path(beneath(entry["source"], mount.subpath, mount.target) if mount.subpath else entry["source"])
        return path if path.is_dir() else None

    def _copy_up(self, mount: OrderedMount, directory: Path, lower: list[str]) -> None:
        """Fill an empty volume from the image, with owners and modes, as Docker does at first use."""
        with image_view(lower) as root:
            try:
                found = look(Place(root, mount.target), follow=True)
            except NotFound:
                return
            os.chown(directory, found.status.st_uid, found.status.st_gid)
            os.chmod(directory, found.status.st_mode & 0o7777)
            reading, writing = os.pipe()
            try:
                with Packer(root, output=writing, path=found.path) as packer:
                    os.close(writing)
                    writing = -1
                    with Unpacker(directory, source=reading, layer=False, digest=False) as unpacker:
                        unpacker.unpacked()
                    packer.result()
            finally:
                os.close(reading)
                if writing >= 0:
                    os.close(writing)
