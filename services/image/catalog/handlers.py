"""What the image service answers about images that are here: find, list, name."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from services.image.catalog.depot import Depot, image_event
from services.image.catalog.domain import Ancestor, Name, history, with_names
from services.image.catalog.filters import LIST_KEYS, ImageFilter
from services.image.catalog.lookup import as_reference, find_for
from services.image.catalog.manifests import MAX_CONFIG_BYTES, ImageConfig
from services.image.catalog.summaries import summaries
from services.image.sql.catalog import Reader
from services.image.sql.images import Found
from services.image.sql.names import name_of
from shared.bus.client import EMPTY, Bus, Empty
from shared.contracts.containers import USING_IMAGE, UsingImage
from shared.contracts.images import (
    DiskUsage,
    History,
    Image,
    ImageNames,
    ImageRef,
    Images,
    InspectImage,
    ListImages,
    NamedImages,
    ResolvedImage,
    TagImage,
)
from shared.docker.platforms import parse_platform
from shared.docker.references import parse
from shared.errors import InvalidArgument

MAX_ANCESTORS = 1000


class ImageQueries:
    """Reads, and names, which are cheap enough to be beside them."""

    def __init__(self, depot: Depot, bus: Bus) -> None:
        self._depot = depot
        self._bus = bus

    async def resolve(self, request: ImageRef) -> ResolvedImage:
        """What a container needs; on the way of every create."""
        found = await self._depot.find_and_hold(request.ref, parse_platform(request.platform))
        return found.resolved_image()

    async def named(self, request: ImageNames) -> NamedImages:
        """For lists of containers, which show an image's name for as long as it is its name."""
        named = NamedImages()
        async with self._depot.catalog.reading() as reader:
            for text in request.refs:
                try:
                    reference = as_reference(text)
                except InvalidArgument:
                    continue
                found = await reader.find(reference, text)
                variants = await reader.variants(name_of(reference)) if reference is not None else []
                named.ids[text] = [*([found.id] if found else []), *(one.image_id for one in variants)]
        return named

    async def inspect(self, request: InspectImage) -> Image:
        platform = parse_platform(request.platform)
        if request.manifests and platform is not None:
            raise InvalidArgument("conflicting options: manifests and platform options cannot both be set")
        async with self._depot.catalog.reading() as reader:
            found = await find_for(reader, request.ref, platform)
            names = await reader.names(found.id)
            image = with_names(found.image(), names, await reader.last_tag_ns(found.id))
        if request.manifests:
            await self._add_manifests([(image, names)])
        return image

    async def _add_manifests(self, shown: Sequence[tuple[Image, Sequence[Name]]]) -> None:
        """Tell of images all that their names stand for, with the containers that use each."""
        users: dict[str, list[str]] = {}
        for user in (await self._bus.request(USING_IMAGE, UsingImage())).users:
            users.setdefault(user.image_id, []).append(user.container_id)
        async with self._depot.catalog.reading() as reader:
            for image, names in shown:
                image.manifests = await summaries(reader, self._depot.content, image, names, users)

    async def history(self, request: ImageRef) -> History:
        async with self._depot.catalog.reading() as reader:
            found = await find_for(reader, request.ref, parse_platform(request.platform))
            sizes = [layer.size_bytes for layer in await reader.layers_of(found.id)]
            ancestors = await self._ancestors(reader, found)
        data = await asyncio.to_thread(self._depot.content.read, found.id, MAX_CONFIG_BYTES)
        return History(entries=history(ImageConfig.parse(data).raw, sizes, ancestors))

    async def _ancestors(self, reader: Reader, found: Found) -> list[Ancestor]:
        ancestors: list[Ancestor] = []
        current: Found | None = found
        while current is not None and len(ancestors) < MAX_ANCESTORS:
            names = await reader.names(current.id)
            ancestors.append(Ancestor(current.id, [name.familiar for name in names if not name.is_digest]))
            parent = current.image().parent
            current = await reader.by_id(parent) if parent else None
        return ancestors

    async def list(self, request: ListImages) -> Images:
        chosen = ImageFilter.parse(request.filters, LIST_KEYS)
        async with self._depot.catalog.reading() as reader:
            found = await reader.all()
            names = await reader.all_names()
            variants = {variant.image_id for variant in await reader.variants()}
            before = [await self._bound(reader, text) for text in chosen.before]
            since = [await self._bound(reader, text) for text in chosen.since]
            uses = await reader.uses_of_layers() if request.shared_size else {}
            sizes = {layer.chain_id: layer.size_bytes for layer in await reader.all_layers()} if uses else {}
        by_image = _grouped(names)
        shown: list[tuple[Image, list[Name]]] = []
        images = [(item.image(), last_tag_ns) for item, last_tag_ns in found]
        parents = {image.parent for image, _ in images if image.parent}
        for image, last_tag_ns in images:
            own = by_image.get(image.id, [])
            if not own and image.id in variants:
                continue  # its name is shown with the image that is meant by it
            visible = chosen.names(own) if chosen.patterns else own
            if not own:
                if chosen.patterns or chosen.dangling is False or (image.id in parents and not request.all):
                    continue
            elif not visible or chosen.dangling:
                continue
            if not chosen.accepts(image) or not _between(image.created_unix, before, since):
                continue
            if uses:
                image.shared_size_bytes = shared_bytes(image, uses, sizes)
            shown.append((with_names(image, visible, last_tag_ns), own))
        if request.manifests:
            await self._add_manifests(shown)
        return Images(images=[image for image, _ in shown])

    async def _bound(self, reader: Reader, text: str) -> int:
        return (await find_for(reader, text, None)).image().created_unix

    async def tag(self, request: TagImage) -> Empty:
        target = parse(request.repo)
        if target.digest is not None:
            raise InvalidArgument("refusing to create a tag with a digest reference", field="repo")
        target = target.with_tag(request.tag) if request.tag else target.with_default_tag()
        async with self._depot.catalog.writing() as writer:
            found = await find_for(writer, request.ref, None)
            await writer.set_name(target, found.id)
            source = as_reference(request.ref)
            if source is not None:
                await writer.copy_variants(source, target)
            writer.emit(image_event("tag", found.id, target.familiar, found.image().config.labels))
        return EMPTY

    async def disk_usage(self, request: Empty) -> DiskUsage:
        async with self._depot.catalog.reading() as reader:
            found = await reader.all()
            names = _grouped(await reader.all_names())
            variants = {variant.image_id for variant in await reader.variants()}
            uses = await reader.uses_of_layers()
            layers = await reader.all_layers()
        counts = await self._containers()
        sizes = {layer.chain_id: layer.size_bytes for layer in layers}
        parents = {parent for item, _ in found if (parent := item.image().parent)}
        images = []
        for item, last_tag_ns in found:
            own = names.get(item.id, [])
            if not own and (item.id in parents or item.id in variants):
                continue  # a step of a build, or an image for another platform: told with another
            image = with_names(item.image(), own, last_tag_ns)
            image.shared_size_bytes = shared_bytes(image, uses, sizes)
            image.containers = counts.get(image.id, 0)
            images.append(image)
        total = sum(size for chain, size in sizes.items() if chain in uses)
        return DiskUsage(images=images, layers_size_bytes=total)

    async def _containers(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for user in (await self._bus.request(USING_IMAGE, UsingImage())).users:
            counts[user.image_id] = counts.get(user.image_id, 0) + 1
        return counts


def _grouped(names: list[Name]) -> dict[str, list[Name]]:
    groups: dict[str, list[Name]] = {}
    for name in names:
        groups.setdefault(name.image_id, []).append(name)
    return groups


def _between(created: int, before: list[int], since: list[int]) -> bool:
    return all(created < bound for bound in before) and all(created > bound for bound in since)


def shared_bytes(image: Image, uses: dict[str, list[str]], sizes: dict[str, int]) -> int:
    """Bytes of an image's layers that other images have too."""
    return sum(sizes.get(chain, 0) for chain in image.chain_ids if len(uses.get(chain, [])) > 1)
