"""What builds left behind that only makes the next one faster: listing it and removing it.

Steps are images without a name that were built, and not from there on to an image that has one; cache mounts are
directories. Removing steps is removing images, with the same care for what containers use.

Source: Docker Engine API 1.50, BuildPrune, SystemDataUsage (BuildCache).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

import orjson
import sqlalchemy as sa

from services.image.build.cache.cachedirs import FILES, NAME, CacheDirectories, directory_bytes
from services.image.catalog.domain import CACHE_ONLY, unix_time
from services.image.sql import tables
from shared.bus.client import Bus
from shared.contracts import images as contracts
from shared.contracts.images import BuildCacheEntries, BuildCacheEntry, BuildCachePrune, Image, PrunedCache
from shared.docker.filters import has_labels
from shared.docker.moments import SECOND_NS, moment_ns, rfc3339
from shared.errors import Conflict, InvalidArgument, NotFound, Unsupported
from shared.state.database import Database
from shared.state.statements import Prepared

# What docker builder prune knows, but for "shared" and "private", which tell records of one layer apart: a step here
# has the whole image to itself. Labels are those of the step's image; Docker's own records go whatever is asked.
FILTERS = ("until", "unused-for", "id", "type", "parent", "description", "inuse", "label", "label!")
UNSUPPORTED = ("shared", "private", "mutable", "immutable")

_children = tables.images.alias("children")
_unused_steps = Prepared(
    sa.select(tables.images.c.id, tables.images.c.parent, tables.images.c.document)
    .where(
        tables.images.c.cache_key != "",
        tables.images.c.hidden == sa.false(),
        tables.images.c.stored_ns < sa.bindparam("before_ns"),
        ~sa.exists().where(tables.names.c.image_id == tables.images.c.id),
        ~sa.exists().where(_children.c.parent == tables.images.c.id),
    )
    .order_by(tables.images.c.stored_ns)
)


_below = tables.images.alias("below")
_cache_steps = Prepared(
    sa.select(
        tables.images.c.id,
        tables.images.c.parent,
        tables.images.c.document,
        _below.c.document,
        tables.images.c.stored_ns,
    )
    .select_from(tables.images.outerjoin(_below, _below.c.id == tables.images.c.parent))
    .where(tables.images.c.cache_key.startswith(CACHE_ONLY), tables.images.c.hidden == sa.false())
    .order_by(tables.images.c.stored_ns)
)


@dataclass(frozen=True, slots=True)
class BuildCache:
    """The build cache of this service."""

    database: Database
    caches: CacheDirectories
    bus: Bus

    async def entries(self) -> BuildCacheEntries:
        """Cache mounts, and the steps that are images to nobody. The others are shown and counted as images."""
        mounts = await asyncio.to_thread(self._entries)
        return BuildCacheEntries(entries=[*await self._steps(), *mounts])

    async def _steps(self) -> list[BuildCacheEntry]:
        async with self.database.read() as connection:
            rows = (await connection.execute(_cache_steps)).all()
        found = []
        for image_id, parent, document, below, stored_ns in rows:
            image = orjson.loads(document)
            size = image.get("size_bytes", 0) - (orjson.loads(below).get("size_bytes", 0) if below else 0)
            moment = rfc3339(stored_ns, 9)
            found.append(
                BuildCacheEntry(
                    id=image_id.removeprefix("sha256:"),
                    parents=[parent.removeprefix("sha256:")] if parent else [],
                    description="a step of a build",
                    size_bytes=max(0, size),
                    created_at=moment,
                    last_used_at=moment,
                )
            )
        return found

    def _entries(self) -> list[BuildCacheEntry]:
        found = []
        for path in self.caches.entries():
            with contextlib.suppress(FileNotFoundError):  # removed at this moment
                found.append(self._entry(path))
        return found

    def _entry(self, path: Path) -> BuildCacheEntry:
        return BuildCacheEntry(
            id=path.name,
            type="exec.cachemount",
            description=f"cached mount {(path / NAME).read_text()}",
            in_use=self.caches.in_use(path.name),
            size_bytes=directory_bytes(path / FILES),
            created_at=_text((path / NAME).stat().st_mtime),
            last_used_at=_text(path.stat().st_mtime),
        )

    async def prune(self, request: BuildCachePrune) -> PrunedCache:
        """Remove unused steps, and with `all` cache mounts too; the oldest first, down to what is to be kept.

        Raises:
            Unsupported: A filter that this cache does not know.
            InvalidArgument: A filter's value cannot be.
        """
        before = _until(request.filters)
        pruned = PrunedCache()
        if _only_used(request.filters):
            return pruned  # what is in use stays
        kinds = request.filters.get("type", [])
        if not kinds or "regular" in kinds:
            await self._prune_steps(request, before, pruned)
        if request.all and (not kinds or "exec.cachemount" in kinds):
            await self._prune_mounts(request, before, pruned)
        return pruned

    async def _prune_steps(self, request: BuildCachePrune, before: float, pruned: PrunedCache) -> None:
        for image_id, parent, document in await self._unused_steps(before):
            if not _labelled(request.filters, document):
                continue
            facts = {"id": image_id.removeprefix("sha256:"), "parent": parent, "description": ""}
            if not _chosen(request.filters, facts):
                continue
            try:
                removed = await self.bus.request(contracts.REMOVE, contracts.RemoveImage(ref=image_id))
            except (Conflict, NotFound):  # a container uses it, or it went with another
                continue
            pruned.deleted.extend(item.deleted for item in removed.removals if item.deleted)
            pruned.space_reclaimed_bytes += removed.space_reclaimed_bytes

    async def _unused_steps(self, before: float) -> list[tuple[str, str, str]]:
        """Last steps of chains that lead to no name, the oldest first; their removal takes the chain along.

        Returns:
            Id, parent and document of each.
        """
        async with self.database.read() as connection:
            rows = (await connection.execute(_unused_steps, {"before_ns": int(before * 1e9)})).all()
        return [(row[0], row[1], row[2]) for row in rows]

    async def _prune_mounts(self, request: BuildCachePrune, before: float, pruned: PrunedCache) -> None:
        if not has_labels({}, request.filters):
            return
        entries = sorted(await asyncio.to_thread(self._entries), key=lambda entry: entry.last_used_at or "")
        left = sum(entry.size_bytes for entry in entries)
        for entry in entries:
            used_at = unix_time(entry.last_used_at or "")
            if left <= request.keep_storage_bytes and request.keep_storage_bytes:
                break
            facts = {"id": entry.id, "parent": "", "description": entry.description}
            if entry.in_use or used_at >= before or not _chosen(request.filters, facts):
                continue
            size = await asyncio.to_thread(self.caches.remove, entry.id)
            left -= entry.size_bytes
            pruned.deleted.append(entry.id)
            pruned.space_reclaimed_bytes += size


def _labelled(filters: dict[str, list[str]], document: str) -> bool:
    if "label" not in filters and "label!" not in filters:
        return True
    return has_labels(Image.model_validate_json(document).config.labels, filters)


def _chosen(filters: dict[str, list[str]], facts: dict[str, str]) -> bool:
    """Whether a record's facts are as the filters want them: an id by its beginning, the others as they are."""
    if not facts["id"].startswith(filters.get("id", [""])[0]):
        return False
    return all(filters[name][0] == facts[name] for name in ("parent", "description") if filters.get(name))


def _only_used(filters: dict[str, list[str]]) -> bool:
    return bool(filters.get("inuse")) and filters["inuse"][0].lower() not in ("0", "false")


def _until(filters: dict[str, list[str]]) -> float:
    """Seconds since the epoch before which something must have been used last."""
    for name, given in filters.items():
        if name in UNSUPPORTED:
            raise Unsupported(f"build cache filter {name} is not supported", field=f"filters.{name}")
        if name not in FILTERS:
            raise InvalidArgument(f"failed to prune build cache: invalid filter '{name}'", field=f"filters.{name}")
        if len(given) > 1 and name not in ("label", "label!"):
            raise InvalidArgument(f"filters expect only one value for {name}", field=f"filters.{name}")
    if "until" in filters and "unused-for" in filters:
        raise InvalidArgument("conflicting filters: until and unused-for", field="filters.until")
    values = filters.get("until") or filters.get("unused-for") or []
    if not values:
        return time.time() + 1
    try:
        return moment_ns(values[-1], time.time_ns()) / SECOND_NS
    except ValueError as error:
        raise InvalidArgument(f"invalid value for until: {error}", field="filters.until") from error


def _text(seconds: float) -> str:
    return rfc3339(int(seconds * SECOND_NS))
