"""A place for audit records that tests look into, and can fill up."""

from __future__ import annotations

from typing import Any

import orjson

from shared.errors import Unavailable


class MemorySink:
    """Attributes: records: decoded. full: takes only what is spare. syncs: how often it had to be on the disk."""

    source = "memory"

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.full = False
        self.syncs = 0
        self.lost: dict[str, Any] | None = None

    def write(self, payload: bytes, *, spare: bool = False) -> None:
        if self.full and not spare:
            raise Unavailable("the disk is full")
        self.records.append(orjson.loads(payload))

    async def sync(self) -> None:
        self.syncs += 1

    def tell_lost(self, lost: dict[str, Any] | None) -> None:
        self.lost = lost

    def close(self) -> None:
        """Nothing is open."""
