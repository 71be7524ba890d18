"""Who a service is on the embedded bus: users and passwords in a file only root can read."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import orjson

from shared.config import EngineConfig
from shared.errors import Unavailable


def users_file(data_root: Path) -> Path:
    """Where the embedded bus keeps its users: a JSON object from user to password."""
    return data_root / "nats" / "users.json"


def credentials(config: EngineConfig, user: str) -> tuple[str | None, str | None]:
    """The user and password for the bus, or a pair of None when the URL has them or needs none.

    Raises:
        Unavailable: The file cannot be read.
    """
    file = users_file(config.data_root)
    url = urlsplit(config.nats_url)
    if url.username or url.hostname not in ("127.0.0.1", "localhost", "::1"):
        return None, None
    try:
        users = orjson.loads(file.read_bytes())
    except FileNotFoundError:
        return None, None
    except (OSError, orjson.JSONDecodeError) as error:
        raise Unavailable(f"the bus's users in {file} cannot be read: {error}") from error
    return (user, users[user]) if user in users else (None, None)
