"""cp, export, diff, commit and sizes: files of containers as archives.

All reading and writing of a container's files is done by confined children (`shared.layers`).
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from services.executor.agent.containers.records import NodeRecord, NodeRecords
from services.executor.agent.files import paths
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
from shared.bus.handover import FIELD, PIPED, STREAMED, PipeRef, sink, source
from shared.bus.streams import ByteStream, StreamRef, offer
from shared.contracts.containers import Change, Changes, PathStat
from shared.contracts.node import Sizes
from shared.docker.moments import rfc3339
from shared.errors import DavitError, Forbidden, InvalidArgument, NotFound, Unavailable
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

    async def stat(self, container_id: str, path: str) -> PathStat:
        return await asyncio.to_thread(self._stat, self._records.get(container_id), path)

    def _stat(self, record: NodeRecord, path: str) -> PathStat:
        with ExitStack() as open_:
            return _path_stat(self._find(record, path, open_)[1], path)

    async def send_path(
        self, container_id: str, path: str, stream: ByteStream, pipe: PipeRef | None = None
    ) -> PathStat:
        """Start sending a tar of a path; answers what is there once that is known."""
        record = self._records.get(container_id)
        with ExitStack() as open_:
            output = _open_sink(pipe, open_)
            place, found = await asyncio.to_thread(self._find, record, path, open_)
            options = {"path": found.path, "name": paths.name_of(path), "shallow": kernels(record, found.path)}
            kept = open_.pop_all()
        self._spawn(self._pack(stream, place.root, kept, output, **options), name=f"archive {container_id[:12]}")
        return _path_stat(found, path)

    def _find(self, record: NodeRecord, path: str, open_: ExitStack) -> tuple[Place, Found]:
        directory = paths.means_directory(path)
        place = open_.enter_context(self._filesystems.place(record, path, follow=directory))
        found = _look(record, place, path)
        if directory and not stat.S_ISDIR(found.status.st_mode):
            raise InvalidArgument(f"{path}: not a directory", field="path")
        return place, found

    async def _pack(self, stream: ByteStream, root: Path, open_: ExitStack, output: int | None, **options: Any) -> None:
        """Pack into a pipe or a stream; its failure becomes the stream's.

        Args:
            open_: What to close when the tree is not needed any more.
            output: The pipe, which `open_` closes.
        """
        try:
            with open_:
                child = await asyncio.to_thread(lambda: Packer(root, output=output, **options))
            with child:
                if output is None:
                    while piece := await asyncio.to_thread(child.read):
                        await stream.write(piece)
                await child.over()
                await asyncio.to_thread(child.result)
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
        pipe: PipeRef | None = None,
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
            with ExitStack() as open_:
                place, found = await asyncio.to_thread(self._find_directory, record, path, open_)
                if place.read_only:
                    raise Forbidden(place.read_only)
                options: dict[str, Any] = {"directory": found.path, "layer": False, "digest": False}
                options["keep_kinds"] = no_overwrite_dir_non_dir
                if copy_uid_gid and record.order.config.user:
                    options["owner"] = await asyncio.to_thread(self._owner, record)
                options["source"] = _open_source(pipe, open_)
                child = await asyncio.to_thread(lambda: Unpacker(place.root, **options))
            with child:
                await self._unpack(child, stream, pipe, piped=options["source"] is not None)

    def _find_directory(self, record: NodeRecord, path: str, open_: ExitStack) -> tuple[Place, Found]:
        place = open_.enter_context(self._filesystems.place(record, path, follow=True))
        found = _look(record, place, path)
        if not stat.S_ISDIR(found.status.st_mode):
            raise InvalidArgument("extraction point is not a directory", field="path")
        return place, found

    async def _unpack(self, child: Unpacker, stream: ByteStream, pipe: PipeRef | None, *, piped: bool) -> None:
        if pipe is not None:
            await stream.write(PIPED if piped else STREAMED)
        if not piped:
            async for piece in stream:
                if not await asyncio.to_thread(child.write, piece):
                    break
            child.end()
        await child.over()
        await asyncio.to_thread(child.unpacked)
        if piped:
            await stream.read()  # its end: the sender was there until the archive's

    def _owner(self, record: NodeRecord) -> tuple[int, int]:
        """Who the container runs as, when given as numbers; names are looked up by the runtime only."""
        user, _, group = record.order.config.user.partition(":")
        if not user.isdecimal() or (group and not group.isdecimal()):
            raise InvalidArgument("copyUIDGID needs a container whose user is given in numbers", field="copyUIDGID")
        return int(user), int(group or 0)

    # export, commit

    async def export(self, container_id: str, stream: ByteStream, pipe: PipeRef | None = None) -> None:
        record = self._records.get(container_id)
        with ExitStack() as open_:
            output = _open_sink(pipe, open_)
            root = await asyncio.to_thread(open_.enter_context, self._filesystems.root(record))
            kept = open_.pop_all()
        packing = self._pack(stream, root, kept, output, path="/", one_file_system=True)
        self._spawn(packing, name=f"export {container_id[:12]}")

    async def offer_changes(self, container_id: str) -> StreamRef:
        """A stream that carries the writable layer to whoever accepts it."""
        upper = self._upper(container_id)
        stream = await offer(self._bus)
        self._spawn(
            self._pack(stream, upper, ExitStack(), None, path="/", layer=True, exclude=GENERATED),
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


def _open_sink(pipe: PipeRef | None, open_: ExitStack) -> int | None:
    """Where to write what who asks reads from its pipe; None when it is on another machine."""
    return _opened(sink, pipe, open_)


def _open_source(pipe: PipeRef | None, open_: ExitStack) -> int | None:
    return _opened(source, pipe, open_)


def _opened(open_end: Callable[[PipeRef], int], pipe: PipeRef | None, open_: ExitStack) -> int | None:
    if pipe is None:
        return None
    try:
        descriptor = open_end(pipe)
    except Unavailable as error:
        if error.detail.get("field") != FIELD:
            raise
        return None
    open_.callback(os.close, descriptor)
    return descriptor


def _look(record: NodeRecord, place: Place, asked: str) -> Found:
    """As `look`. Raises NotFound in Docker's words, with the path as it was asked for."""
    try:
        return look(place)
    except NotFound as error:
        plain = "/" + asked.lstrip("/")
        raise NotFound(f"Could not find the file {plain} in container {record.order.name}") from error


def _path_stat(found: Found, asked: str) -> PathStat:
    modified = rfc3339(found.status.st_mtime_ns)
    return PathStat(
        name=paths.name_of(asked),
        size=found.status.st_size,
        mode=go_mode(found.status.st_mode),
        mtime=modified,
        link_target=found.link,
    )
