"""Talking to one registry about one repository.

Source: OCI distribution-spec, "API"; Docker Registry HTTP API V2.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urljoin

import httpx

from services.image.catalog import manifests
from services.image.registry.auth import Authorizer, Credentials
from services.image.registry.errors import connection_failure, failure_of
from services.image.registry.hosts import Endpoint, Hosts
from shared.contracts.images import RegistryAuth
from shared.errors import DavitError, InvalidArgument, Unavailable
from shared.version import VERSION

CONNECT_TIMEOUT_S = 10.0
# A transfer may take hours; a minute without a byte is a dead connection.
SILENCE_TIMEOUT_S = 60.0
ATTEMPTS = 5
FIRST_PAUSE_S = 0.5
MOST_PAUSE_S = 10.0
PAGE = 1000
MAX_TAG_PAGES = 1000
_RETRIED = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A manifest as the registry has it."""

    data: bytes
    media_type: str
    digest: str


class Repository:
    """A repository of a registry; an async context manager. Endpoints are tried in order until one answers.

    Args:
        domain, path: As in a reference.
        actions: What will be done, as token scopes say it: ``pull`` or ``pull,push``.
    """

    def __init__(self, hosts: Hosts, domain: str, path: str, auth: RegistryAuth | None, *, actions: str) -> None:
        self.domain = domain
        self.path = path
        self._scope = f"repository:{path}:{actions}" if path else ""
        self._auth = auth
        self._writes = "push" in actions
        self._endpoints = hosts.endpoints(domain, "push" if self._writes else "pull")
        self._stack = AsyncExitStack()
        self._clients: dict[str, tuple[httpx.AsyncClient, Authorizer]] = {}
        self._usable: Endpoint | None = None
        self._extra_scopes: list[str] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _client(self, endpoint: Endpoint) -> tuple[httpx.AsyncClient, Authorizer]:
        if endpoint.url not in self._clients:
            client = httpx.AsyncClient(
                verify=await asyncio.to_thread(endpoint.context),
                follow_redirects=True,
                trust_env=False,
                timeout=httpx.Timeout(SILENCE_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
                headers={"User-Agent": f"davit/{VERSION}", **endpoint.headers},
            )
            await self._stack.enter_async_context(client)
            credentials = Credentials(None if endpoint.is_mirror and len(self._endpoints) > 1 else self._auth)
            self._clients[endpoint.url] = client, Authorizer(client, credentials)
        return self._clients[endpoint.url]

    # -- asking -------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def ask(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: Any = None,
        retried: bool = True,
        params: Mapping[str, str] | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """An answer whose body is not read yet; any status below 400, or 404, 416, 202, ….

        Args:
            path: Below the API's root, or a whole address.
            content: The body; only with `retried` may it be sent again.

        Raises:
            Unauthorized, Forbidden, Unavailable: As the registry, or the network, has it.
        """
        response = await self._send(method, path, dict(headers or {}), content, retried, params)
        try:
            yield response
        finally:
            await response.aclose()

    async def _send(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        content: Any,
        retried: bool,
        params: Mapping[str, str] | None,
    ) -> httpx.Response:
        endpoints = [self._usable] if self._usable else self._endpoints
        last: DavitError = Unavailable(f"no endpoint of {self.domain} can be used for this")
        missing: httpx.Response | None = None
        for endpoint in endpoints:
            try:
                response = await self._send_to(endpoint, method, path, headers, content, retried, params)
            except Unavailable as error:
                # The registry is asked when its mirror is away, and plain HTTP when TLS does not work. An answer says
                # more than a connection that failed, and a failure of TLS more than one of plain HTTP after it.
                if "status" in error.detail or not last.detail.get("tls"):
                    last = error
                continue
            if response.status_code != 404 or not endpoint.is_mirror or self._writes:
                self._usable = self._usable or endpoint
                return response
            await response.aread()  # a mirror need not have everything
            missing = response
        if missing is not None:
            return missing
        raise last

    async def _send_to(
        self,
        endpoint: Endpoint,
        method: str,
        path: str,
        headers: dict[str, str],
        content: Any,
        retried: bool,
        params: Mapping[str, str] | None,
    ) -> httpx.Response:
        client, authorizer = await self._client(endpoint)
        address = path if "://" in path else f"{endpoint.api}/{path}"
        attempts = ATTEMPTS if retried and self._usable else 1
        pause_s = FIRST_PAUSE_S
        failure: DavitError
        for attempt in range(attempts):
            try:
                response = await self._authorized(client, authorizer, method, address, headers, content, params)
            except httpx.HTTPError as error:
                # Docker asks for the API's root first, so that its clients know that address from such errors.
                failure = connection_failure(error, address if self._usable else f"{endpoint.api}/")
                if failure.detail.get("tls"):
                    break
            else:
                if response.status_code not in _RETRIED:
                    return response
                await response.aread()
                failure = failure_of(response, address)
                await response.aclose()
                pause_s = max(pause_s, min(MOST_PAUSE_S, _retry_after(response)))
            if attempt + 1 < attempts:
                await asyncio.sleep(pause_s)
                pause_s = min(MOST_PAUSE_S, pause_s * 2)
        raise failure

    async def _authorized(
        self,
        client: httpx.AsyncClient,
        authorizer: Authorizer,
        method: str,
        address: str,
        headers: dict[str, str],
        content: Any,
        params: Mapping[str, str] | None,
    ) -> httpx.Response:
        for last in (False, False, True):  # without a token, with one that may have run out, with a new one
            scope = " ".join([self._scope, *self._extra_scopes])
            header = await authorizer.header(scope)
            sent = {**headers, "Authorization": header} if header else headers
            body = content() if callable(content) else content
            request = client.build_request(method, address, headers=sent, content=body, params=params)
            response = await client.send(request, stream=True)
            if response.status_code != 401:
                return response
            await response.aread()
            await response.aclose()
            if not authorizer.challenged(response, scope) or last:
                break
        raise failure_of(response, f"{method} {address}")

    def add_scope(self, path: str) -> None:
        """Ask for the right to read another repository too, to mount blobs from it."""
        scope = f"repository:{path}:pull"
        if scope not in self._extra_scopes:
            self._extra_scopes.append(scope)

    # -- reading ------------------------------------------------------------------------------------------------

    async def manifest(self, reference: str) -> Fetched:
        """A manifest by tag or digest, verified when it is by digest.

        Raises:
            NotFound: There is none.
        """
        headers = {"Accept": ", ".join(manifests.ACCEPTED)}
        async with self.ask("GET", f"{self.path}/manifests/{reference}", headers=headers) as response:
            data = await _limited(response, manifests.MAX_MANIFEST_BYTES)
            if response.status_code >= 400:
                raise failure_of(response, f"manifest {reference}")
            media_type = response.headers.get("content-type", "").partition(";")[0].strip()
        digest = manifests.digest_of(data)
        if manifests.is_digest(reference) and digest != reference:
            raise Unavailable(f"manifest verification failed for digest {reference}")
        return Fetched(data, media_type, digest)

    async def tags(self) -> list[str]:
        """All tags. Raises NotFound when there is no such repository."""
        found: list[str] = []
        address = f"{self.path}/tags/list?n={PAGE}"
        for _ in range(MAX_TAG_PAGES):
            async with self.ask("GET", address) as response:
                data = await _limited(response, manifests.MAX_MANIFEST_BYTES)
                if response.status_code >= 400:
                    raise failure_of(response, f"tags of {self.path}")
            found += manifests.load_object(data, "list of tags").get("tags") or []
            following = re.match(r"<([^>]+)>\s*;\s*rel=\"?next", response.headers.get("link", ""))
            if following is None:
                return found
            address = urljoin(str(response.url), following[1])
        raise Unavailable(f"the registry lists the tags of {self.path} without end")

    async def small_blob(self, descriptor: manifests.Descriptor, limit: int) -> bytes:
        """A blob that fits into memory, verified."""
        async with self.ask("GET", f"{self.path}/blobs/{descriptor.digest}") as response:
            data = await _limited(response, limit)
            if response.status_code >= 400:
                raise failure_of(response, f"blob {descriptor.digest}")
        if manifests.digest_of(data) != descriptor.digest:
            raise Unavailable(f"filesystem layer verification failed for digest {descriptor.digest}")
        return data

    @asynccontextmanager
    async def blob(self, digest: str, start: int) -> AsyncIterator[tuple[AsyncIterator[bytes], bool]]:
        """A blob's bytes from a position on, and whether the registry began there (else it began at 0)."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        # Layers are compressed already; a registry that compressed them again would change what is verified.
        headers["Accept-Encoding"] = "identity"
        async with self.ask("GET", f"{self.path}/blobs/{digest}", headers=headers) as response:
            if response.status_code >= 400:
                await response.aread()
                raise failure_of(response, f"blob {digest}")
            yield response.aiter_raw(), response.status_code == 206

    # -- writing ------------------------------------------------------------------------------------------------

    async def has_blob(self, digest: str) -> bool:
        async with self.ask("HEAD", f"{self.path}/blobs/{digest}") as response:
            return response.status_code == 200

    async def begin_upload(self, digest: str = "", source: str = "") -> str | None:
        """Where to send a blob; None when the registry mounted it from the source repository instead."""
        params = {"mount": digest, "from": source} if source else None
        async with self.ask("POST", f"{self.path}/blobs/uploads/", params=params, content=b"") as response:
            await response.aread()
            if response.status_code == 201:
                return None
            if response.status_code != 202 or "location" not in response.headers:
                raise failure_of(response, f"upload to {self.path}")
            return urljoin(str(response.url), response.headers["location"])

    async def send_chunk(self, address: str, content: Any, size: int, start: int) -> str:
        """Send a part of a blob; where the next one goes."""
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(size),
            "Content-Range": f"{start}-{start + size - 1}",
        }
        async with self.ask("PATCH", address, headers=headers, content=content, retried=False) as response:
            await response.aread()
            if response.status_code != 202:
                raise failure_of(response, f"upload to {self.path}")
            return urljoin(str(response.url), str(response.headers.get("location", address)))

    async def end_upload(self, address: str, digest: str) -> None:
        target = httpx.URL(address).copy_merge_params({"digest": digest})
        async with self.ask("PUT", str(target), content=b"", retried=False) as response:
            await response.aread()
            if response.status_code not in (201, 204):
                raise failure_of(response, f"upload to {self.path}")

    async def put_manifest(self, reference: str, data: bytes, media_type: str) -> None:
        headers = {"Content-Type": media_type}
        async with self.ask("PUT", f"{self.path}/manifests/{reference}", headers=headers, content=data) as response:
            await response.aread()
            if response.status_code >= 300:
                raise failure_of(response, f"manifest {reference}")

    async def ping(self) -> str:
        """Ask for nothing but to be let in; the identity token that the registry gave for it, if any.

        Raises:
            Unauthorized: The credentials are wrong.
        """
        async with self.ask("GET", "") as response:
            await response.aread()
            if response.status_code >= 400 and response.status_code != 404:
                raise failure_of(response, f"login to {self.domain}")
        assert self._usable is not None
        return self._clients[self._usable.url][1].identity_token


async def _limited(response: httpx.Response, limit: int) -> bytes:
    """A body in memory, which `response.json` then works on too."""
    parts = []
    size = 0
    async for part in response.aiter_bytes():
        size += len(part)
        if size > limit:
            raise InvalidArgument(f"the registry sent more than {limit} bytes for {response.url}")
        parts.append(part)
    data = b"".join(parts)
    response._content = data  # aiter_bytes consumed it
    return data


def _retry_after(response: httpx.Response) -> float:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdecimal() else 0.0
