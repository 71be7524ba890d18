"""Keys that every copy of the service shares, since they lie in the store."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from shared.errors import Unavailable

KEY_BYTES = 32


def stored_key(path: Path) -> bytes:
    """The key of a file that only root reads, which is made at its first use. Raises Unavailable."""
    try:
        with suppress(FileExistsError):
            temporary = path.with_name(f".{path.stem}-{secrets.token_hex(8)}")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(KEY_BYTES))
            try:
                os.link(temporary, path)
            finally:
                temporary.unlink()
        return path.read_bytes()
    except OSError as error:
        raise Unavailable(f"the key {path} cannot be used: {error.strerror}") from error
