"""What a name stands for, one summary per platform.

Source: Docker Engine API 1.48, ImageManifestSummary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.image.catalog.domain import Name, platform_of
from services.image.catalog.manifests import MAX_MANIFEST_BYTES, parse
from services.image.sql.catalog import Reader
from services.image.store.content import ContentStore
from shared.contracts.images import Image, ManifestSummary
from shared.contracts.images import Platform as ShownPlatform
from shared.docker.platforms import Platform
from shared.errors import NotFound


async def summaries(
    reader: Reader, content: ContentStore, image: Image, names: Sequence[Name], users: Mapping[str, Sequence[str]]
) -> list[ManifestSummary]:
    """The images that the names of one stand for; itself alone, when they stand for no other.

    Args:
        users: Container ids by image id.
    """
    platforms = {image.id: platform_of(image)}
    for name in names:
        platforms |= {variant.image_id: variant.platform for variant in await reader.variants(name.name)}
    found = []
    for image_id, platform in platforms.items():
        stored = await reader.by_id(image_id)
        if stored is not None:
            found.append(await _summary(reader, content, stored.image(), platform, users.get(image_id, ())))
    return sorted(found, key=lambda one: (one.platform.os, one.platform.architecture, one.platform.variant))


async def _summary(
    reader: Reader, content: ContentStore, image: Image, platform: Platform, users: Sequence[str]
) -> ManifestSummary:
    layers = await reader.layers_of(image.id)
    try:
        data = content.read(image.manifest_digest, MAX_MANIFEST_BYTES)
        sizes = [len(data), content.size(image.id), *(content.size(layer.blob) for layer in layers)]
        media_type, available = parse(data).media_type, True
    except NotFound:  # it is being removed
        data, sizes, media_type, available = b"", [], "", False
    return ManifestSummary(
        digest=image.manifest_digest,
        media_type=media_type,
        manifest_bytes=len(data),
        available=available,
        content_bytes=sum(sizes),
        unpacked_bytes=image.size_bytes,
        platform=ShownPlatform(os=platform.os, architecture=platform.architecture, variant=platform.variant),
        containers=list(users),
    )
