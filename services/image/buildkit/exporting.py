"""What becomes of results: images in the store, archives, directories, pushes.

Every attribute of an exporter is either done or refused by name.

Source: moby/buildkit, exporter/ (names of exporters, attributes and answers); moby, builder/builder-next/exporter.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from services.image.buildkit.attributes import Attributes
from services.image.buildkit.builds import Build, evaluate
from services.image.buildkit.exporters.archives import export_archive
from services.image.buildkit.exporters.files import export_directory, export_tar
from services.image.buildkit.exporters.store import export_image, export_registry
from services.image.buildkit.targets import Target
from services.image.buildkit.wire import control_pb2
from shared.errors import Unsupported

Export = Callable[["Order"], Awaitable[dict[str, str]]]


@dataclass(frozen=True, slots=True)
class Order:
    """One exporter of a build. number: its place among the request's."""

    build: Build
    targets: Mapping[str, Target]
    number: int
    attributes: Attributes


_EXPORTERS: dict[str, Export] = {
    "moby": export_image,
    "image": export_image,
    "registry": export_registry,
    "docker": export_archive,
    "oci": export_archive,
    "local": export_directory,
    "tar": export_tar,
}


async def export(build: Build, targets: Mapping[str, Target]) -> dict[str, str]:
    """Build the results and hand them out as the request says; what the client is told of it.

    Raises:
        DavitError: An exporter or an attribute that is not known; or it failed.
    """
    orders = []
    for number, exporter in enumerate(build.request.Exporters):
        make = _EXPORTERS.get(exporter.Type)
        if make is None:
            raise Unsupported(f"the exporter {exporter.Type} is not supported by this engine", field="Exporters")
        orders.append((make, Order(build, targets, number, Attributes(exporter.Type, exporter.Attrs))))
    check_cache(build.request.Cache)
    await evaluate(list(targets.values()))
    answer: dict[str, str] = {}
    for make, order in orders:
        if targets:
            answer |= await make(order)
    return answer


def check_cache(options: control_pb2.CacheOptions) -> None:
    """Raises Unsupported for caches that are not written here."""
    for entry in options.Exports:
        if entry.Type != "inline":
            raise Unsupported(
                f"cache-to type={entry.Type} is not supported by this engine: images hold their cache with type=inline",
                field="cache-to",
            )
    if options.ExportRefDeprecated:
        raise Unsupported("ExportRefDeprecated is not supported by this engine", field="Cache")
