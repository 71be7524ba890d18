"""The distribution API over the store.

Source: OCI distribution-spec 1.1, "Endpoints", "Error Codes".
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from services.image.catalog import manifests
from services.image.catalog.depot import Depot
from services.image.server.access import CATALOG, TOKEN_PATH, Gate, Visitor, read_form
from services.image.server.answers import VERSION_HEADER, answer, failure
from services.image.server.nodes import REPOSITORY, NodeTokens
from services.image.server.repositories import ManifestRow, Repositories, artifact_type_of, page
from services.image.server.tokens import Scope, parse_scopes
from services.image.server.uploading import Uploading
from services.image.server.uploads import Uploads
from services.image.server.users import credentials_of
from shared.docker.references import MAX_NAME
from shared.errors import DavitError, InvalidArgument, NotFound

READ_BYTES = 1 << 20
_LAYERS = f"/v2/{REPOSITORY}/blobs/"
_NAME = r"(?P<name>[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*)"
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
Handler = Callable[..., Awaitable[Response]]


def _authorization(request: Request) -> str:
    return request.headers.get("authorization", "")


def repository(name: str, *actions: str) -> Scope:
    return Scope("repository", name, frozenset(actions))


def wanted_scope(method: str, path: str, name: str) -> Scope | None:
    """What a request needs; None when it is enough to be somebody. HEAD counts as GET."""
    if not name:
        return CATALOG if path == "/v2/_catalog" else None
    if "/blobs/uploads" in path or method in ("PUT", "POST", "PATCH"):
        return repository(name, "pull", "push")
    return repository(name, "delete" if method == "DELETE" else "pull")


def unknown(what: str, code: str) -> NotFound:
    return NotFound(what, registry_code=code)


class Registry:
    """An ASGI application.

    Args:
        gate: Who may use it; None for everybody who reaches it.
        tokens: With which nodes read layers.
    """

    def __init__(
        self, depot: Depot, repositories: Repositories, uploads: Uploads, gate: Gate | None, tokens: NodeTokens
    ) -> None:
        self._depot = depot
        self._repositories = repositories
        self._gate = gate
        self._tokens = tokens
        uploading = Uploading(depot, repositories, uploads, self._may_read)
        routes: list[tuple[str, str, Handler]] = [
            ("GET", r"/v2/?", self._root),
            ("GET", r"/v2/_catalog", self._catalog),
            ("GET", rf"/v2/{_NAME}/tags/list", self._tags),
            ("GET", rf"/v2/{_NAME}/manifests/(?P<reference>[^/]+)", self._get_manifest),
            ("PUT", rf"/v2/{_NAME}/manifests/(?P<reference>[^/]+)", self._put_manifest),
            ("DELETE", rf"/v2/{_NAME}/manifests/(?P<reference>[^/]+)", self._delete_manifest),
            ("GET", rf"/v2/{_NAME}/referrers/(?P<digest>[^/]+)", self._referrers),
            ("POST", rf"/v2/{_NAME}/blobs/uploads/?", uploading.begin),
            ("GET", rf"/v2/{_NAME}/blobs/uploads/(?P<upload>[^/]+)", uploading.status),
            ("PATCH", rf"/v2/{_NAME}/blobs/uploads/(?P<upload>[^/]+)", uploading.patch),
            ("PUT", rf"/v2/{_NAME}/blobs/uploads/(?P<upload>[^/]+)", uploading.end),
            ("DELETE", rf"/v2/{_NAME}/blobs/uploads/(?P<upload>[^/]+)", uploading.cancel),
            ("GET", rf"/v2/{_NAME}/blobs/(?P<digest>[^/]+)", self._get_blob),
            ("DELETE", rf"/v2/{_NAME}/blobs/(?P<digest>[^/]+)", self._delete_blob),
        ]
        self._routes = [(method, re.compile(pattern), handler) for method, pattern, handler in routes]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except ClientDisconnect:
            return
        except DavitError as error:
            response = failure(error)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        path = request.url.path
        if path.startswith(_LAYERS) and method == "GET" and self._tokens.allows(_authorization(request)):
            return await self._get_content(request, path.removeprefix(_LAYERS))
        if path == TOKEN_PATH and self._gate is not None and self._gate.tokens is not None:
            return await self._token(request, self._gate, method)
        known = False
        for wanted, pattern, handler in self._routes:
            match = pattern.fullmatch(path)
            if match is None:
                continue
            known = True
            if wanted == method:
                name = match.groupdict().get("name") or ""
                request.state.visitor = await self._enter(request, wanted_scope(method, path, name))
                if len(name) > MAX_NAME:
                    raise InvalidArgument("invalid repository name", registry_code="NAME_INVALID")
                return await handler(request, **match.groupdict())
        await self._enter(request, None)
        return answer(405 if known else 404, {"errors": [{"code": "UNSUPPORTED" if known else "NAME_INVALID"}]})

    # -- access -------------------------------------------------------------------------------------------------

    async def _enter(self, request: Request, wanted: Scope | None) -> Visitor | None:
        return None if self._gate is None else await asyncio.to_thread(self._gate.enter, request, wanted)

    async def _may_read(self, request: Request, name: str) -> bool:
        """Whether who asks may also read another repository than the one that the request is about."""
        if self._gate is None:
            return True
        return await asyncio.to_thread(self._gate.may, request.state.visitor, repository(name, "pull"))

    async def _token(self, request: Request, gate: Gate, method: str) -> Response:
        if method == "GET":
            scopes = request.query_params.getlist("scope")
            credentials = credentials_of(_authorization(request))
        elif method == "POST":
            form = await read_form(request)
            if form.get("grant_type") != ["password"]:
                return answer(400, {"error": "unsupported_grant_type"})
            scopes = form.get("scope", [])
            credentials = (form.get("username", [""])[0], form.get("password", [""])[0])
        else:
            return answer(405, {"errors": [{"code": "UNSUPPORTED"}]})
        user = await asyncio.to_thread(gate.checked, credentials)
        return await asyncio.to_thread(gate.give, user, parse_scopes(scopes))

    # -- lists --------------------------------------------------------------------------------------------------

    async def _root(self, request: Request) -> Response:
        return answer(200, {})

    async def _catalog(self, request: Request) -> Response:
        names = await self._repositories.catalog()
        if self._gate is not None:
            gate, visitor = self._gate, request.state.visitor
            names = await asyncio.to_thread(lambda: [name for name in names if gate.sees(visitor, name)])
        return self._paged(request, "repositories", {}, names)

    async def _tags(self, request: Request, name: str) -> Response:
        tags = await self._repositories.tags(name)
        if tags is None:
            raise unknown("repository name not known to registry", "NAME_UNKNOWN")
        return self._paged(request, "tags", {"name": name}, tags)

    def _paged(self, request: Request, key: str, value: dict[str, Any], items: list[str]) -> Response:
        count_text = request.query_params.get("n")
        if count_text is not None and not count_text.isdecimal():
            raise InvalidArgument("invalid number of results requested", registry_code="PAGINATION_NUMBER_INVALID")
        count = int(count_text) if count_text is not None else None
        shown, more = page(items, request.query_params.get("last", ""), count)
        headers = {"Link": f'<{request.url.path}?last={shown[-1]}&n={count}>; rel="next"'} if more else {}
        return answer(200, {**value, key: shown}, **headers)

    # -- manifests ----------------------------------------------------------------------------------------------

    async def _get_manifest(self, request: Request, name: str, reference: str) -> Response:
        digest: str | None = reference
        if ":" not in reference:
            digest = await self._repositories.resolve(name, reference)
        elif not manifests.is_digest(reference) or not await self._repositories.has_manifest(name, reference):
            digest = None
        if digest is None or not self._depot.content.has(digest):
            raise unknown("manifest unknown", "MANIFEST_UNKNOWN")
        data = await asyncio.to_thread(self._depot.content.read, digest, manifests.MAX_MANIFEST_BYTES)
        media_type = manifests.parse(data).media_type
        headers = {"Docker-Content-Digest": digest, "ETag": f'"{digest}"', "Content-Length": str(len(data))}
        body = b"" if request.method == "HEAD" else data
        return Response(body, 200, {**VERSION_HEADER, **headers}, media_type)

    async def _put_manifest(self, request: Request, name: str, reference: str) -> Response:
        data = await _body(request, manifests.MAX_MANIFEST_BYTES)
        digest = manifests.digest_of(data)
        by_digest = ":" in reference
        if by_digest and reference != digest:
            raise InvalidArgument("provided digest did not match uploaded content", registry_code="DIGEST_INVALID")
        if not by_digest and not _TAG.fullmatch(reference):
            raise InvalidArgument("invalid tag name", registry_code="TAG_INVALID")
        parsed = manifests.parse(data, request.headers.get("content-type", "").partition(";")[0])
        async with self._depot.lease() as lease:
            await self._check_parts(name, parsed)
            await self._depot.put(lease, data, digest)
            row = ManifestRow(digest, parsed.media_type, len(data), artifact_type_of(parsed), parsed.annotations)
            await self._repositories.add_manifest(name, row, parsed, None if by_digest else reference)
        headers = {"Location": f"/v2/{name}/manifests/{digest}", "Docker-Content-Digest": digest}
        if parsed.subject is not None:
            headers["OCI-Subject"] = parsed.subject.digest
        return answer(201, None, **headers)

    async def _check_parts(self, name: str, parsed: manifests.Manifest | manifests.Index) -> None:
        """Raises NotFound when a manifest names what the repository does not have."""
        if isinstance(parsed, manifests.Index):
            for item in parsed.manifests:
                if not await self._repositories.has_manifest(name, item.digest):
                    raise InvalidArgument(f"manifest {item.digest} unknown", registry_code="MANIFEST_BLOB_UNKNOWN")
            return
        for item in (parsed.config, *parsed.layers):
            if not manifests.is_elsewhere(item.media_type) and not await self._repositories.has_blob(name, item.digest):
                raise InvalidArgument(f"blob {item.digest} unknown to registry", registry_code="MANIFEST_BLOB_UNKNOWN")

    async def _delete_manifest(self, request: Request, name: str, reference: str) -> Response:
        by_digest = ":" in reference
        remove = self._repositories.remove_manifest if by_digest else self._repositories.remove_tag
        if await remove(name, reference):
            return answer(202)
        found = reference if by_digest else await self._repositories.resolve(name, reference)
        if found and manifests.is_digest(found) and await self._repositories.has_manifest(name, found):
            text = "this is an image of the engine, which is removed there and not here"
            raise InvalidArgument(text, registry_code="UNSUPPORTED", registry_status=405)
        raise unknown("manifest unknown", "MANIFEST_UNKNOWN")

    async def _referrers(self, request: Request, name: str, digest: str) -> Response:
        if not manifests.is_digest(digest):
            raise InvalidArgument("invalid digest", registry_code="DIGEST_INVALID")
        rows = await self._repositories.referrers(name, digest)
        wanted = request.query_params.get("artifactType")
        headers = {}
        if wanted:
            rows = [row for row in rows if row.artifact_type == wanted]
            headers["OCI-Filters-Applied"] = "artifactType"
        index = {
            "schemaVersion": 2,
            "mediaType": manifests.OCI_INDEX,
            "manifests": [row.descriptor() for row in rows],
        }
        return Response(orjson.dumps(index), 200, {**VERSION_HEADER, **headers}, manifests.OCI_INDEX)

    # -- blobs --------------------------------------------------------------------------------------------------

    async def _get_blob(self, request: Request, name: str, digest: str) -> Response:
        if not manifests.is_digest(digest) or not await self._repositories.has_blob(name, digest):
            raise unknown("blob unknown to registry", "BLOB_UNKNOWN")
        return await self._get_content(request, digest)

    async def _get_content(self, request: Request, digest: str) -> Response:
        if not manifests.is_digest(digest) or not self._depot.content.has(digest):
            raise unknown("blob unknown to registry", "BLOB_UNKNOWN")
        size = self._depot.content.size(digest)
        headers = {
            **VERSION_HEADER,
            "Docker-Content-Digest": digest,
            "ETag": f'"{digest}"',
            "Accept-Ranges": "bytes",
        }
        start, end, status = 0, size, 200
        wanted = byte_range(request.headers.get("range", ""), size)
        if wanted is not None:
            (start, end), status = wanted, 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        headers["Content-Length"] = str(end - start)
        if request.method == "HEAD":
            return Response(None, status, headers, "application/octet-stream")
        return StreamingResponse(self._blob(digest, start, end), status, headers, "application/octet-stream")

    async def _blob(self, digest: str, start: int, end: int) -> AsyncIterator[bytes]:
        with self._depot.content.open(digest) as file:
            file.seek(start)
            while start < end:
                data = await asyncio.to_thread(file.read, min(READ_BYTES, end - start))
                if not data:
                    return
                start += len(data)
                yield data

    async def _delete_blob(self, request: Request, name: str, digest: str) -> Response:
        if not manifests.is_digest(digest) or not await self._repositories.remove_blob(name, digest):
            raise unknown("blob unknown to registry", "BLOB_UNKNOWN")
        return answer(202)


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """Start and end (exclusive) of a ``Range`` header; None for none, or one that is not understood.

    Raises:
        InvalidArgument: It lies outside of the content (416).
    """
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header.strip())
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        start, end = max(0, size - int(match[2])), size
    else:
        start = int(match[1])
        end = min(size, int(match[2]) + 1) if match[2] else size
    if start >= size or end <= start:
        raise InvalidArgument("the range lies outside of the blob", registry_code="RANGE_INVALID", registry_status=416)
    return start, end


async def _body(request: Request, limit: int) -> bytes:
    parts = []
    size = 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > limit:
            text = f"a manifest of more than {limit} bytes"
            raise InvalidArgument(text, registry_code="SIZE_INVALID", registry_status=413)
    return b"".join(parts)
