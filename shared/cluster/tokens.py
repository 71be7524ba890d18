"""Join tokens, in the form that Docker's clients print and pass on.

``SWMTKN-1-<digest of the CA's certificate>-<secret>``: a machine that is given one can tell by the digest whether it
talks to the cluster it is to join, before it says the secret.

Source: SwarmKit, design of join tokens: base 36, the digest padded to 50 digits, the secret (16 random bytes) to 25.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

from shared.errors import InvalidArgument

PREFIX = "SWMTKN-1-"
DIGEST_DIGITS, SECRET_DIGITS = 50, 25
_SECRET_BYTES = 16
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_FORM = re.compile(rf"{PREFIX}([0-9a-z]{{{DIGEST_DIGITS}}})-([0-9a-z]{{{SECRET_DIGITS}}})")


@dataclass(frozen=True, slots=True)
class JoinToken:
    """digest: of the CA's certificate; secret: what lets in."""

    digest: str
    secret: str

    def __str__(self) -> str:
        return f"{PREFIX}{self.digest}-{self.secret}"

    def is_for(self, ca_pem: bytes) -> bool:
        """Whether a CA's certificate is the one that the token was made for."""
        return hmac.compare_digest(self.digest, digest_of(ca_pem))


def new_token(ca_pem: bytes) -> JoinToken:
    """A token with a new secret."""
    return JoinToken(digest_of(ca_pem), new_secret())


def new_secret() -> str:
    return _base36(int.from_bytes(secrets.token_bytes(_SECRET_BYTES)), SECRET_DIGITS)


def new_identifier() -> str:
    """An id as Swarm's objects have them: 25 digits."""
    return _base36(int.from_bytes(secrets.token_bytes(_SECRET_BYTES)), SECRET_DIGITS)


def parse(text: str) -> JoinToken:
    """Raises InvalidArgument."""
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise InvalidArgument("invalid join token", field="JoinToken")
    return JoinToken(*found.groups())


def digest_of(ca_pem: bytes) -> str:
    """Of a CA's certificate in PEM: SHA-256."""
    return _base36(int.from_bytes(hashlib.sha256(ca_pem).digest()), DIGEST_DIGITS)


def _base36(number: int, digits: int) -> str:
    text = ""
    while number:
        number, rest = divmod(number, 36)
        text = _DIGITS[rest] + text
    return text.rjust(digits, "0")
