"""Who may use the registry: a file of ``user:hash`` lines, as ``htpasswd -B`` writes it.

Source: crypt(5): the hashes that the system's libcrypt checks (bcrypt, yescrypt, SHA-512, …).
"""

from __future__ import annotations

import base64
import ctypes
import ctypes.util
import hmac
from functools import lru_cache
from pathlib import Path

from shared.errors import InvalidArgument, Unavailable


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
                self._changed = changed
        except OSError as error:
            raise Unavailable(f"the file of registry users {self._path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise InvalidArgument(f"{self._path}: a line is not of the form user:hash") from error

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
    library = ctypes.CDLL(ctypes.util.find_library("crypt") or "libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    result = library.crypt(password.encode(), known.encode())
    return result is not None and hmac.compare_digest(result, known.encode())
