"""Taking in a layer in one pass: its blob is stored while its files are unpacked.

All methods block; jobs call them in threads.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, Self

from services.image.catalog.domain import LayerRecord
from services.image.catalog.manifests import layer_media_type
from services.image.store.content import ContentStore, Ingest
from shared.errors import InvalidArgument
from shared.layers import compression
from shared.layers.store import LayerStore, StagedFiles, StagedLayer
from shared.layers.worker import Unpacked

READ_BYTES = 1 << 20
# What a manifest can say of a layer; other compressions are undone on the way in.
COMPRESSED_BLOBS = ("gzip", "zstd")


@dataclass(slots=True)
class TakenLayer:
    """A layer whose blob and files are both complete, neither yet visible under its name.

    Attributes:
        ingest: The blob; None when the store has it already.
        staged: The files; None when they were not unpacked.
    """

    blob: str
    blob_bytes: int
    compression: str
    diff_id: str
    size_bytes: int
    ingest: Ingest | None
    staged: StagedFiles | None

    @property
    def media_type(self) -> str:
        return layer_media_type(self.compression)

    def record(self, chain_id: str, parent: str) -> LayerRecord:
        return LayerRecord(chain_id, self.diff_id, parent, self.blob, self.media_type, self.blob_bytes, self.size_bytes)

    def discard(self) -> None:
        """Remove what was not committed. Idempotent."""
        if self.ingest is not None:
            self.ingest.discard()
        if self.staged is not None:
            self.staged.discard()
            self.staged = None


class LayerIntake:
    """A layer that arrives in pieces. Leaving the context discards it, unless `finish` handed it over."""

    def __init__(self, content: ContentStore, layers: LayerStore) -> None:
        self._content = content
        self._layers = layers
        self._ingest: Ingest | None = None
        self._staged: StagedLayer | None = None
        self._compression = ""

    def write(self, data: bytes | memoryview) -> None:
        """Raises Unavailable when the disk is full or fails."""
        if self._ingest is None:
            self._compression = compression.detect(bytes(data[: compression.HEAD_BYTES]))
            # An uncompressed blob's digest is its diff id, which the unpacking child computes anyway.
            self._ingest = self._content.ingest(hashing=self._compression != "")
            self._staged = self._layers.stage()
        self._ingest.write(data)
        if self._staged is not None and not self._staged.write(data):
            self._staged.finish()
            raise InvalidArgument("Error processing tar file: data after its end")

    def end(self) -> None:
        """No more pieces come; `finish` may be called later, while other layers arrive."""
        if self._ingest is None:
            self.write(b"")
        assert self._staged is not None
        self._staged.end()

    def finish(self) -> TakenLayer:
        """All has arrived. Raises InvalidArgument when it is no archive, or a damaged one."""
        if self._ingest is None:
            self.write(b"")
        assert self._ingest is not None
        assert self._staged is not None
        unpacked = self._staged.finish()
        if unpacked.compression not in ("", *COMPRESSED_BLOBS):
            self._ingest = self._plain(self._ingest)
        plain = unpacked.compression not in COMPRESSED_BLOBS
        taken = TakenLayer(
            unpacked.diff_id if plain else self._ingest.digest,
            self._ingest.size,
            "" if plain else unpacked.compression,
            unpacked.diff_id,
            unpacked.size_bytes,
            self._ingest,
            self._staged,
        )
        self._ingest = self._staged = None
        return taken

    def _plain(self, compressed: Ingest) -> Ingest:
        """A blob in a compression that registries do not know, uncompressed."""
        plain = self._content.ingest(hashing=False)
        with compressed.reading() as file:
            for piece in compression.decompressed(lambda: file.read(READ_BYTES), compression.detect(_head(file))):
                plain.write(piece)
        compressed.discard()
        return plain

    def discard(self) -> None:
        if self._ingest is not None:
            self._ingest.discard()
        if self._staged is not None:
            self._staged.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.discard()


def _head(file: BinaryIO) -> bytes:
    return os.pread(file.fileno(), compression.HEAD_BYTES, 0)


def unpack_stored(content: ContentStore, layers: LayerStore, blob: str, diff_id: str) -> tuple[StagedLayer, Unpacked]:
    """Unpack a layer whose blob is in the store.

    Raises:
        NotFound: The blob is not there.
        InvalidArgument: It is no archive, or not of the layer that it should be.
    """
    with content.open(blob) as file:
        staged = layers.stage(file.fileno())
        try:
            unpacked = staged.finish()
            if unpacked.diff_id != diff_id:
                raise InvalidArgument(f"layer {blob} unpacks to {unpacked.diff_id} and should to {diff_id}")
        except BaseException:
            staged.discard()
            raise
    return staged, unpacked
