"""What is asked of registries without fetching an image: login, distribution, search."""

from __future__ import annotations

from urllib.parse import urlsplit

import httpx

from services.image.catalog import manifests
from services.image.catalog.manifests import Index, descriptor_platform
from services.image.registry.client import Repository
from services.image.registry.errors import connection_failure
from services.image.registry.hosts import Hosts
from services.image.registry.pull import explained
from shared.contracts.images import (
    Distribution,
    DistributionRequest,
    LoginRequest,
    LoginResult,
    Platform,
    SearchHit,
    SearchHits,
    SearchRequest,
)
from shared.docker.references import DEFAULT_DOMAIN, LEGACY_DOMAIN
from shared.docker.references import parse as parse_reference
from shared.errors import DavitError, InvalidArgument, Unauthorized, Unavailable

SEARCH_TIMEOUT_S = 30.0
MAX_SEARCH = 100
SEARCH_FILTERS = ("is-official", "is-automated", "stars")


class RegistryQueries:
    """Serves LOGIN, DISTRIBUTION and SEARCH."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts

    async def login(self, request: LoginRequest) -> LoginResult:
        """Raises Unauthorized when the registry refuses the credentials."""
        domain = registry_domain(request.auth.server_address)
        async with Repository(self._hosts, domain, "", request.auth, actions="pull") as repository:
            try:
                token = await repository.ping()
            except Unauthorized as error:
                raise Unauthorized(f"login attempt to {domain} failed: {error.message}") from error
        return LoginResult(status="Login Succeeded", identity_token=token)

    async def distribution(self, request: DistributionRequest) -> Distribution:
        """What a registry has under a name."""
        reference = parse_reference(request.ref).with_default_tag()
        async with Repository(
            self._hosts, reference.domain, reference.path, request.auth, actions="pull"
        ) as repository:
            try:
                fetched = await repository.manifest(reference.digest or reference.tag or "")
                parsed = manifests.parse(fetched.data, fetched.media_type)
                platforms = await self._platforms(repository, parsed)
            except DavitError as error:
                raise explained(error, reference, request.auth) from error
        return Distribution(
            media_type=parsed.media_type, digest=fetched.digest, size_bytes=len(fetched.data), platforms=platforms
        )

    async def _platforms(self, repository: Repository, parsed: manifests.Manifest | Index) -> list[Platform]:
        if isinstance(parsed, Index):
            stated = [descriptor_platform(item) for item in parsed.manifests]
            return [
                Platform(architecture=item.architecture, os=item.os, variant=item.variant) for item in stated if item
            ]
        data = await repository.small_blob(parsed.config, manifests.MAX_CONFIG_BYTES)
        own = manifests.ImageConfig.parse(data).platform
        return [Platform(architecture=own.architecture, os=own.os, variant=own.variant)]

    async def search(self, request: SearchRequest) -> SearchHits:
        """Images whose name has a term, where the registry offers such a search (API v1)."""
        for key in request.filters:
            if key not in SEARCH_FILTERS:
                raise InvalidArgument(f"invalid filter '{key}'", field="filters")
        if not 1 <= request.limit <= MAX_SEARCH:
            raise InvalidArgument(f"limit {request.limit} is outside the range of [1, {MAX_SEARCH}]", field="limit")
        first, slash, rest = request.term.partition("/")
        named = slash and ("." in first or ":" in first or first == "localhost")
        domain, term = (first, rest) if named else (LEGACY_DOMAIN, request.term)
        hits = await self._asked(domain, term, request.limit)
        return SearchHits(hits=[hit for hit in hits if _selected(hit, request.filters)])

    async def _asked(self, domain: str, term: str, limit: int) -> list[SearchHit]:
        failure: DavitError = Unavailable(f"{domain} cannot be asked")
        for endpoint in self._hosts.endpoints(domain, "resolve"):
            address = str(httpx.URL(f"{endpoint.url}/v1/search", params={"q": term, "n": str(limit)}))
            try:
                async with httpx.AsyncClient(
                    verify=endpoint.context(), trust_env=False, timeout=SEARCH_TIMEOUT_S
                ) as client:
                    response = await client.get(address)
            except httpx.HTTPError as error:
                failure = connection_failure(error, address)
                continue
            if response.status_code != 200:
                raise Unavailable(f"Unexpected status code {response.status_code}")
            results = manifests.load_object(response.content, "search result").get("results") or []
            return [_hit(item) for item in results if isinstance(item, dict)]
        raise failure


def _hit(item: dict[str, object]) -> SearchHit:
    stars = item.get("star_count")
    return SearchHit(
        name=str(item.get("name", "")),
        description=str(item.get("description") or ""),
        star_count=stars if isinstance(stars, int) else 0,
        is_official=bool(item.get("is_official")),
        is_automated=bool(item.get("is_automated")),
    )


def _selected(hit: SearchHit, filters: dict[str, list[str]]) -> bool:
    for key, actual in (("is-official", hit.is_official), ("is-automated", hit.is_automated)):
        if key in filters and not any((value in ("true", "1")) == actual for value in filters[key]):
            return False
    return all(value.isdecimal() and hit.star_count >= int(value) for value in filters.get("stars", []))


def registry_domain(address: str) -> str:
    """The registry that a client means by the address that it logs in to."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    domain = parts.netloc or DEFAULT_DOMAIN
    return DEFAULT_DOMAIN if domain in (LEGACY_DOMAIN, "docker.io", "registry-1.docker.io") else domain
