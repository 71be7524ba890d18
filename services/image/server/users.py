"""Who may use the registry: a file of ``user:hash`` lines, as ``htpasswd -B`` writes it.

Hashes are bcrypt's, as with other registries.

Source: crypt(5), "bcrypt", for the form of a hash; distribution's htpasswd.
"""

from __future__ import annotations

import base64
import re
from functools import lru_cache
from pathlib import Path

import bcrypt

from shared.errors import InvalidArgument, Unavailable

HASH = re.compile(r"\$2[abxy]\$\d\d\$[./A-Za-z0-9]{53}")
# As much of a password as bcrypt looks at.
PASSWORD_BYTES = 72


class Users:
    """The users of a file, read anew when it changes. Checked passwords are remembered, since hashes are slow."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = 0.0
        self._hashes: dict[str, str] = {}
        self._check = lru_cache(maxsize=256)(_matches)
        self._read()

    def _read(self) -> None:
        try:
            changed = self._path.stat().st_mtime
            if changed != self._changed:
                lines = [line.strip() for line in self._path.read_text().splitlines()]
                self._hashes = dict(line.split(":", 1) for line in lines if line and not line.startswith("#"))
                self._check_form()
                self._changed = changed
        except OSError as error:
            raise Unavailable(f"the file of registry users {self._path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise InvalidArgument(f"{self._path}: a line is not of the form user:hash") from error

    def _check_form(self) -> None:
        for user, known in self._hashes.items():
            if not HASH.fullmatch(known):
                raise InvalidArgument(f"{self._path}: the hash of {user} is none of bcrypt's: make it with htpasswd -B")

    def allow(self, user: str, password: str) -> bool:
        """Whether there is such a user with such a password. Blocks."""
        self._read()
        known = self._hashes.get(user) if user else None
        return known is not None and self._check(password, known)


def credentials_of(header: str) -> tuple[str, str] | None:
    """User and password of an ``Authorization`` header; None when it has none. Source: RFC 7617."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, separator, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        return None
    return (user, password) if separator else None


def _matches(password: str, known: str) -> bool:
    return bcrypt.checkpw(password.encode()[:PASSWORD_BYTES], known.encode())
