"""`docker load`: an archive is read front to back once, and its layers are unpacked while the rest still arrives."""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import Callable
from dataclasses import dataclass, field

from services.image.archives.format import MAX_DOCUMENT_BYTES, ArchivedImage, Contents, blob_digest, fitting_layers
from services.image.archives.intake import LayerIntake, TakenLayer
from services.image.bridge import Bridge
from services.image.catalog.depot import Depot, Lease, image_event
from services.image.catalog.domain import LayerRecord, make_record, short
from services.image.catalog.manifests import Descriptor, ImageConfig, Manifest, build_manifest, digest_of, parse
from services.image.progress import Progress, reported
from shared.bus.client import EMPTY, Bus, Empty
from shared.bus.streams import ByteStream, accept
from shared.contracts.images import LoadImages
from shared.docker.platforms import Platform, parse_platforms
from shared.docker.references import Reference
from shared.errors import DavitError, InvalidArgument, NotFound
from shared.layers import compression, tarheader
from shared.layers.tarheader import TarError
from shared.layers.tarstream import TarStream

# How many layers may be unpacked at the same time, each by a child process.
UNPACKING = 4
_DOCUMENT_STARTS = (b"{", b"[")


@dataclass(slots=True)
class ReadLayers:
    """What became of the files of an archive that are no documents.

    Attributes:
        known: Layers that the store has already, by path; their data was skipped.
        failed: Why a file could not be taken as a layer; it matters only when an image names it.
    """

    taken: dict[str, TakenLayer] = field(default_factory=dict)
    known: dict[str, LayerRecord] = field(default_factory=dict)
    failed: dict[str, DavitError] = field(default_factory=dict)

    def discard(self) -> None:
        for layer in self.taken.values():
            layer.discard()


class ArchiveReader:
    """Reads one archive, in a thread.

    Args:
        read: The next bytes of the archive, ``b""`` at its end.
        known: Layers of the store by the digest of their blob.
        taken: Called for each layer that is complete.
    """

    def __init__(
        self,
        depot: Depot,
        read: Callable[[], bytes],
        known: dict[str, LayerRecord],
        taken: Callable[[TakenLayer], None],
    ) -> None:
        self._depot = depot
        self._read = read
        self._known = known
        self._tell = taken
        self._unpacking: list[tuple[str, LayerIntake]] = []
        self.contents = Contents()
        self.layers = ReadLayers()

    def run(self) -> None:
        """Raises InvalidArgument when it is no tar, or a truncated one."""
        try:
            tar = TarStream(self._plain())
            while (entry := tar.next()) is not None:
                self._entry(tar, entry)
            while self._unpacking:
                self._finish_one()
        except (TarError, compression.CompressionError) as error:
            raise InvalidArgument(f"invalid archive: {error}") from error
        finally:
            for _, intake in self._unpacking:
                intake.discard()

    def _plain(self) -> Callable[[], bytes]:
        head = b""
        while len(head) < compression.HEAD_BYTES and (piece := self._read()):
            head += piece
        rest = [head]

        def read() -> bytes:
            return rest.pop() if rest else self._read()

        pieces = compression.decompressed(read, compression.detect(head))
        return lambda: next(pieces, b"")

    def _entry(self, tar: TarStream, entry: tarheader.Entry) -> None:
        path = posixpath.normpath(entry.name)
        if entry.kind == tarheader.SYMLINK:
            self.contents.links[path] = posixpath.normpath(posixpath.join(posixpath.dirname(path), entry.link))
        elif entry.kind == tarheader.HARD_LINK:
            self.contents.links[path] = posixpath.normpath(entry.link)
        elif entry.kind == tarheader.REGULAR and entry.size:
            self._file(tar, entry, path)

    def _file(self, tar: TarStream, entry: tarheader.Entry, path: str) -> None:
        promised = blob_digest(path)
        if promised is not None and promised in self._known:
            self.layers.known[path] = self._known[promised]
            return
        pieces = tar.data()
        first = bytes(next(pieces))
        if first.startswith(_DOCUMENT_STARTS) and entry.stored <= MAX_DOCUMENT_BYTES:
            self.contents.documents[path] = first + b"".join(bytes(piece) for piece in pieces)
            return
        if posixpath.basename(path) == "VERSION":
            return
        while len(self._unpacking) >= UNPACKING:
            self._finish_one()
        intake = LayerIntake(self._depot.content, self._depot.layers)
        try:
            intake.write(first)
            for piece in pieces:
                intake.write(piece)
            intake.end()
        except InvalidArgument as error:
            intake.discard()
            self.layers.failed[path] = error
            return
        except BaseException:
            intake.discard()
            raise
        self._unpacking.append((path, intake))

    def _finish_one(self) -> None:
        path, intake = self._unpacking.pop(0)
        try:
            taken = intake.finish()
        except InvalidArgument as error:
            self.layers.failed[path] = error
            return
        finally:
            intake.discard()
        promised = blob_digest(path)
        if promised is not None and taken.blob not in (promised, taken.diff_id):
            taken.discard()
            self.layers.failed[path] = InvalidArgument(f"invalid archive: {promised} has other content")
            return
        self.layers.taken[path] = taken
        self._tell(taken)


