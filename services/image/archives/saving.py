"""`docker save`: an archive that Docker, davit and OCI tools read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from services.image.archives.format import SavedImage, blob_path, documents
from services.image.catalog.depot import Depot, image_event
from services.image.catalog.domain import Name
from services.image.catalog.lookup import as_reference, find_for
from services.image.catalog.manifests import MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, Manifest, parse
from services.image.sql.catalog import Reader
from services.image.sql.names import name_of
from shared.bus.client import EMPTY, Bus, Empty
from shared.bus.streams import ByteStream, accept
from shared.contracts.images import SaveImages
from shared.docker.platforms import Platform, parse_platforms
from shared.docker.references import Reference
from shared.errors import Internal, InvalidArgument, NotFound
from shared.layers import tarheader
from shared.layers.archive import END_OF_ARCHIVE

READ_BYTES = 1 << 20


class Saver:
    """Serves SAVE."""

    def __init__(self, depot: Depot, bus: Bus) -> None:
        self._depot = depot
        self._bus = bus

    async def save(self, request: SaveImages) -> Empty:
        """Names are checked before the answer, so that the client of a wrong one gets a status."""
        if not request.names:
            raise InvalidArgument("no image was named", field="names")
        images = await self._chosen(request.names, parse_platforms(request.platforms))
        stream = await accept(self._bus, request.stream)
        self._depot.jobs.start(self._save(images, stream), "save")
        return EMPTY

    async def _save(self, images: list[SavedImage], stream: ByteStream) -> None:
        async with stream, self._depot.lease() as lease:
            for image in images:
                for one in image.all:
                    await lease.keep(one.id, *(layer.digest for layer in one.layers))
            async with aclosing(self.archive(images)) as chunks:
                async for chunk in chunks:
                    await stream.write(chunk)
        async with self._depot.catalog.writing() as writer:
            for image in images:
                writer.emit(image_event("save", image.id, image.id))

    async def archive(self, images: list[SavedImage]) -> AsyncGenerator[bytes, None]:
        """The archive's bytes. Equal images give equal archives."""
        yield _directory("blobs/") + _directory("blobs/sha256/")
        for digest in dict.fromkeys(layer.digest for image in images for one in image.all for layer in one.layers):
            async with aclosing(self._blob(digest)) as chunks:
                async for chunk in chunks:
                    yield chunk
        for path, data in documents(images).items():
            yield _header(path, len(data)) + data + tarheader.padding(len(data))
        yield END_OF_ARCHIVE

    async def _blob(self, digest: str) -> AsyncGenerator[bytes, None]:
        with self._depot.content.open(digest) as file:
            size = left = self._depot.content.size(digest)
            yield _header(blob_path(digest), size)
            while left:
                data = await asyncio.to_thread(file.read, min(READ_BYTES, left))
                if not data:
                    raise Internal(f"content {digest} is shorter than it was")
                left -= len(data)
                yield data
            yield tarheader.padding(size)

    async def _chosen(self, texts: list[str], platforms: list[Platform]) -> list[SavedImage]:
        """The images that texts name, each set of them once, with all the names that it was named by."""
        chosen: dict[tuple[str, ...], list[Reference]] = {}
        for text in texts:
            for image_ids, name in await self._named(text, platforms):
                names = chosen.setdefault(image_ids, [])
                if name is not None and name not in names:
                    names.append(name)
        return [await self.with_variants(image_ids, names) for image_ids, names in chosen.items()]

    async def _named(self, text: str, platforms: list[Platform]) -> list[tuple[tuple[str, ...], Reference | None]]:
        """Ids of images, the one that is meant without a platform first, and what they are called in the archive."""
        reference = as_reference(text)
        async with self._depot.catalog.reading() as reader:
            if reference is not None and ":" not in text.rpartition("/")[2] and "@" not in text:
                names: list[Name] = [name for name in await reader.names_in(reference.name) if not name.is_digest]
                if names:
                    return [(await _variants(reader, name.name, platforms), name.reference) for name in names]
            one = await reader.find(reference, text)
            if one is None:
                raise NotFound(f"No such image: {text}", image=text)  # as it was written, other than elsewhere
            is_id = reference is None or one.id.removeprefix("sha256:").startswith(text.removeprefix("sha256:"))
            image_ids = (one.id,) if is_id and not platforms else await _variants(reader, text, platforms)
        return [(image_ids, reference if not is_id and reference and reference.tag else None)]

    async def with_variants(self, image_ids: Sequence[str], names: list[Reference]) -> SavedImage:
        """Images to write under the same names, the one that is meant without a platform first. Raises NotFound."""
        first, *others = [await self._loaded(image_id, names) for image_id in image_ids]
        return replace(first, variants=tuple(others))

    async def _loaded(self, image_id: str, names: list[Reference]) -> SavedImage:
        async with self._depot.catalog.reading() as reader:
            found = await reader.by_id(image_id)
        if found is None:
            raise NotFound(f"No such image: {image_id}", image=image_id)
        content = self._depot.content
        config = await asyncio.to_thread(content.read, image_id, MAX_CONFIG_BYTES)
        data = await asyncio.to_thread(content.read, found.image().manifest_digest, MAX_MANIFEST_BYTES)
        manifest = parse(data)
        if not isinstance(manifest, Manifest):
            raise Internal(f"the manifest of {image_id} is an index")
        return SavedImage(image_id, config, data, manifest.layers, names)


async def _variants(reader: Reader, text: str, platforms: list[Platform]) -> tuple[str, ...]:
    """Ids of the images of a name for some platforms; all that it stands for when none is asked for.

    Raises:
        NotFound: In Docker's words.
    """
    meant = (await find_for(reader, text, None)).id
    if platforms:
        found = [(await find_for(reader, text, platform)).id for platform in platforms]
    else:
        reference = as_reference(text)
        variants = await reader.variants(name_of(reference)) if reference is not None else []
        found = [meant, *(variant.image_id for variant in variants)]
    return tuple(sorted(dict.fromkeys(found), key=lambda image_id: image_id != meant))


def _header(path: str, size: int) -> bytes:
    entry = tarheader.Entry(path, mode=0o644)
    entry.size = size
    return tarheader.encode(entry)


def _directory(path: str) -> bytes:
    return tarheader.encode(tarheader.Entry(path, tarheader.DIRECTORY, 0o755))
