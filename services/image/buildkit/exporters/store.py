"""Images in the store, under names, for one platform or several; and from there to a registry."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import orjson

from services.image.buildkit.configs import finished_config
from services.image.buildkit.exporters.pushing import push
from services.image.catalog.manifests import OCI_INDEX, digest_of, parse
from shared.docker.platforms import Platform, parse_platform
from shared.docker.references import Reference
from shared.docker.references import parse as parse_reference
from shared.errors import InvalidArgument

if TYPE_CHECKING:
    from services.image.build.ports import FinishedImage
    from services.image.buildkit.exporting import Order
    from services.image.buildkit.progress import VertexLine
    from services.image.buildkit.targets import Target


async def export_registry(order: Order) -> dict[str, str]:
    """As `export_image`, and pushed."""
    return await export_image(order, pushed=True)


async def export_image(order: Order, *, pushed: bool = False) -> dict[str, str]:
    """Store what was built. Raises DavitError."""
    attributes = order.attributes
    names = names_of(attributes.text("name"))
    pushed = attributes.flag("push", pushed)
    annotations = attributes.annotations()
    attributes.flag("unpack")  # every layer here is
    attributes.flag("store", True)
    attributes.finish()
    build = order.build
    async with build.progress.doing("exporting to image", build.ref, str(order.number)) as line:
        made = await finish_all(order, line, annotations)
        answer = await name_all(order, made, names, line)
    if pushed:
        if not names:
            raise InvalidArgument("a push needs the name of an image", field="name")
        place = await build.place()
        for name in names:
            async with build.progress.doing(f"pushing {name}", build.ref, str(order.number)) as line:
                await push(place, name, line)
    return answer


async def finish_all(order: Order, line: VertexLine, annotations: Mapping[str, str]) -> dict[str, FinishedImage]:
    """The images that come out, by platform, durable."""
    images = (await order.build.place()).images
    line.status("exporting layers")
    made = {}
    for platform, target in order.targets.items():
        made[platform] = await images.finish(
            await target.image(), partial(finished_config, cache=wants_cache(order, target)), annotations
        )
    await images.flush()
    line.status("exporting layers", done=True)
    return made


def wants_cache(order: Order, target: Target) -> bool:
    """Whether an image is to hold its cache."""
    asked = any(entry.Type == "inline" for entry in order.build.request.Cache.Exports)
    return asked or target.options.inline_cache


async def name_all(
    order: Order, made: Mapping[str, FinishedImage], names: Sequence[Reference], line: VertexLine
) -> dict[str, str]:
    """Name the images; what the client is told."""
    place = await order.build.place()
    images = place.images
    saver = place.kitchen.saver
    for image in made.values():
        line.status(f"writing image {image.id}", done=True)
    index = b""
    if len(made) > 1:
        index = (await saver.with_variants([image.id for image in made.values()], [])).index()
    for name in names:
        line.status(f"naming to {name}")
    if not index:
        (image,) = made.values()
        await images.announce(image.id, [str(name) for name in names])
    for name in names:
        if index:
            platforms: dict[Platform, str] = {}
            for text, image in made.items():
                platform = parse_platform(text)
                assert platform is not None
                platforms[platform] = image.id
            await images.tag_index(digest_of(index), platforms, str(name))
        line.status(f"naming to {name}", done=True)
    return told(made, index, names)


def told(made: Mapping[str, FinishedImage], index: bytes, names: Sequence[Reference]) -> dict[str, str]:
    """The answer about images that came out."""
    if index:
        descriptor = {"mediaType": OCI_INDEX, "digest": digest_of(index), "size": len(index)}
        answer = {"containerimage.digest": digest_of(index)}
    else:
        (image,) = made.values()
        manifest = image.manifest
        descriptor = {
            "mediaType": parse(manifest).media_type,
            "digest": digest_of(manifest),
            "size": len(manifest),
        }
        answer = {"containerimage.config.digest": image.id, "containerimage.digest": digest_of(manifest)}
    answer["containerimage.descriptor"] = base64.b64encode(orjson.dumps(descriptor)).decode()
    if names:
        answer["image.name"] = ",".join(map(str, names))
    return answer


def names_of(text: str) -> list[Reference]:
    """The names that an image is to get. Raises InvalidArgument."""
    found = []
    for item in text.split(","):
        if item.strip():
            reference = parse_reference(item.strip())
            if reference.digest is not None:
                raise InvalidArgument(f"the name {item} has a digest", field="name")
            found.append(reference)
    return found
