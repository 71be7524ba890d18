"""What the volume service answers. Decisions are in `domain`, rows in `sql`, files on the nodes.

::

    remove   mark the row ──commit──► node deletes the files ──► delete the row, record the event ──commit──►
                 ▲ a failing node: the mark is taken back          a crash: `finish_removals` goes on at start
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import PurePosixPath

from services.volume import domain
from services.volume.domain import VolumeRecord
from services.volume.sql import Source, VolumeStore
from shared.bus.client import EMPTY, Bus, Empty
from shared.clock import Clock
from shared.contracts import volumes as contract
from shared.contracts.volumes import (
    AcquiredVolumes,
    AcquireVolumes,
    CreateVolume,
    ListVolumes,
    NodeVolume,
    NodeVolumes,
    PrunedVolumes,
    PruneVolumes,
    ReleaseVolumes,
    Volume,
    VolumeRef,
    Volumes,
    WantedVolume,
)
from shared.docker.filters import check_keys, truth
from shared.docker.moments import rfc3339
from shared.errors import Conflict, DavitError, DeadlineExceeded, NotFound, Unavailable
from shared.events.record import DomainEvent
from shared.state.database import Database, Transaction

log = logging.getLogger(__name__)

SIZES_DEADLINE_S = 30.0
ENSURE_DEADLINE_S = 3.0


class VolumeHandlers:
    """One method per contract.

    Args:
        node: Where volumes are made that no container asked for yet.
        volumes_root: The directory of volumes, the same on every node.
    """

    def __init__(self, database: Database, bus: Bus, clock: Clock, node: str, volumes_root: PurePosixPath) -> None:
        self._database = database
        self._bus = bus
        self._clock = clock
        self._node = node
        self._root = volumes_root
        self._store = VolumeStore()

    async def serve(self) -> None:
        await self._bus.serve(contract.CREATE, self.create)
        await self._bus.serve(contract.INSPECT, self.inspect)
        await self._bus.serve(contract.LIST, self.list_all)
        await self._bus.serve(contract.REMOVE, self.remove)
        await self._bus.serve(contract.PRUNE, self.prune)
        await self._bus.serve(contract.ACQUIRE, self.acquire)
        await self._bus.serve(contract.RELEASE, self.release)

    async def create(self, request: CreateVolume) -> Volume:
        async with self._database.transaction() as tx:
            record, is_new = await self._existing_or_new(tx, WantedVolume(**request.model_dump()), self._node, {})
            if is_new:
                await self._add(tx, [record])
        if is_new:
            await self._ensure(record)
        return self._view(record, [])

    async def _existing_or_new(
        self, tx: Transaction, wanted: WantedVolume, node: str, made: dict[str, VolumeRecord]
    ) -> tuple[VolumeRecord, bool]:
        """The volume of that name, or a new one that is not stored yet."""
        if wanted.name in made:
            return made[wanted.name], False
        if wanted.name:
            found = (await self._store.find(tx, [wanted.name])).get(wanted.name)
            if found is not None:
                domain.check_driver(wanted.name, wanted.driver)
                if found[1]:
                    raise Conflict(f"create {wanted.name}: volume is being removed")
                return found[0], False
        record = domain.new_volume(
            wanted.name,
            wanted.driver,
            wanted.options,
            wanted.labels,
            node=node,
            created_at=rfc3339(self._clock.time_ns(), digits=0),
        )
        made[record.name] = record
        return record, True

    async def _add(self, tx: Transaction, records: Sequence[VolumeRecord]) -> None:
        await self._store.add(tx, records)
        for record in records:
            tx.emit(_event("create", record))

    async def _ensure(self, record: VolumeRecord) -> None:
        """Make the directory now. A node that is away makes it when a container first mounts the volume."""
        try:
            await self._bus.request(
                contract.NODE_ENSURE,
                NodeVolume(name=record.name, options=record.options),
                node=record.node,
                deadline_s=ENSURE_DEADLINE_S,
            )
        except (Unavailable, DeadlineExceeded) as error:
            log.warning("volume %s has no directory yet: %s", record.name, error)

    async def inspect(self, request: VolumeRef) -> Volume:
        async with self._database.read() as connection:
            record = await self._get(connection, request.name)
            holders = await self._store.holders(connection, [record.name])
        return self._view(record, holders.get(record.name, []))

    async def list_all(self, request: ListVolumes) -> Volumes:
        check_keys(request.filters, domain.LIST_FILTERS)
        truth(request.filters, "dangling")
        async with self._database.read() as connection:
            records = await self._store.all(connection)
            holders = await self._store.holders(connection)
        views = [
            self._view(record, holders.get(record.name, []))
            for record in records
            if domain.matches(record, request.filters, in_use=record.name in holders)
        ]
        warnings = await self._measure(views) if request.sizes else []
        return Volumes(volumes=views, warnings=warnings)

    async def _measure(self, views: Sequence[Volume]) -> list[str]:
        """Fill in sizes; says which nodes did not answer."""
        warnings: list[str] = []
        for node in sorted({view.node for view in views}):
            here = [view for view in views if view.node == node]
            try:
                sizes = await self._sizes(node, [view.name for view in here])
            except DavitError as error:
                warnings.append(f"sizes of volumes on node {node} are not known: {error}")
                continue
            for view in here:
                view.size_bytes = sizes.get(view.name, -1)
        return warnings

    async def _sizes(self, node: str, names: list[str]) -> dict[str, int]:
        answer = await self._bus.request(
            contract.NODE_SIZES, NodeVolumes(names=names), node=node, deadline_s=SIZES_DEADLINE_S
        )
        return answer.sizes

    async def remove(self, request: VolumeRef) -> Empty:
        async with self._database.transaction() as tx:
            try:
                record = await self._get(tx, request.name, removing_too=True)
            except NotFound:
                if request.force:
                    return EMPTY
                raise
            holders = (await self._store.holders(tx, [record.name])).get(record.name)
            if holders:
                raise Conflict(f"remove {record.name}: volume is in use - [{', '.join(holders)}]")
            await self._store.mark(tx, [record.name], removing=True)
        await self._finish(record)
        return EMPTY

    async def _finish(self, record: VolumeRecord) -> None:
        """Delete a marked volume's files and row; when its node cannot, the volume is back."""
        try:
            await self._bus.request(
                contract.NODE_REMOVE, NodeVolume(name=record.name, options=record.options), node=record.node
            )
        except DavitError:
            async with self._database.transaction() as tx:
                await self._store.mark(tx, [record.name], removing=False)
            raise
        async with self._database.transaction() as tx:
            if (await self._store.find(tx, [record.name])).get(record.name, (None, False))[1]:
                await self._store.delete(tx, record.name)
                tx.emit(_event("destroy", record))

    async def finish_removals(self) -> None:
        """After a start: end what a crash left half removed."""
        async with self._database.read() as connection:
            records = await self._store.all(connection, removing=True)
        for record in records:
            try:
                await self._finish(record)
            except DavitError as error:
                log.warning("volume %s could not be removed and is kept: %s", record.name, error)

    async def prune(self, request: PruneVolumes) -> PrunedVolumes:
        check_keys(request.filters, domain.PRUNE_FILTERS)
        truth(request.filters, "all")
        async with self._database.transaction() as tx:
            used = await self._store.holders(tx)
            records = [
                record
                for record in await self._store.all(tx)
                if record.name not in used and domain.prunable(record, request.filters)
            ]
            if records:
                await self._store.mark(tx, [record.name for record in records], removing=True)
        return await self._prune(records)

    async def _prune(self, records: Sequence[VolumeRecord]) -> PrunedVolumes:
        removed: list[str] = []
        reclaimed = 0
        for node in sorted({record.node for record in records}):
            here = [record for record in records if record.node == node]
            try:
                sizes = await self._sizes(node, [record.name for record in here])
            except DavitError as error:
                log.warning("sizes of volumes on node %s are not known: %s", node, error)
                sizes = {}
            for record in here:
                try:
                    await self._finish(record)
                except DavitError as error:
                    log.warning("volume %s could not be pruned: %s", record.name, error)
                    continue
                removed.append(record.name)
                reclaimed += max(sizes.get(record.name, 0), 0)
        async with self._database.transaction() as tx:
            tx.emit(DomainEvent(type="volume", action="prune", actor_id="", attributes={"reclaimed": str(reclaimed)}))
        return PrunedVolumes(names=removed, space_reclaimed_bytes=reclaimed)

    async def acquire(self, request: AcquireVolumes) -> AcquiredVolumes:
        """Hold all volumes for a container, creating what is missing, in one transaction.

        Raises:
            Conflict: One is being removed.
        """
        chosen: list[VolumeRecord] = []
        added: list[VolumeRecord] = []
        fresh: dict[int, str] = {}
        made: dict[str, VolumeRecord] = {}
        async with self._database.transaction() as tx:
            held = await self._store.held_by(tx, request.container_id)
            for position, wanted in enumerate(request.volumes):
                if position in held and wanted.name in ("", held[position]):
                    wanted = wanted.model_copy(update={"name": held[position]})  # noqa: PLW2901
                record, is_new = await self._existing_or_new(tx, wanted, request.node, made)
                chosen.append(record)
                if is_new:
                    added.append(record)
                if held.get(position) != record.name:
                    fresh[position] = record.name
            await self._add(tx, added)
            if any(position in held for position in fresh):  # not the same request again: these holds replace those
                await self._store.release(tx, request.container_id)
                fresh = {position: record.name for position, record in enumerate(chosen)}
            await self._store.hold(tx, request.container_id, fresh)
            for position in fresh:
                tx.emit(_mounted(chosen[position], request.volumes[position], request.container_id))
        return AcquiredVolumes(volumes=[self._view(record, [request.container_id]) for record in chosen])

    async def release(self, request: ReleaseVolumes) -> Empty:
        doomed: list[VolumeRecord] = []
        async with self._database.transaction() as tx:
            held = await self._store.held_by(tx, request.container_id)
            if not held:
                return EMPTY
            await self._store.release(tx, request.container_id)
            names = list(dict.fromkeys(held.values()))
            records = [record for record, _ in (await self._store.find(tx, names)).values()]
            for record in records:
                tx.emit(_event("unmount", record, container=request.container_id))
            if request.remove_anonymous:
                used = await self._store.holders(tx, names)
                doomed = [record for record in records if record.anonymous and record.name not in used]
                if doomed:
                    await self._store.mark(tx, [record.name for record in doomed], removing=True)
        for record in doomed:
            await self._finish(record)
        return EMPTY

    async def _get(self, source: Source, name: str, *, removing_too: bool = False) -> VolumeRecord:
        found = (await self._store.find(source, [name])).get(name)
        if found is None or (found[1] and not removing_too):
            raise NotFound(f"get {name}: no such volume")
        return found[0]

    def _view(self, record: VolumeRecord, holders: list[str]) -> Volume:
        return record.view(str(self._root / record.name / "_data"), holders)


def _mounted(record: VolumeRecord, wanted: WantedVolume, container_id: str) -> DomainEvent:
    more = {"container": container_id}
    if wanted.target:
        more |= {"destination": wanted.target, "read/write": str(not wanted.read_only).lower(), "propagation": ""}
    return _event("mount", record, **more)


def _event(action: str, record: VolumeRecord, **attributes: str) -> DomainEvent:
    return DomainEvent(
        type="volume",
        action=action,
        actor_id=record.name,
        attributes={"driver": record.driver, **attributes},
        node=record.node,
    )
