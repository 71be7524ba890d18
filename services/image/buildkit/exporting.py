"""What becomes of results: images in the store, archives, directories, pushes.

Source: moby/buildkit, exporter/ (names of exporters, attributes and answers); moby, builder/builder-next/exporter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from services.image.buildkit.builds import Build, evaluate
from services.image.buildkit.configs import finished_config
from services.image.buildkit.targets import Target
from shared.docker.references import parse
from shared.errors import InvalidArgument, Unsupported

if TYPE_CHECKING:
    from services.image.buildkit.wire import control_pb2

MOBY = ("moby", "image")


async def export(build: Build, targets: Mapping[str, Target]) -> dict[str, str]:
    """Build the results and hand them out as the request says; what the client is told of it.

    Raises:
        DavitError: An exporter that is not known, or failed.
    """
    exporters = build.request.Exporters
    for exporter in exporters:
        if exporter.Type not in MOBY:
            raise Unsupported(f"the exporter {exporter.Type} is not supported by this engine", field="Exporters")
    await evaluate(list(targets.values()))
    answer: dict[str, str] = {}
    for exporter in exporters:
        answer |= await _image(build, exporter, targets)
    return answer


async def _image(build: Build, exporter: control_pb2.Exporter, targets: Mapping[str, Target]) -> dict[str, str]:
    if len(targets) != 1:
        raise Unsupported("images for several platforms are not supported by this engine", field="platform")
    (target,) = targets.values()
    names = names_of(exporter)
    image = await target.image()
    place = await build.place()
    async with build.progress.doing("exporting to image", build.ref) as line:
        line.status("exporting layers")
        made = await place.images.finish(image, finished_config)
        line.status("exporting layers", done=True)
        line.status(f"writing image {made.id}")
        await place.images.flush()
        line.status(f"writing image {made.id}", done=True)
        for name in names:
            line.status(f"naming to {name}")
            await place.images.tag(made.id, name)
            line.status(f"naming to {name}", done=True)
    answer = {"containerimage.config.digest": made.id, "containerimage.digest": made.id}
    if names:
        answer["image.name"] = ",".join(names)
    return answer


def names_of(exporter: control_pb2.Exporter) -> Sequence[str]:
    """The names that an image is to get, whole. Raises InvalidArgument."""
    found = []
    for text in exporter.Attrs.get("name", "").split(","):
        if text.strip():
            reference = parse(text.strip())
            if reference.digest is not None:
                raise InvalidArgument(f"the name {text} has a digest", field="name")
            found.append(str(reference))
    return found
