"""Create: everything about a container is decided here, so that a start only has to do it."""

from __future__ import annotations

import logging
import posixpath

from services.executor.control.cluster.placing import Placing
from services.executor.control.creation import record as creation
from services.executor.control.creation.images import RecentImages
from services.executor.control.creation.limits import discard
from services.executor.control.creation.mountspec import PlannedMount, plan_mounts, settle_propagation
from services.executor.control.creation.names import checked_name, generated_name, new_id
from services.executor.control.creation.subject import Subject
from services.executor.control.creation.validate import check, warnings
from services.executor.control.domain import Record
from services.executor.control.life.links import DEFAULT_MODES, parse_link
from services.executor.control.peers import Peers
from services.executor.control.state import sql
from services.executor.control.state.records import Records
from shared.config import OWN_RUNTIMES, EngineConfig
from shared.contracts.containers import CreateContainer, CreatedContainer
from shared.contracts.docker import HostConfig
from shared.contracts.images import RESOLVED_FOR_S
from shared.contracts.volumes import Volume
from shared.errors import Conflict, DavitError, InvalidArgument, NotFound, Unavailable
from shared.failpoints import failpoint

log = logging.getLogger(__name__)

NAME_ATTEMPTS = 6


class Creating:
    """Handler of CREATE."""

    def __init__(
        self, records: Records, peers: Peers, placing: Placing, images: RecentImages, config: EngineConfig
    ) -> None:
        self._records = records
        self._images = images
        self._peers = peers
        self._placing = placing
        self._config = config

    async def create(self, request: CreateContainer) -> CreatedContainer:
        """Check, resolve the image, hold the volumes, store the record."""
        if request.repeated and (made := await self._records.get(request.id)) is not None:
            return CreatedContainer(id=made.id)
        name = checked_name(request.name) if request.name else ""
        if not request.config.image:
            raise InvalidArgument("no image specified", field="Image")
        node = await self._placing.choose(request)
        host = creation.with_defaults(request.host_config, request.config, self._config, node)
        discarded = discard(host, node)
        subject = Subject(request.config, host, node, OWN_RUNTIMES | frozenset(node.runtimes))
        check(subject)
        image, resolved_at = await self._images.get(request.config.image, request.platform)
        merged = creation.merge_config(request.config, image.config)
        creation.command(merged)
        await self._resolve_containers(host)
        planned = plan_mounts(merged, host, await self._inherited(host.volumes_from))
        settle_propagation(planned, str(self._config.data_root))
        await self._resolve_image_mounts(planned)
        draft = creation.Draft(
            request,
            image,
            merged,
            host,
            node,
            container_id=request.id or new_id(),
            now_ns=self._records.clock.time_ns(),
            resolved_at=resolved_at,
        )
        linked = await self._links(host)
        record = await self._store(draft, name, planned, linked)
        return CreatedContainer(id=record.id, warnings=[*discarded, *warnings(subject)])

    async def _resolve_containers(self, host: HostConfig) -> None:
        """``container:<name>`` in modes becomes ``container:<full id>``; links name containers that exist.

        A missing container is an invalid argument, not "not found": to clients, that means the image, to be pulled.
        The network's container may come later; its absence is an error of the start.
        """
        for attribute in ("pid_mode", "ipc_mode"):
            mode = getattr(host, attribute)
            if mode.startswith("container:"):
                setattr(host, attribute, f"container:{(await self._named(mode.partition(':')[2])).id}")
        if host.network_mode.startswith("container:"):
            try:
                other = await self._records.find(host.network_mode.partition(":")[2])
                host.network_mode = f"container:{other.id}"
            except NotFound:
                return

    async def _links(self, host: HostConfig) -> dict[str, str]:
        """Ids by alias of the containers that links name. Raises InvalidArgument for one that does not exist."""
        found = {}
        for link in host.links:
            ref, alias = parse_link(link)
            try:
                found[alias] = (await self._records.find(ref)).id
            except NotFound as error:
                raise InvalidArgument(
                    f"could not get container for {ref}: {error}", field="HostConfig.Links"
                ) from error
        return found

    async def _resolve_image_mounts(self, planned: list[PlannedMount]) -> None:
        for mount in (one.mount for one in planned if one.mount.type == "image"):
            try:
                image = await self._peers.image(mount.source, "")
            except NotFound as error:  # to clients that is the container's own image, to be pulled
                raise InvalidArgument(error.message, field="HostConfig.Mounts") from error
            mount.source, mount.layers = image.id, image.layers

    async def _named(self, ref: str) -> Record:
        try:
            return await self._records.find(ref)
        except NotFound as error:
            raise InvalidArgument(error.message) from error

    async def _inherited(self, sources: list[str]) -> list[PlannedMount]:
        """Mounts of --volumes-from, in order."""
        found: list[PlannedMount] = []
        for source in sources:
            ref, _, mode = source.partition(":")
            if mode not in ("", "ro", "rw", "z", "Z"):
                raise InvalidArgument(f"invalid mode: {mode}", field="HostConfig.VolumesFrom")
            found += creation.inherited_mounts(await self._named(ref), read_only=mode == "ro")
        return found

    async def _store(
        self, draft: creation.Draft, name: str, planned: list[PlannedMount], linked: dict[str, str]
    ) -> Record:
        planned.sort(key=lambda one: posixpath.normpath(one.mount.target).count("/"))
        volumes = await self._acquire(draft, planned)
        try:
            record = creation.new_record(draft, self._config, name or generated_name(0), planned, volumes)
            if record.container.host_config.network_mode in DEFAULT_MODES:
                record.links = linked
            record.container.host_config.links = []  # told from these, or by the endpoint
            # Whether a bind's source exists is for the node to know, and layers are better fetched now than at start.
            strict = any(mount.type == "bind" and not mount.create_source for mount in record.mounts)
            if strict or draft.node.fetches_layers:
                await self._prepare(record)
            record = await self._insert(record, chosen=bool(name))
            if self._records.clock.monotonic() - draft.resolved_at > RESOLVED_FOR_S:
                await self._check_image(record)
            return record
        except BaseException:
            if volumes:
                await self._peers.release_volumes(draft.container_id, remove_anonymous=True)
            raise

    async def _prepare(self, record: Record) -> None:
        try:
            await self._peers.prepare(record)
        except Unavailable as error:
            if not error.detail.get("pending"):
                raise
            log.info("container %s: %s", record.id[:12], error)  # the start waits for the rest

    async def _check_image(self, record: Record) -> None:
        """Undo a creation that took so long that its image may have been removed since it was resolved.

        A removal looks for containers after it has hidden the image, and this looks for the image after the container
        is on record: one of the two sees the other, and no container is left without its layers.
        """
        try:
            mounted = (mount.source for mount in record.mounts if mount.type == "image")
            for image_id in (record.container.image_id, *mounted):
                await self._peers.image(image_id, "")
        except DavitError as error:
            async with self._records.database.transaction() as tx:
                if await sql.delete(tx, record, self._records.clock.time_ns()):
                    tx.emit(record.event("destroy"))
            if isinstance(error, NotFound):
                raise NotFound(f"No such image: {record.image_name}", image=record.image_name) from error
            raise

    async def _acquire(self, draft: creation.Draft, planned: list[PlannedMount]) -> dict[int, Volume]:
        wanted = [
            (position, item.volume.model_copy(update={"target": item.mount.target, "read_only": item.mount.read_only}))
            for position, item in enumerate(planned)
            if item.volume is not None
        ]
        if not wanted:
            return {}
        found = await self._peers.acquire(draft.container_id, draft.node.node, [volume for _, volume in wanted])
        return dict(zip((position for position, _ in wanted), found, strict=True))

    async def _insert(self, record: Record, *, chosen: bool) -> Record:
        """Store it; with a generated name that is taken, under another. Raises Conflict, saying who has the name."""
        for attempt in range(NAME_ATTEMPTS):
            if attempt and not chosen:
                record.container.name = generated_name(attempt)
            failpoint("control.create.before_commit")
            try:
                async with self._records.database.transaction() as tx:
                    await sql.insert(tx, record, record.created_ns)
                    tx.emit(record.event("create"))
                return record
            except Conflict:
                if await self._records.get(record.id) is not None:
                    return record  # another attempt at the same wish was faster
                if chosen:
                    async with self._records.database.transaction() as tx:
                        await sql.check_name(tx, record.name)  # free by now: try again
        raise Conflict("no free name was found for the container")
