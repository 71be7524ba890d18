"""Whom the registry lets do what: by a password with each request, or by tokens that it gives for one.

::

    client                             registry
      │ GET /v2/… ────────────────────────►│
      │◄─ 401, Bearer realm="…/token", scope="repository:team/app:pull"
      │ GET /token, user and password ────►│ what of the scope the user has a right to
      │◄─────────────────────────── token ─┤
      │ GET /v2/…, Bearer token ──────────►│

Source: distribution, "Token Authentication Specification", "OAuth2 token authentication"; RFC 7235; RFC 6750.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import Response

from services.image.server.answers import answer
from services.image.server.keys import stored_key
from services.image.server.rights import ANYBODY, Rights
from services.image.server.tokens import TOKEN_S, Bearer, Scope, Tokens
from services.image.server.users import Users, credentials_of
from shared.config import EngineConfig
from shared.docker.moments import SECOND_NS, rfc3339
from shared.errors import DavitError, Forbidden, InvalidArgument, Unauthorized

TOKEN_PATH = "/token"
SERVICE = "davit-registry"
CATALOG = Scope("registry", "catalog", frozenset("*"))
MAX_FORM_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who asks, and by which token, if by one. user: empty for one without a name."""

    user: str
    bearer: Bearer | None = None


@dataclass(frozen=True, slots=True)
class Gate:
    """Args: tokens: None where each request brings a password. All methods block."""

    users: Users
    rights: Rights
    tokens: Tokens | None

    def enter(self, request: Request, wanted: Scope | None) -> Visitor:
        """Who asks, if that is somebody who may.

        Raises:
            Unauthorized: It is nobody, with what proves the contrary; or a token is too weak.
            Forbidden: It is somebody who may not.
        """
        header = request.headers.get("authorization", "")
        visitor = self._visitor(header)
        if visitor is None:
            raise self._challenge(request, wanted)
        if wanted is None or self.may(visitor, wanted):
            return visitor
        if visitor.bearer is not None:
            raise self._challenge(request, wanted, "insufficient_scope")
        raise Forbidden("requested access to the resource is denied", registry_code="DENIED")

    def may(self, visitor: Visitor, wanted: Scope) -> bool:
        """Both what its token was given for and what its user may by now have lost."""
        if visitor.bearer is not None and not visitor.bearer.allows(wanted):
            return False
        return wanted.actions <= self._granted(visitor.user, wanted).actions

    def sees(self, visitor: Visitor, repository: str) -> bool:
        """Whether the catalog has a repository for a visitor."""
        return "pull" in self.rights.of(visitor.user, repository)

    def _visitor(self, header: str) -> Visitor | None:
        scheme, _, value = header.partition(" ")
        if scheme.lower() == "bearer":
            bearer = self.tokens.read(value.strip()) if self.tokens is not None else None
            return None if bearer is None else Visitor(bearer.user, bearer)
        credentials = credentials_of(header)
        if credentials is None or not self.users.allow(*credentials):
            return None
        return Visitor(credentials[0])

    def _granted(self, user: str, wanted: Scope) -> Scope:
        if wanted.kind == "repository":
            allowed: frozenset[str] = frozenset(self.rights.of(user, wanted.name))
            # What clients write for all of it.
            asked = wanted.actions | allowed if "*" in wanted.actions else wanted.actions
            return Scope(wanted.kind, wanted.name, asked & allowed)
        # Everybody may see a catalog: of what is theirs.
        return wanted if wanted == CATALOG else Scope(wanted.kind, wanted.name, frozenset())

    def _challenge(self, request: Request, wanted: Scope | None, error: str = "") -> DavitError:
        text = "authentication required"
        if self.tokens is None:
            return Unauthorized(text, challenge='Basic realm="davit"')
        realm = f"{request.url.scheme}://{request.headers.get('host', '')}{TOKEN_PATH}"
        parameters = {"realm": realm, "service": self.tokens.service}
        if wanted is not None:
            parameters["scope"] = str(wanted)
        if error:
            parameters["error"] = error
            text = "requested access to the resource is denied"
        challenge = "Bearer " + ",".join(f'{name}="{value}"' for name, value in parameters.items())
        return Unauthorized(text, challenge=challenge, registry_code="DENIED" if error else "UNAUTHORIZED")

    # -- tokens -------------------------------------------------------------------------------------------------

    def give(self, user: str, scopes: list[Scope]) -> Response:
        """A token for what of the scopes a user has a right to."""
        assert self.tokens is not None
        granted = [one for one in (self._granted(user, scope) for scope in scopes) if one.actions]
        now = time.time()
        token = self.tokens.make(Bearer(user, tuple(granted)), now)
        issued_at = rfc3339(int(now) * SECOND_NS)
        value = {"token": token, "access_token": token, "expires_in": TOKEN_S, "issued_at": issued_at}
        if granted:
            value["scope"] = " ".join(map(str, granted))
        return answer(200, value)

    def checked(self, credentials: tuple[str, str] | None) -> str:
        """The user that credentials are of; empty for none. Raises Unauthorized for wrong ones."""
        if credentials is None and self.rights.name_anybody:
            return ""
        if credentials is None or not self.users.allow(*credentials):
            raise Unauthorized("incorrect username or password", challenge='Basic realm="davit"')
        return credentials[0]


def gate_of(config: EngineConfig, directory: Path) -> Gate | None:
    """What the configuration says, with the key of a store; None where everybody may do everything.

    Raises:
        InvalidArgument, Unavailable: A file cannot be used, or says what cannot be.
    """
    if not config.registry_users:
        return None
    rights = Rights(Path(config.registry_rights) if config.registry_rights else None)
    by_token = config.registry_auth == "token"
    if rights.name_anybody and not by_token:
        raise InvalidArgument(
            f"{config.registry_rights}: {ANYBODY} needs registry-auth token: clients that are let in without a "
            "password never give theirs",
            field="registry-rights",
        )
    tokens = Tokens(stored_key(directory / "tokens.key"), SERVICE) if by_token else None
    return Gate(Users(Path(config.registry_users)), rights, tokens)


async def read_form(request: Request) -> dict[str, list[str]]:
    """The fields of a short form. Raises Unauthorized for a long one."""
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > MAX_FORM_BYTES:
            raise Unauthorized("the request for a token is too long")
    return parse_qs(data.decode("utf-8", "replace"))
