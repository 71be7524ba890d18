"""Blobs on their way into the registry: in one request, in parts, or from another repository.

Source: OCI distribution-spec 1.1, "Pushing blobs", "Mounting a blob from another repository".
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from services.image.catalog import manifests
from services.image.catalog.depot import Depot
from services.image.server.answers import answer
from services.image.server.repositories import Repositories
from services.image.server.uploads import Uploads
from shared.errors import InvalidArgument, Unavailable

READ_BYTES = 1 << 20
# Docker's clients write the range without its unit, others with it.
_CONTENT_RANGE = re.compile(r"(?:bytes[= ])?(\d+)-(\d+)(?:/.*)?")


class Uploading:
    """The handlers of ``/v2/<name>/blobs/uploads``.

    Args:
        may_read: Whether who sent a request may read another repository.
    """

    def __init__(
        self,
        depot: Depot,
        repositories: Repositories,
        uploads: Uploads,
        may_read: Callable[[Request, str], Awaitable[bool]],
    ) -> None:
        self._may_read = may_read
        self._depot = depot
        self._repositories = repositories
        self._uploads = uploads

    async def begin(self, request: Request, name: str) -> Response:
        query = request.query_params
        mount, source = query.get("mount", ""), query.get("from", "")
        if source and manifests.is_digest(mount) and await self._mounted(request, source, mount, name):
            return _created(name, mount)
        digest = query.get("digest", "")
        if digest and not manifests.is_digest(digest):
            raise _bad_digest("provided digest is not supported")
        upload = await asyncio.to_thread(self._uploads.begin, name)
        if digest:
            await self._append(request, name, upload)
            return await self._finish(name, upload, digest)
        return _accepted(name, upload, 0)

    async def _mounted(self, request: Request, source: str, digest: str, name: str) -> bool:
        """Show a blob of one repository in another; whether there was one that the client may read."""
        if not await self._may_read(request, source):
            return False
        async with self._depot.lease() as lease:
            if not await self._repositories.has_blob(source, digest) or not await lease.keep_blob(digest):
                return False
            await self._add(name, digest)
            return True

    async def status(self, request: Request, name: str, upload: str) -> Response:
        return _accepted(name, upload, self._uploads.size(name, upload), status=204)

    async def patch(self, request: Request, name: str, upload: str) -> Response:
        if not self._fits(request, self._uploads.size(name, upload)):
            return _accepted(name, upload, self._uploads.size(name, upload), status=416)
        return _accepted(name, upload, await self._append(request, name, upload))

    async def end(self, request: Request, name: str, upload: str) -> Response:
        """The last part, if any, and the whole's digest."""
        digest = request.query_params.get("digest", "")
        if not manifests.is_digest(digest):
            raise _bad_digest("provided digest is not supported")
        if not self._fits(request, self._uploads.size(name, upload)):
            return _accepted(name, upload, self._uploads.size(name, upload), status=416)
        await self._append(request, name, upload)
        return await self._finish(name, upload, digest)

    async def cancel(self, request: Request, name: str, upload: str) -> Response:
        await asyncio.to_thread(self._uploads.cancel, name, upload)
        return answer(204)

    def _fits(self, request: Request, size: int) -> bool:
        """Whether a part begins where the one before it ended.

        Raises:
            InvalidArgument: The part's range and its length differ.
        """
        stated = _CONTENT_RANGE.fullmatch(request.headers.get("content-range", ""))
        if stated is None:
            return True
        start, length = int(stated[1]), int(stated[2]) - int(stated[1]) + 1
        told = request.headers.get("content-length", "")
        if told.isdecimal() and int(told) != length:
            raise InvalidArgument(
                "provided length did not match content length", registry_code="SIZE_INVALID", registry_status=400
            )
        return start == size

    async def _append(self, request: Request, name: str, upload: str) -> int:
        """Write the request's body to an upload; its size afterwards."""
        with self._uploads.open(name, upload) as file:
            buffered: list[bytes] = []
            size = 0
            async for chunk in request.stream():
                buffered.append(chunk)
                size += len(chunk)
                if size >= READ_BYTES:
                    await asyncio.to_thread(_write, file, b"".join(buffered))
                    buffered, size = [], 0
            await asyncio.to_thread(_write, file, b"".join(buffered))
            return file.tell()

    async def _finish(self, name: str, upload: str, digest: str) -> Response:
        async with self._depot.lease() as lease:
            await lease.keep(digest)
            await asyncio.to_thread(self._uploads.finish, name, upload, digest)
            await self._add(name, digest)
        return _created(name, digest)

    async def _add(self, name: str, digest: str) -> None:
        # A blob that no manifest names is kept by its age: it counts from now.
        await asyncio.to_thread(self._depot.content.touch, digest)
        await self._repositories.add_blob(name, digest)


def _bad_digest(text: str) -> InvalidArgument:
    return InvalidArgument(text, registry_code="DIGEST_INVALID")


def _created(name: str, digest: str) -> Response:
    return answer(201, None, Location=f"/v2/{name}/blobs/{digest}", Docker_Content_Digest=digest)


def _accepted(name: str, upload: str, size: int, *, status: int = 202) -> Response:
    return answer(
        status,
        None,
        Location=f"/v2/{name}/blobs/uploads/{upload}",
        Range=f"0-{max(0, size - 1)}",
        Docker_Upload_UUID=upload,
        Content_Length="0",
    )


def _write(file: Any, data: bytes) -> None:
    try:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
    except OSError as error:
        raise Unavailable(f"content cannot be stored: {error.strerror}") from error
