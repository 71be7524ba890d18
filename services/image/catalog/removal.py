"""Untagging, deleting and pruning images, by Docker's rules.

::

    removal                               creation of a container (control)
      users? ──► hide images, commit        image? ──► held, and still shown? ──► container, commit
      held? then later: users? ──► delete what has none

Both look again after they have said what they do, so one of them sees the other: a container never loses its layers.
A creation that takes longer than an image is held asks for it once more. What a crash leaves hidden is deleted later
(`collect_hidden`).

Source: Docker Engine API 1.50, ImageDelete, ImagePrune; moby daemon/images/image_delete.go for what is untagged and
what is in the way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.image.catalog.depot import Depot, image_event
from services.image.catalog.domain import Name, User, check_delete, check_untag, is_single_reference
from services.image.catalog.filters import PRUNE_KEYS, ImageFilter
from services.image.catalog.lookup import as_reference, find_for, no_such_image
from services.image.sql.catalog import Writer
from services.image.sql.images import Found
from services.image.sql.names import name_of
from shared.bus.client import Bus
from shared.contracts.containers import USING_IMAGE, UsingImage
from shared.contracts.images import LAYERS_REMOVED, PruneImages, Removal, Removals, RemoveImage
from shared.docker.platforms import Platform, parse_platform
from shared.docker.references import Reference, id_prefix, is_whole_id
from shared.errors import Conflict, Unavailable
from shared.events.record import DomainEvent
from shared.failpoints import failpoint

log = logging.getLogger(__name__)

Users = dict[str, list[User]]


@dataclass(slots=True)
class Outcome:
    """What one removal did, and what is left to clean up after its commit."""

    lines: list[Removal] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    layer_bytes: int = 0

    def untagged(self, name: str) -> None:
        self.lines.append(Removal(untagged=name))

    def deleted(self, item: str) -> None:
        self.lines.append(Removal(deleted=item))


class Remover:
    """Serves REMOVE and PRUNE."""

    def __init__(self, depot: Depot, bus: Bus) -> None:
        self._depot = depot
        self._bus = bus

    async def remove(self, request: RemoveImage) -> Removals:
        platforms = [platform for text in request.platforms if (platform := parse_platform(text)) is not None]
        users = await self._users()
        async with self._depot.catalog.writing() as writer:
            work = _Removal(writer, users, force=request.force, prune=not request.no_prune)
            await work.run(request.ref, platforms)
        failpoint("image.remove.hidden")
        await self._delete_hidden(work.outcome.images)
        return Removals(removals=work.outcome.lines)

    async def prune(self, request: PruneImages) -> Removals:
        chosen = ImageFilter.parse(request.filters, PRUNE_KEYS)
        only_dangling = chosen.dangling is not False
        users = await self._users()
        async with self._depot.catalog.writing() as writer:
            work = _Removal(writer, users, force=False, prune=False)
            for found in await _prunable(writer, chosen, users, only_dangling=only_dangling):
                await work.delete_all(found)
            freed = work.outcome.layer_bytes
            writer.emit(DomainEvent(type="image", action="prune", actor_id="", attributes={"reclaimed": str(freed)}))
        failpoint("image.remove.hidden")
        await self._delete_hidden(work.outcome.images)
        return Removals(removals=work.outcome.lines, space_reclaimed_bytes=freed)

    async def collect_hidden(self) -> None:
        """Delete images that were removed by force, once their containers are gone."""
        async with self._depot.catalog.reading() as reader:
            hidden = await reader.hidden()
        await self._delete([image_id for image_id in hidden if not self._depot.holds.left_s(image_id)])

    async def _delete_hidden(self, images: Sequence[str]) -> None:
        """Delete what this removal has hidden: now, or when nobody holds it any more."""
        left_s = {image_id: self._depot.holds.left_s(image_id) for image_id in images}
        held = [image_id for image_id, seconds in left_s.items() if seconds > 0]
        if held:
            self._depot.jobs.start(self._delete_later(held, max(left_s.values())), "deletion of images")
        await self._delete_quietly([image_id for image_id in images if image_id not in held])

    async def _delete_later(self, images: Sequence[str], pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        await self._delete_quietly(images)

    async def _delete_quietly(self, images: Sequence[str]) -> None:
        try:
            await self._delete(images)
        except Unavailable as error:  # control, or the disk: the images are out of sight, and are collected later
            log.warning("%d images are hidden and not deleted yet: %s", len(images), error)

    async def _delete(self, images: Sequence[str]) -> None:
        """Delete those of some hidden images that are still hidden and that no container uses."""
        if not images:
            return
        users = await self._users(images)
        blobs: list[str] = []
        chains: list[str] = []
        async with self._depot.catalog.writing() as writer:
            for image_id in await writer.hidden():
                if image_id in images and not users.get(image_id):
                    content = await writer.content_of(image_id)
                    layers = await writer.layers_of(image_id)
                    chains += [layer.chain_id for layer in await writer.remove(image_id)]
                    blobs += [*content, *(layer.blob for layer in layers)]
                    self._depot.holds.forget(image_id)
            gone = await self._depot.take_away(writer, blobs, chains)
        await self._depot.remove_files(gone.paths)
        if gone.paths:
            await self._bus.publish(LAYERS_REMOVED, b"{}")

    async def _users(self, images: Sequence[str] = ()) -> Users:
        users: Users = {}
        for user in (await self._bus.request(USING_IMAGE, UsingImage(image_ids=list(images)))).users:
            users.setdefault(user.image_id, []).append(User(user.container_id, user.running))
        return users


async def _prunable(writer: Writer, chosen: ImageFilter, users: Users, *, only_dangling: bool) -> list[Found]:
    """Images that nothing needs, children before their parents."""
    found = [item for item, _ in await writer.all()]
    images = {item.id: item.image() for item in found}
    named = {name.image_id for name in await writer.all_names()}
    named |= {variant.image_id for variant in await writer.variants()}
    selected = {
        image_id
        for image_id, image in images.items()
        if chosen.accepts(image) and not users.get(image_id) and not (only_dangling and image_id in named)
    }
    children: dict[str, set[str]] = {}
    for image in images.values():
        children.setdefault(image.parent, set()).add(image.id)
    ordered: list[Found] = []
    done: set[str] = set()
    progress = True
    while progress:
        progress = False
        for item in found:
            if item.id in selected and item.id not in done and children.get(item.id, set()) <= done:
                ordered.append(item)
                done.add(item.id)
                progress = True
    return ordered


class _Removal:
    """One removal, within one transaction: the rules see a state that nobody changes meanwhile."""

    def __init__(self, writer: Writer, users: Users, *, force: bool, prune: bool) -> None:
        self._writer = writer
        self._users = users
        self._force = force
        self._prune = prune
        self.outcome = Outcome()

    async def run(self, text: str, platforms: Sequence[Platform] = ()) -> None:
        """Remove what a client named; with platforms, only the images for them.

        Raises:
            NotFound: There is no such image.
            Conflict: Something needs it, in Docker's words.
        """
        reference = as_reference(text)
        found = await self._writer.find(reference, text)
        if found is None:
            raise no_such_image(text, reference)
        by_name = await self._is_name(found, reference, text)
        for platform in platforms:
            one = await find_for(self._writer, text, platform)
            if by_name is None or not await self._leave(one, by_name):
                await self._whole(one, by_name, text)
        if not platforms:
            await self._whole(found, by_name, text)

    async def _whole(self, found: Found, by_name: Reference | None, text: str) -> None:
        names = await self._writer.names(found.id)
        if by_name is None:
            await self._by_id(found, names)
        else:
            await self._by_name(found, names, by_name, text)

    async def _leave(self, found: Found, name: Reference) -> bool:
        """Take one of several images from a name, and delete it if it has no other; False when it is the only one."""
        others = [one for one in await self._writer.variants(name_of(name)) if one.image_id != found.id]
        if not others:
            return False
        check_untag(name.familiar, found.id, (), self._users.get(found.id, []), force=self._force)
        in_repository = [one.name for one in await self._writer.names(found.id) if one.repository == name.name]
        for one in in_repository:
            if one == name_of(name) or "@" in one:
                await self._writer.remove_variant(one, found.id)
        if not await self._writer.names(found.id):
            await self._delete_checked(found, ignore_names=True)
        return True

    async def _is_name(self, found: Found, reference: Reference | None, text: str) -> Reference | None:
        if reference is None or is_whole_id(text):
            return None
        prefix = id_prefix(text)
        if prefix is not None and found.id.startswith(f"sha256:{prefix}"):
            return None
        return reference

    async def _by_name(self, found: Found, names: Sequence[Name], reference: Reference, text: str) -> None:
        check_untag(text, found.id, names, self._users.get(found.id, []), force=self._force)
        variants = [one for one in await self._writer.variants(name_of(reference)) if one.image_id != found.id]
        for variant in variants:
            check_untag(text, variant.image_id, (), self._users.get(variant.image_id, []), force=self._force)
        await self._untag(found, name_of(reference), reference.familiar)
        left = [name for name in names if name.name != name_of(reference)]
        if reference.digest is None and not any(
            not name.is_digest and name.repository == reference.name for name in left
        ):
            # Without a tag in the repository, its digests name the image no more.
            for name in [name for name in left if name.repository == reference.name]:
                await self._untag(found, name.name, name.familiar, announce=False)
            left = [name for name in left if name.repository != reference.name]
        for variant in variants:
            other = await self._writer.by_id(variant.image_id)
            if other is not None and not await self._writer.names(other.id):
                await self._delete_checked(other, ignore_names=True)
        if left:
            return
        try:
            await self._delete_checked(found, ignore_names=True)
        except Conflict:
            if self._users.get(found.id) or await self._writer.children(found.id):
                return  # the name is gone; the image stays for those who need it
            raise

    async def _by_id(self, found: Found, names: Sequence[Name]) -> None:
        single = is_single_reference(names)
        check_delete(
            found.id,
            children=await self._writer.children(found.id),
            users=self._users.get(found.id, []),
            names=names,
            force=self._force,
            ignore_names=single,
        )
        await self._delete_checked(found, ignore_names=single or self._force)

    async def _delete_checked(self, found: Found, *, ignore_names: bool) -> None:
        names = await self._writer.names(found.id)
        users = self._users.get(found.id, [])
        check_delete(
            found.id,
            children=await self._writer.children(found.id),
            users=users,
            names=names,
            force=self._force,
            ignore_names=ignore_names,
        )
        parent = found.image().parent
        await self.delete_all(found)
        if self._prune and parent:
            await self._prune_parent(parent)

    async def _prune_parent(self, image_id: str) -> None:
        """Delete the steps below that nothing else needs."""
        found = await self._writer.by_id(image_id)
        while found is not None:
            busy = self._users.get(found.id) or await self._writer.children(found.id)
            if busy or await self._writer.names(found.id):
                return
            parent = found.image().parent
            await self.delete_all(found)
            found = await self._writer.by_id(parent) if parent else None

    async def delete_all(self, found: Found) -> None:
        """Remove an image's names and hide it; `Remover` then deletes it, once no container uses it."""
        for name in await self._writer.names(found.id):
            if any(one.image_id != found.id for one in await self._writer.variants(name.name)):
                await self._writer.remove_variant(name.name, found.id)
            else:
                await self._untag(found, name.name, name.familiar)
        self._writer.emit(image_event("delete", found.id, found.id, found.image().config.labels))
        await self._writer.hide(found.id)
        self.outcome.images.append(found.id)
        self.outcome.deleted(found.id)
        if self._users.get(found.id):
            return
        only_here = await self._writer.layers_only_of(found.id, self.outcome.images)
        self.outcome.layer_bytes += sum(layer.size_bytes for layer in only_here)
        for layer in only_here:
            self.outcome.deleted(layer.chain_id)

    async def _untag(self, found: Found, name: str, familiar: str, *, announce: bool = True) -> None:
        await self._writer.remove_name(name)
        if announce:
            self._writer.emit(image_event("untag", found.id, found.id, found.image().config.labels))
        self.outcome.untagged(familiar)
