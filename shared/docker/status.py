"""The STATUS column of `docker ps`: what it says, and for how long.

It is made from a code that is stored in its place, ``exit code|started ns|finished ns|health``, since it changes with
the time.
"""

from __future__ import annotations

SECOND_NS = 1_000_000_000
FOR_EVER_NS = 1 << 62


def status_text(status: str, code: str, now_ns: int) -> str:
    """The STATUS column of `docker ps`. Source: Docker's container.State.String."""
    exit_code, started, finished, health = code.split("|")
    up = human_duration((now_ns - int(started)) // SECOND_NS)
    ago = human_duration((now_ns - int(finished)) // SECOND_NS)
    match status:
        case "running":
            return f"Up {up}" + (f" ({'health: ' if health == 'starting' else ''}{health})" if health else "")
        case "paused":
            return f"Up {up} (Paused)"
        case "restarting":
            return f"Restarting ({exit_code}) {ago} ago"
        case "removing":
            return "Removal In Progress"
        case "dead":
            return "Dead"
        case "created":
            return "Created"
        case _:
            return f"Exited ({exit_code}) {ago} ago"


def human_duration(seconds: float) -> str:
    """A duration in Docker's words: ``5 seconds``, ``About a minute``, ``2 hours``."""
    whole = int(seconds)
    minutes, hours = whole // 60, int(seconds / 3600 + 0.5)
    for limit, text in (
        (1, "Less than a second"),
        (2, "1 second"),
        (60, f"{whole} seconds"),
        (120, "About a minute"),
        (3600, f"{minutes} minutes"),
    ):
        if seconds < limit:
            return text
    for limit_h, text in (
        (2, "About an hour"),
        (48, f"{hours} hours"),
        (24 * 7 * 2, f"{hours // 24} days"),
        (24 * 30 * 2, f"{hours // 24 // 7} weeks"),
        (24 * 365 * 2, f"{hours // 24 // 30} months"),
    ):
        if hours < limit_h:
            return text
    return f"{hours // 24 // 365} years"


def status_until(status: str, code: str, now_ns: int) -> int:
    """Until when `status_text` says the same; nanoseconds since the epoch."""
    if status in ("created", "removing", "dead"):
        return FOR_EVER_NS
    _, started, finished, _ = code.split("|")
    since = int(started if status in ("running", "paused") else finished)
    seconds = max(0, now_ns - since) // SECOND_NS
    if seconds < 60:
        changes_s = seconds + 1
    elif seconds < 3600:
        changes_s = (seconds // 60 + 1) * 60
    else:  # hours are rounded to the nearest
        changes_s = (int(seconds / 3600 + 0.5) * 2 + 1) * 1800
    return since + changes_s * SECOND_NS
