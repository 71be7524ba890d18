"""What nobody needs in the registry: uploads that were given up, and blobs that no manifest names.

A blob is pushed before the manifest that names it, so it is kept for a day whatever names it.
"""

from __future__ import annotations

import asyncio
import logging

from services.image.catalog.depot import Depot
from services.image.catalog.manifests import MAX_MANIFEST_BYTES, Index, parse
from services.image.server.repositories import Repositories
from services.image.server.uploads import Uploads
from shared.errors import DavitError

log = logging.getLogger(__name__)

EVERY_S = 3600.0
UPLOADS_KEPT_S = 7 * 24 * 3600.0
BLOBS_KEPT_S = 24 * 3600.0


async def tidy_for_ever(depot: Depot, repositories: Repositories, uploads: Uploads) -> None:
    """Safe in several copies of the service: each step is one transaction, and may have been done already."""
    while True:
        try:
            await asyncio.to_thread(uploads.remove_old, UPLOADS_KEPT_S)
            await forget_unnamed(depot, repositories)
        except (DavitError, OSError) as error:  # tried again next time
            log.warning("the registry was not tidied: %s", error)
        await asyncio.sleep(EVERY_S)


async def forget_unnamed(depot: Depot, repositories: Repositories, older_than_s: float = BLOBS_KEPT_S) -> None:
    """Take blobs that no manifest of their repository names from it; the store then collects them."""
    for repository, (blobs, manifests) in (await repositories.blobs_and_manifests()).items():
        named: set[str] = set()
        for digest in manifests:
            named |= await asyncio.to_thread(_named_by, depot, digest)
        for digest in blobs - named:
            if depot.content.age_s(digest) > older_than_s:
                await repositories.remove_blob(repository, digest)


def _named_by(depot: Depot, digest: str) -> set[str]:
    parsed = parse(depot.content.read(digest, MAX_MANIFEST_BYTES))
    if isinstance(parsed, Index):
        return {item.digest for item in parsed.manifests}
    return {parsed.config.digest, *(layer.digest for layer in parsed.layers)}
