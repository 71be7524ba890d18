"""Proving to a registry who is asking: basic credentials and bearer tokens.

Source: distribution spec, "token authentication" (the token server's GET and the OAuth 2 POST); RFC 7235.
"""

from __future__ import annotations

import base64
import re
import time
from dataclasses import dataclass

import httpx

from services.image.registry.errors import failure_of
from shared.contracts.images import RegistryAuth
from shared.errors import InvalidArgument, Unauthorized, Unavailable

CLIENT_ID = "davit"
DEFAULT_TOKEN_S = 60.0
EARLY_S = 10.0
_PARAMETER = re.compile(r'([a-zA-Z_]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a registry wants: a scheme (lower case) and its parameters."""

    scheme: str
    parameters: dict[str, str]

    @classmethod
    def parse_all(cls, headers: list[str]) -> list[Challenge]:
        found = []
        for header in headers:
            scheme, _, rest = header.strip().partition(" ")
            parameters = {
                name.lower(): (quoted or plain).replace('\\"', '"') for name, quoted, plain in _PARAMETER.findall(rest)
            }
            found.append(cls(scheme.lower(), parameters))
        return found


@dataclass(slots=True)
class _Token:
    value: str
    expires_at: float


class Credentials:
    """What the client sent along. Never in logs or texts."""

    def __init__(self, auth: RegistryAuth | None) -> None:
        self.username = self.password = self.identity_token = self.registry_token = ""
        if auth is None:
            return
        self.username, self.password = auth.username, auth.password
        self.identity_token, self.registry_token = auth.identity_token, auth.registry_token
        if not (self.registry_token.isascii() and self.registry_token.isprintable()):  # it goes into a header
            raise InvalidArgument("invalid registry credentials: registrytoken is no token", field="registrytoken")
        if auth.auth and not auth.username:
            try:
                decoded = base64.b64decode(auth.auth).decode("utf-8", "replace")
            except ValueError as error:
                raise InvalidArgument("invalid registry credentials: auth is no base64", field="auth") from error
            self.username, _, self.password = decoded.rstrip("\0").partition(":")

    @property
    def given(self) -> bool:
        return bool(self.username or self.identity_token or self.registry_token)

    @property
    def basic(self) -> str:
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


class Authorizer:
    """Headers for one registry, renewed when they have run out."""

    def __init__(self, client: httpx.AsyncClient, credentials: Credentials) -> None:
        self._client = client
        self._credentials = credentials
        self._challenge: Challenge | None = None
        self._tokens: dict[str, _Token] = {}
        self.identity_token = ""

    async def header(self, scope: str) -> str | None:
        """The ``Authorization`` header for a scope; None while the registry has not asked for one.

        Raises:
            Unauthorized: There are no credentials that would do, or they were refused.
        """
        if self._credentials.registry_token:
            return f"Bearer {self._credentials.registry_token}"
        if self._challenge is None:
            return None
        if self._challenge.scheme == "basic":
            return self._basic()
        token = self._tokens.get(scope)
        if token is None or token.expires_at <= time.monotonic():
            token = self._tokens[scope] = await self._fetch(scope)
        return f"Bearer {token.value}"

    def challenged(self, response: httpx.Response, scope: str) -> bool:
        """Take in a 401; False when the same question would only get the same answer."""
        challenges = Challenge.parse_all(response.headers.get_list("www-authenticate"))
        challenge = next((item for item in challenges if item.scheme == "bearer"), None)
        challenge = challenge or next((item for item in challenges if item.scheme == "basic"), None)
        if challenge is None:
            return False
        again = self._challenge is not None and (challenge.scheme == "basic" or scope not in self._tokens)
        expired = self._tokens.pop(scope, None)
        first = self._challenge is None
        self._challenge = challenge
        return first or (not again and expired is not None)

    def _basic(self) -> str:
        if not self._credentials.username:
            raise Unauthorized("no basic auth credentials")
        return self._credentials.basic

    async def _fetch(self, scope: str) -> _Token:
        assert self._challenge is not None
        realm = self._challenge.parameters.get("realm", "")
        if not realm.startswith(("http://", "https://")):
            raise Unauthorized(f"the registry names no token server: {realm!r}")
        try:
            if self._credentials.identity_token:
                response = await self._exchange(realm, scope)
            else:
                response = await self._get(realm, scope)
        except httpx.HTTPError as error:
            raise Unavailable(f"the token server {realm} cannot be reached: {error}") from error
        if response.status_code >= 400:
            raise failure_of(response, f"the token server {realm}")
        try:
            answer = response.json()
        except ValueError as error:
            raise Unavailable(f"the token server {realm} answered no JSON") from error
        value = answer.get("token") or answer.get("access_token")
        if not value:
            raise Unauthorized("authorization server did not include a token in the response")
        self.identity_token = answer.get("refresh_token", "") or self.identity_token
        lasts = max(DEFAULT_TOKEN_S, float(answer.get("expires_in") or 0))
        return _Token(str(value), time.monotonic() + lasts - EARLY_S)

    async def _get(self, realm: str, scope: str) -> httpx.Response:
        assert self._challenge is not None
        query = {"scope": scope} if scope else {}
        if service := self._challenge.parameters.get("service"):
            query["service"] = service
        headers = {}
        if self._credentials.username:
            query["account"] = self._credentials.username
            headers["Authorization"] = self._credentials.basic
        return await self._client.get(realm, params=query, headers=headers)

    async def _exchange(self, realm: str, scope: str) -> httpx.Response:
        """An identity token (from ``docker login``) for a token of a scope."""
        assert self._challenge is not None
        form = {
            "grant_type": "refresh_token",
            "refresh_token": self._credentials.identity_token,
            "service": self._challenge.parameters.get("service", ""),
            "client_id": CLIENT_ID,
            "scope": scope,
        }
        return await self._client.post(realm, data=form)
