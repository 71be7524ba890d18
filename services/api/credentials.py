"""Registry credentials, and secrets of builds, that clients send in headers. They are handed on and never logged.

Source: Docker Engine API 1.50, "Authentication"; the secrets are this engine's own (docs/adr/008).
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import orjson

from shared.contracts.images import RegistryAuth
from shared.errors import InvalidArgument

HEADER_AUTH = "x-registry-auth"
HEADER_CONFIG = "x-registry-config"
HEADER_SECRETS = "x-davit-build-secrets"
# Docker's own limit for one secret; here it holds for all of a build, which travel in one message.
MAX_SECRETS_BYTES = 500 * 1024
FIELDS = {
    "username": "username",
    "password": "password",
    "auth": "auth",
    "email": "email",
    "serveraddress": "server_address",
    "identitytoken": "identity_token",
    "registrytoken": "registry_token",
}


def from_object(value: dict[str, Any]) -> RegistryAuth:
    """Docker's AuthConfig; names match without regard to case, as Go decodes them."""
    known = {FIELDS[name.lower()]: text for name, text in value.items() if name.lower() in FIELDS}
    return RegistryAuth(**{name: str(text or "") for name, text in known.items()})


def from_header(header: str | None) -> RegistryAuth | None:
    """The decoded ``X-Registry-Auth`` header; None when it is absent or empty."""
    value = _decode(header, "X-Registry-Auth")
    return from_object(value) if value else None


def from_config_header(header: str | None) -> dict[str, RegistryAuth]:
    """The decoded ``X-Registry-Config`` header of a build: registry -> credentials."""
    value = _decode(header, "X-Registry-Config")
    return {host: from_object(item) for host, item in (value or {}).items() if isinstance(item, dict)}


def build_secrets(header: str | None) -> dict[str, str]:
    """The decoded ``X-Davit-Build-Secrets`` header: base64 values by id. Errors never quote a value."""
    name = "X-Davit-Build-Secrets"
    value = _decode(header, name) or {}
    if not all(identifier and isinstance(text, str) for identifier, text in value.items()):
        raise InvalidArgument(f"invalid {name} header: not an object of base64 texts by id", field=name)
    if sum(map(len, value.values())) > MAX_SECRETS_BYTES * 4 // 3:
        raise InvalidArgument(f"invalid {name} header: more than {MAX_SECRETS_BYTES} bytes", field=name)
    return value


def _decode(header: str | None, name: str) -> dict[str, Any] | None:
    if not header:
        return None
    try:
        value = orjson.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))
    except (binascii.Error, orjson.JSONDecodeError, ValueError) as error:
        raise InvalidArgument(f"invalid {name} header: not base64url-encoded JSON", field=name) from error
    if value is not None and not isinstance(value, dict):
        raise InvalidArgument(f"invalid {name} header: not an object", field=name)
    return value