class Loader:
    """Serves LOAD."""

    def __init__(self, depot: Depot, bus: Bus) -> None:
        self._depot = depot
        self._bus = bus

    async def load(self, request: LoadImages) -> Empty:
        platforms = parse_platforms(request.platforms)
        stream = await accept(self._bus, request.stream)
        self._depot.jobs.start(self._load(request, stream, platforms), "load")
        return EMPTY

    async def _load(self, request: LoadImages, stream: ByteStream, platforms: list[Platform]) -> None:
        async with reported(stream, quiet=request.quiet, promised=True) as progress, self._depot.lease() as lease:
            reader = await self._read(stream, progress)
            try:
                told: list[ArchivedImage] = []
                for image in _for_platforms(reader.contents.images(), platforms):
                    moved = await self._store(lease, image, reader.layers)
                    if not any(image.is_beside(other) for other in told):
                        await _announce(progress, image.names, digest_of(image.config), moved)
                    told.append(image)
            finally:
                await asyncio.shield(asyncio.to_thread(reader.layers.discard))
        self._depot.wake()

    async def _read(self, stream: ByteStream, progress: Progress) -> ArchiveReader:
        async with self._depot.catalog.reading() as catalog:
            known = {layer.blob: layer for layer in await catalog.all_layers()}
        bridge = Bridge()

        def tell(taken: TakenLayer) -> None:
            item, size = short(taken.diff_id), taken.blob_bytes
            bridge.wait(lambda: progress.advance("Loading layer", item, size, size))

        reader = ArchiveReader(self._depot, lambda: bridge.wait(stream.read), known, tell)
        try:
            await bridge.run(reader.run)
        except BaseException:
            await asyncio.shield(asyncio.to_thread(reader.layers.discard))
            raise
        return reader

    async def _store(self, lease: Lease, image: ArchivedImage, read: ReadLayers) -> list[str]:
        """Ids of the images that were called as it is."""
        config = ImageConfig.parse(image.config)
        fitting_layers(config, len(image.layers))
        layers: list[LayerRecord] = []
        for path, diff_id in zip(image.layers, config.diff_ids, strict=True):
            parent = layers[-1].chain_id if layers else ""
            layers.append(await self._layer(lease, read, path, diff_id, parent))
        manifest = _manifest(image, layers)
        image_id = digest_of(image.config)
        for data in (image.config, manifest, *([image.index] if image.index else [])):
            await self._depot.put(lease, data, digest_of(data))
        content = [digest_of(image.index)] if image.index else []
        record = make_record(image_id, config, layers, manifest_digest=digest_of(manifest), content=content)
        event = image_event("load", image_id, image_id, record.image.config.labels)
        index = digest_of(image.index) if image.index else ""
        return await self._depot.add(record, names=image.names, index=index, events=[event])

    async def _layer(self, lease: Lease, read: ReadLayers, path: str, diff_id: str, parent: str) -> LayerRecord:
        if path in read.failed:
            raise read.failed[path]
        taken = read.taken.get(path)
        if taken is not None:
            if taken.diff_id != diff_id:
                raise InvalidArgument(f"invalid archive: layer {path} has the diffID {taken.diff_id}, not {diff_id}")
            if taken.staged is not None:
                return await self._depot.commit_layer(lease, taken, parent)
            # The archive has it once and images have it on top of different layers.
            return await self._again(lease, taken.blob, taken.media_type, taken.blob_bytes, diff_id, parent)
        known = read.known.get(path)
        if known is None:
            raise InvalidArgument(f"invalid archive: layer {path} is missing")
        return await self._again(lease, known.blob, known.media_type, known.blob_bytes, diff_id, parent)

    async def _again(
        self, lease: Lease, blob: str, media_type: str, blob_bytes: int, diff_id: str, parent: str
    ) -> LayerRecord:
        return await self._depot.layer_from_blob(lease, Descriptor(media_type, blob, blob_bytes), diff_id, parent)


def _for_platforms(images: list[ArchivedImage], platforms: list[Platform]) -> list[ArchivedImage]:
    """Those of an archive's images that are for one of some platforms; all when none is asked for.

    Raises:
        NotFound: There is none for one of them.
    """
    if not platforms:
        return images
    stated = [(image, ImageConfig.parse(image.config).platform) for image in images]
    for platform in platforms:
        if not any(own.matches(platform) for _, own in stated):
            others = ", ".join(sorted({str(own) for _, own in stated}))
            raise NotFound(f"the archive has no image for the platform {platform}, but for {others}")
    return [image for image, own in stated if any(own.matches(platform) for platform in platforms)]


def _manifest(image: ArchivedImage, layers: list[LayerRecord]) -> bytes:
    """The image's own manifest, if the store has the blobs that it names; else one of the blobs that it has."""
    if image.manifest is not None:
        original = parse(image.manifest)
        if isinstance(original, Manifest) and [item.digest for item in original.layers] == [
            layer.blob for layer in layers
        ]:
            return image.manifest
    return build_manifest(image.config, [Descriptor(item.media_type, item.blob, item.blob_bytes) for item in layers])


async def _announce(progress: Progress, names: list[Reference], image_id: str, moved: list[str]) -> None:
    for old in moved:
        shown = ", ".join(name.familiar for name in names)
        await progress.stream(f"The image {shown} already exists, renaming the old one with ID {old} to empty string\n")
    for name in names:
        await progress.stream(f"Loaded image: {name.familiar}\n")
    if not names:
        await progress.stream(f"Loaded image ID: {image_id}\n")
