"""Archives of images, sent to the client: those that `docker load` and OCI tools read."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from services.image.buildkit.exporters.store import finish_all, names_of, told
from services.image.buildkit.progress import TransferStatus
from services.image.buildkit.sending import send_archive
from shared.errors import Unsupported

if TYPE_CHECKING:
    from services.image.buildkit.exporting import Order


async def export_archive(order: Order) -> dict[str, str]:
    """An archive of what was built, with both Docker's and OCI's files in it. Raises DavitError."""
    attributes, build = order.attributes, order.build
    names = names_of(attributes.text("name"))
    annotations = attributes.annotations()
    if not attributes.flag("tar", True):
        raise Unsupported("tar=false: an archive's directory is not sent, only the archive", field="tar")
    attributes.finish()
    place = await build.place()
    kind = "docker image" if attributes.exporter == "docker" else "oci image"
    async with build.progress.doing(f"exporting to {kind} format", build.ref, str(order.number)) as line:
        made = await finish_all(order, line, annotations)
        tagged = [name.with_default_tag() for name in names]
        saved = await place.kitchen.saver.with_variants([image.id for image in made.values()], tagged)
        status = TransferStatus(line, "sending tarball")
        async with aclosing(place.kitchen.saver.archive([saved])) as chunks:
            await send_archive(place.session, order.number, chunks, status.add)
        status.done()
    return told(made, saved.index() if len(made) > 1 else b"", names)
