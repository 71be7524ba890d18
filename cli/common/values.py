"""How the API's values are shown to people."""

from __future__ import annotations

import time


def short_id(identifier: str) -> str:
    return identifier.removeprefix("sha256:")[:12]


def ago(moment: float) -> str:
    """How long ago a time in seconds since the epoch was."""
    seconds = max(0, int(time.time() - moment))
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit} ago"
    return f"{seconds} seconds ago"


def size(count: float) -> str:
    """Bytes in decimal units, three digits: ``4.27MB``."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.3g}{unit}" if count < 1000 else f"{count:.0f}{unit}"
