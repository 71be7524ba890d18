"""Tokens of the registry: who has one, and what it lets do, signed by a key of the store.

Source: distribution, "Token Authentication Specification", "JWT"; RFC 7519; RFC 7515 (HS256).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass

import orjson

TOKEN_S = 300
ISSUER = "davit"
_SCOPE = re.compile(r"(repository|registry)(?:\([a-z]+\))?:([^:]+(?::\d+[^:]*)?):([a-z*,]+)")
_HEADER = orjson.dumps({"alg": "HS256", "typ": "JWT"})


@dataclass(frozen=True, slots=True)
class Scope:
    """What may be done with one thing. kind: ``repository``, or ``registry`` for the catalog."""

    kind: str
    name: str
    actions: frozenset[str]

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}:{','.join(sorted(self.actions))}"


def parse_scopes(texts: Iterable[str]) -> list[Scope]:
    """The scopes of a request for a token; what is none, as the specification has it, is not granted."""
    found = []
    for text in " ".join(texts).split():
        match = _SCOPE.fullmatch(text)
        if match is not None:
            found.append(Scope(match[1], match[2], frozenset(match[3].split(","))))
    return found


@dataclass(frozen=True, slots=True)
class Bearer:
    """What a valid token says. user: empty for one without a name."""

    user: str
    scopes: tuple[Scope, ...]

    def allows(self, wanted: Scope) -> bool:
        return any(
            (scope.kind, scope.name) == (wanted.kind, wanted.name) and wanted.actions <= scope.actions
            for scope in self.scopes
        )


class Tokens:
    """Makes and checks tokens. Args: service: Whom they are for."""

    def __init__(self, key: bytes, service: str) -> None:
        self._key = key
        self.service = service

    def make(self, bearer: Bearer, now: float) -> str:
        """A token that is valid from `now` (seconds since the epoch) on for `TOKEN_S`."""
        access = [{"type": one.kind, "name": one.name, "actions": sorted(one.actions)} for one in bearer.scopes]
        claims = {
            "iss": ISSUER,
            "sub": bearer.user,
            "aud": self.service,
            "iat": int(now),
            "nbf": int(now),
            "exp": int(now) + TOKEN_S,
            "jti": secrets.token_hex(8),
            "access": access,
        }
        signed = b".".join((_encoded(_HEADER), _encoded(orjson.dumps(claims))))
        return (signed + b"." + _encoded(self._signature(signed))).decode()

    def read(self, token: str) -> Bearer | None:
        """What a token says; None when it is not valid now."""
        signed, _, signature = token.encode("utf-8", "replace").rpartition(b".")
        if not hmac.compare_digest(signature, _encoded(self._signature(signed))):
            return None
        # Only from here on it is known to be one of ours.
        claims = orjson.loads(_decoded(signed.partition(b".")[2]))
        if claims["aud"] != self.service or claims["exp"] <= time.time():
            return None
        scopes = (Scope(item["type"], item["name"], frozenset(item["actions"])) for item in claims["access"])
        return Bearer(claims["sub"], tuple(scopes))

    def _signature(self, signed: bytes) -> bytes:
        return hmac.new(self._key, signed, hashlib.sha256).digest()


def _encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _decoded(text: bytes) -> bytes:
    return base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
