"""When a step's result is already there.

A step is known by its parent image and a key made of what it does: its command as history shows it (with checksums of
what it copies and the build arguments it sees) and the configuration it leads to. Images named by ``--cache-from`` are
compared by their histories, since nothing else of how they were built came along with them. With `--cache-from` it is
they who decide: what was built here counts only as far as one of them was built on it.

Source: Docker documentation, "Build cache invalidation"; docker build, ``--cache-from``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import orjson

from services.image.build.ports import BuiltImage, ImageStore, NewImage
from services.image.catalog.domain import CACHE_ONLY
from shared.contracts.docker import ContainerConfig


def cache_key(command: Sequence[str], config: ContainerConfig, extra: Sequence[str] = ()) -> str:
    """Args: extra: facts that change the outcome and that history does not show. Never the value of a secret."""
    facts = config.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    facts.pop("Image", None)
    data = orjson.dumps([list(command), facts, list(extra)], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(data).hexdigest()


class CacheProbe:
    """The cache as one stage sees it: once a step had to be done, all later ones have to be."""

    def __init__(
        self, images: ImageStore, sources: Sequence[BuiltImage], *, enabled: bool, only_sources: bool = False
    ) -> None:
        self._images = images
        self._sources = sources
        self._only_sources = only_sources
        self._usable = self.enabled = enabled

    async def find(self, parent_id: str, key: str, new: Callable[[], Awaitable[NewImage]]) -> str | None:
        """The id of the image that a step would lead to, if there is one already.

        Args:
            key: From `cache_key`.
            new: The image that the step would make if it changed no file, to compare with cache sources.
        """
        if not self._usable:
            return None
        found = await self._images.cached(parent_id, key)
        if found is not None and self._only_sources and not key.startswith(CACHE_ONLY):
            found = await self._in_sources(found)
        if found is None and self._sources:
            image = await self._from_sources(await new())
            found = image.id if image else None
        self._usable = found is not None
        return found

    async def find_new(self, parent_id: str, key: str) -> str | None:
        """As `find`, for a step that somebody else has just done: those after it may be there again."""
        found = await self._images.cached(parent_id, key)
        self._usable = found is not None
        return found

    async def _in_sources(self, image_id: str) -> str | None:
        """The image, if a cache source is it or was built on it."""
        image = await self._images.get(image_id)
        for source in self._sources:
            same = source.history == image.history and source.diff_ids == image.diff_ids
            if same or next_step(image, source) is not None:
                return image_id
        return None

    async def _from_sources(self, new: NewImage) -> BuiltImage | None:
        if new.cache_key.startswith(CACHE_ONLY):
            return await self._from_keys(new)
        for source in self._sources:
            step = next_step(new.parent, source)
            if step is None or source.history[step].created_by != new.created_by:
                continue
            if step == len(source.history) - 1:
                return source
            layer = None if source.history[step].empty_layer else source.diff_ids[len(new.parent.diff_ids)]
            return await self._images.add(
                NewImage(
                    parent=new.parent,
                    config=new.config,
                    container_config=new.container_config,
                    created_by=new.created_by,
                    cache_key=new.cache_key,
                    author=new.author,
                    known_layer=layer,
                )
            )
        return None

    async def _from_keys(self, new: NewImage) -> BuiltImage | None:
        """As `_from_sources`, of images that say which steps they were made of."""
        done = new.parent.steps
        for source in self._sources:
            if source.cache[: len(done)] != done or len(source.cache) <= len(done):
                continue
            key, layer = source.cache[len(done)]
            if key == new.cache_key:
                return await self._images.add(replace(new, known_layer=layer or None))
        return None


def next_step(parent: BuiltImage, source: BuiltImage) -> int | None:
    """Which line of a source's history comes after a parent; None when it was not built on it."""
    done = len(parent.history)
    same_past = all(
        ours.created_by == theirs.created_by and ours.empty_layer == theirs.empty_layer
        for ours, theirs in zip(parent.history, source.history, strict=False)
    )
    same_layers = source.diff_ids[: len(parent.diff_ids)] == parent.diff_ids
    same_kind = (source.os, source.architecture) == (parent.os, parent.architecture)
    if len(source.history) <= done or not same_past or not same_layers or not same_kind:
        return None
    if not source.history[done].empty_layer and len(source.diff_ids) <= len(parent.diff_ids):
        return None
    return done
