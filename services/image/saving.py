"""`docker save`: an archive that Docker, davit and OCI tools read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from services.image.archives import SavedImage, blob_path, documents
from services.image.depot import Depot, image_event
from services.image.domain import Name
from services.image.lookup import as_reference, find_for
from services.image.manifests import (
    MAX_CONFIG_BYTES,
    MAX_MANIFEST_BYTES,
    Manifest,
    Platform,
    parse,
    parse_platform,
)
from services.image.references import Reference
from shared.bus import EMPTY, Bus, Empty
from shared.contracts.images import SaveImages
from shared.errors import Internal, InvalidArgument, NotFound
from shared.layers import tarheader
from shared.layers.archive import END_OF_ARCHIVE
from shared.streams import ByteStream, accept

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
        platform = parse_platform(request.platform)
        images = await self._chosen(request.names, platform)
        stream = await accept(self._bus, request.stream)
        self._depot.jobs.start(self._save(images, stream), "save")
        return EMPTY

    async def _save(self, images: list[SavedImage], stream: ByteStream) -> None:
        async with stream, self._depot.lease() as lease:
            for image in images:
                await lease.keep(image.id, *(layer.digest for layer in image.layers))
            async with aclosing(self.archive(images)) as chunks:
                async for chunk in chunks:
                    await stream.write(chunk)
        async with self._depot.catalog.writing() as writer:
            for image in images:
                writer.emit(image_event("save", image.id, image.id))

    async def archive(self, images: list[SavedImage]) -> AsyncGenerator[bytes, None]:
        """The archive's bytes. Equal images give equal archives."""
        written = set()
        yield _directory("blobs/") + _directory("blobs/sha256/")
        for image in images:
            for layer in image.layers:
                if layer.digest not in written:
                    written.add(layer.digest)
                    async with aclosing(self._blob(layer.digest)) as chunks:
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

    async def _chosen(self, texts: list[str], platform: Platform | None) -> list[SavedImage]:
        """The images that texts name, each once, with all the names that they were named by."""
        chosen: dict[str, list[Reference]] = {}
        for text in texts:
            for image_id, name in await self._named(text, platform):
                names = chosen.setdefault(image_id, [])
                if name is not None and name not in names:
                    names.append(name)
        return [await self._loaded(image_id, names) for image_id, names in chosen.items()]

    async def _named(self, text: str, platform: Platform | None) -> list[tuple[str, Reference | None]]:
        reference = as_reference(text)
        async with self._depot.catalog.reading() as reader:
            if reference is not None and ":" not in text.rpartition("/")[2] and "@" not in text:
                names: list[Name] = [name for name in await reader.names_in(reference.name) if not name.is_digest]
                if names:
                    found = [(await find_for(reader, name.name, platform), name.reference) for name in names]
                    return [(item.id, name) for item, name in found]
            if await reader.find(reference, text) is None:
                raise NotFound(f"No such image: {text}", image=text)  # as it was written, other than elsewhere
            one = await find_for(reader, text, platform)
        is_name = reference is not None and not one.id.removeprefix("sha256:").startswith(text.removeprefix("sha256:"))
        return [(one.id, reference if is_name and reference and reference.tag else None)]

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


def _header(path: str, size: int) -> bytes:
    entry = tarheader.Entry(path, mode=0o644)
    entry.size = size
    return tarheader.encode(entry)


def _directory(path: str) -> bytes:
    return tarheader.encode(tarheader.Entry(path, tarheader.DIRECTORY, 0o755))
