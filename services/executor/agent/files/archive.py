"""cp, export, diff, commit and sizes: files of containers as archives.

All reading and writing of a container's files is done by confined children (`shared.layers`).
"""

from __future__ import annotations

import asyncio
import posixpath
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.executor.agent.containers.records import NodeRecord, NodeRecords
from services.executor.agent.files.rootfs import (
    GENERATED,
    Found,
    Place,
    RootFilesystems,
    go_mode,
    kernels,
    look,
    tree_bytes,
)
from shared.bus.client import Bus
from shared.bus.streams import ByteStream, StreamRef, offer
from shared.contracts.containers import Change, Changes, PathStat
from shared.contracts.node import Sizes
from shared.docker.moments import rfc3339
from shared.errors import DavitError, Forbidden, InvalidArgument, NotFound
from shared.layers import changes as layer_changes
from shared.layers.worker import Packer, Unpacker


class Archives:
    """Handlers of the archive orders."""

    def __init__(self, bus: Bus, records: NodeRecords, filesystems: RootFilesystems, spawn: Callable[..., Any]) -> None:
        self._bus = bus
        self._records = records
        self._filesystems = filesystems
        self._spawn = spawn

    # cp

    def _stat(self, record: NodeRecord, path: str) -> PathStat:
        with self._filesystems.place(record, path) as place:
            return _path_stat(_look(record, place, path), path)

    async def stat(self, container_id: str, path: str) -> PathStat:
        return await asyncio.to_thread(self._stat, self._records.get(container_id), path)

    async def send_path(self, container_id: str, path: str, stream: ByteStream) -> PathStat:
        """Start sending a tar of a path; answers what is there once that is known."""
        record = self._records.get(container_id)
        found = await self.stat(container_id, path)
        self._spawn(self._send_path(record, path, stream), name=f"archive {container_id[:12]}")
        return found

    async def _send_path(self, record: NodeRecord, path: str, stream: ByteStream) -> None:
        with self._filesystems.place(record, path) as place:
            found = look(place)
            name = posixpath.basename(posixpath.normpath("/" + path)) or "."
            if path.endswith("/.") and stat.S_ISDIR(found.status.st_mode):
                name = "."
            shallow = kernels(record, found.path)
            await self._pack(stream, place.root, path=found.path, name=name, shallow=shallow)

    async def _pack(self, stream: ByteStream, root: Path, **options: Any) -> None:
        """Pack into a stream; its failure becomes the stream's."""
        try:
            with await asyncio.to_thread(lambda: Packer(root, **options)) as packer:
                while piece := await asyncio.to_thread(packer.read):
                    await stream.write(piece)
                await asyncio.to_thread(packer.result)
            await stream.close_write()
        except DavitError as error:
            await stream.fail(error)
        finally:
            await stream.aclose()

    async def receive(
        self,
        container_id: str,
        path: str,
        stream: ByteStream,
        *,
        no_overwrite_dir_non_dir: bool,
        copy_uid_gid: bool,
    ) -> None:
        """Unpack what arrives below a directory of the container.

        Raises:
            NotFound, InvalidArgument, Forbidden: No such directory, not one, or read-only.
        """
        record = self._records.get(container_id)
        async with stream:
            with self._filesystems.place(record, path) as place:
                found = await asyncio.to_thread(lambda: _look(record, place, path, follow=True))
                if not stat.S_ISDIR(found.status.st_mode):
                    raise InvalidArgument("extraction point is not a directory", field="path")
                if place.read_only:
                    raise Forbidden(place.read_only)
                options: dict[str, Any] = {"directory": found.path, "layer": False, "digest": False}
                options["keep_kinds"] = no_overwrite_dir_non_dir
                if copy_uid_gid and record.order.config.user:
                    options["owner"] = await asyncio.to_thread(self._owner, record)
                await self._unpack(stream, place.root, options)

    async def _unpack(self, stream: ByteStream, root: Path, options: dict[str, Any]) -> None:
        with await asyncio.to_thread(lambda: Unpacker(root, **options)) as unpacker:
            async for piece in stream:
                if not await asyncio.to_thread(unpacker.write, piece):
                    break
            await asyncio.to_thread(unpacker.unpacked)

    def _owner(self, record: NodeRecord) -> tuple[int, int]:
        """Who the container runs as, when given as numbers; names are looked up by the runtime only."""
        user, _, group = record.order.config.user.partition(":")
        if not user.isdecimal() or (group and not group.isdecimal()):
            raise InvalidArgument("copyUIDGID needs a container whose user is given in numbers", field="copyUIDGID")
        return int(user), int(group or 0)

    # export, commit

    async def export(self, container_id: str, stream: ByteStream) -> None:
        record = self._records.get(container_id)
        self._spawn(self._export(record, stream), name=f"export {container_id[:12]}")

    async def _export(self, record: NodeRecord, stream: ByteStream) -> None:
        with self._filesystems.root(record) as root:
            await self._pack(stream, root, path="/", one_file_system=True)

    async def offer_changes(self, container_id: str) -> StreamRef:
        """A stream that carries the writable layer to whoever accepts it."""
        upper = self._upper(container_id)
        stream = await offer(self._bus)
        self._spawn(
            self._pack(stream, upper, path="/", layer=True, exclude=GENERATED),
            name=f"changes {container_id[:12]}",
        )
        return stream.ref

    def _upper(self, container_id: str) -> Path:
        self._records.get(container_id)
        upper = self._records.paths(container_id).upper
        upper.mkdir(mode=0o755, parents=True, exist_ok=True)
        return upper

    async def changes(self, container_id: str) -> Changes:
        record = self._records.get(container_id)
        upper = self._upper(container_id)
        lowers = self._filesystems.beneath(record)
        found = await asyncio.to_thread(lambda: layer_changes.listed(upper, lowers, exclude=GENERATED))
        return Changes(changes=[Change(path=path, kind=kind) for kind, path in found])

    # sizes

    async def sizes(self, container_ids: list[str], layers: dict[str, list[str]]) -> Sizes:
        """layers: Of containers that have no record here yet."""
        return await asyncio.to_thread(self._sizes, container_ids, layers)

    def _sizes(self, container_ids: list[str], layers: dict[str, list[str]]) -> Sizes:
        sizes = Sizes(rw={}, root_fs={})
        for container_id in container_ids:
            record = self._records.find(container_id)
            if record is None:
                below = self._filesystems.directories(layers.get(container_id, []))
                sizes.rw[container_id], sizes.root_fs[container_id] = 0, sum(tree_bytes(layer) for layer in below)
                continue
            own = tree_bytes(self._records.paths(container_id).upper)
            sizes.rw[container_id] = own
            sizes.root_fs[container_id] = own + sum(tree_bytes(layer) for layer in self._filesystems.lower(record))
        return sizes


def _look(record: NodeRecord, place: Place, asked: str, *, follow: bool = False) -> Found:
    """As `look`. Raises NotFound in Docker's words, with the path as it was asked for."""
    try:
        return look(place, follow=follow)
    except NotFound as error:
        plain = "/" + asked.lstrip("/")
        raise NotFound(f"Could not find the file {plain} in container {record.order.name}") from error


def _path_stat(found: Found, asked: str) -> PathStat:
    modified = rfc3339(found.status.st_mtime_ns)
    return PathStat(
        name=posixpath.basename(posixpath.normpath("/" + asked)) or "/",
        size=found.status.st_size,
        mode=go_mode(found.status.st_mode),
        mtime=modified,
        link_target=found.link,
    )
