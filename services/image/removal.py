"""Untagging, deleting and pruning images, by Docker's rules.

Source: Docker Engine API 1.50, ImageDelete, ImagePrune; moby daemon/images/image_delete.go for what is untagged and
what is in the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from services.image.depot import Depot, image_event
from services.image.domain import Name, User, check_delete, check_untag, is_single_reference
from services.image.filters import PRUNE_KEYS, ImageFilter
from services.image.lookup import as_reference, no_such_image
from services.image.references import Reference, id_prefix, is_whole_id
from services.image.sql import Found, Writer, name_of
from shared.bus import Bus
from shared.contracts.containers import USING_IMAGE, UsingImage
from shared.contracts.images import PruneImages, Removal, Removals, RemoveImage
from shared.errors import Conflict, NotFound, Unsupported
from shared.events import DomainEvent

Users = dict[str, list[User]]


@dataclass(slots=True)
class Outcome:
    """What one removal did, and what is left to clean up after its commit."""

    lines: list[Removal] = field(default_factory=list)
    blobs: list[str] = field(default_factory=list)
    chains: list[str] = field(default_factory=list)
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
        if request.platforms:
            raise Unsupported("removing single platforms of an image is not supported", field="platforms")
        users = await self._users()
        async with self._depot.catalog.writing() as writer:
            work = _Removal(writer, users, force=request.force, prune=not request.no_prune)
            await work.run(request.ref)
        await self._clean_up(work.outcome)
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
        await self._clean_up(work.outcome)
        return Removals(removals=work.outcome.lines, space_reclaimed_bytes=freed)

    async def collect_hidden(self) -> None:
        """Delete images that were removed by force, once their containers are gone."""
        async with self._depot.catalog.reading() as reader:
            hidden = await reader.hidden()
        if not hidden:
            return
        users = await self._users()
        async with self._depot.catalog.writing() as writer:
            work = _Removal(writer, users, force=True, prune=False)
            for image_id in hidden:
                if not users.get(image_id):
                    await work.delete(image_id, announce=False)
        await self._clean_up(work.outcome)

    async def _users(self) -> Users:
        users: Users = {}
        for user in (await self._bus.request(USING_IMAGE, UsingImage())).users:
            users.setdefault(user.image_id, []).append(User(user.container_id, user.running))
        return users

    async def _clean_up(self, outcome: Outcome) -> None:
        await self._depot.discard(outcome.blobs, outcome.chains)


async def _prunable(writer: Writer, chosen: ImageFilter, users: Users, *, only_dangling: bool) -> list[Found]:
    """Images that nothing needs, children before their parents."""
    found = [item for item, _ in await writer.all()]
    images = {item.id: item.image() for item in found}
    named = {name.image_id for name in await writer.all_names()}
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

    async def run(self, text: str) -> None:
        """Remove what a client named.

        Raises:
            NotFound: There is no such image.
            Conflict: Something needs it, in Docker's words.
        """
        reference = as_reference(text)
        found = await self._writer.find(reference, text)
        if found is None:
            raise no_such_image(text, reference)
        names = await self._writer.names(found.id)
        by_name = await self._is_name(found, reference, text)
        if by_name is None:
            await self._by_id(found, names)
        else:
            await self._by_name(found, names, by_name, text)

    async def _is_name(self, found: Found, reference: Reference | None, text: str) -> Reference | None:
        if reference is None or is_whole_id(text):
            return None
        prefix = id_prefix(text)
        if prefix is not None and found.id.startswith(f"sha256:{prefix}"):
            return None
        return reference

    async def _by_name(self, found: Found, names: Sequence[Name], reference: Reference, text: str) -> None:
        check_untag(text, found.id, names, self._users.get(found.id, []), force=self._force)
        await self._untag(found, name_of(reference), reference.familiar)
        left = [name for name in names if name.name != name_of(reference)]
        if reference.digest is None and not any(
            not name.is_digest and name.repository == reference.name for name in left
        ):
            # Without a tag in the repository, its digests name the image no more.
            for name in [name for name in left if name.repository == reference.name]:
                await self._untag(found, name.name, name.familiar)
            left = [name for name in left if name.repository != reference.name]
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
        """Remove an image's names, then itself; it is only hidden while containers use it."""
        for name in await self._writer.names(found.id):
            await self._untag(found, name.name, name.familiar)
        self._writer.emit(image_event("delete", found.id, found.id, found.image().config.labels))
        if self._users.get(found.id):
            await self._writer.hide(found.id)
            self.outcome.deleted(found.id)
            return
        await self.delete(found.id, announce=True)

    async def delete(self, image_id: str, *, announce: bool) -> None:
        """Remove an image and the layers that only it has."""
        found = await self._writer.by_id(image_id)
        if found is None:
            raise NotFound(f"No such image: {image_id}", image=image_id)
        content = await self._writer.content_of(image_id)
        layers = await self._writer.layers_of(image_id)
        gone = await self._writer.remove(image_id)
        self.outcome.blobs += [*content, *(layer.blob for layer in layers)]
        self.outcome.chains += [layer.chain_id for layer in gone]
        self.outcome.layer_bytes += sum(layer.size_bytes for layer in gone)
        if announce:
            self.outcome.deleted(image_id)
            for layer in gone:
                self.outcome.deleted(layer.chain_id)

    async def _untag(self, found: Found, name: str, familiar: str) -> None:
        await self._writer.remove_name(name)
        self._writer.emit(image_event("untag", found.id, familiar, found.image().config.labels))
        self.outcome.untagged(familiar)
