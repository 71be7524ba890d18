"""Runs all checks until nothing differs any more, or the time is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from lab.checks import containers, engines, events, names
from lab.checks.view import View
from lab.lab import Lab
from shared.errors import DavitError

_PAUSE_S = 0.25
# In the order in which they explain one another.
CHECKS: dict[str, Callable[[View], Iterator[str]]] = {
    "nodes": engines.check,
    "containers": containers.check,
    "networks": containers.check_networks,
    "names": names.check,
    "events": events.check,
}


def check(lab: Lab, within_s: float) -> dict[str, list[str]]:
    """What differs at last, by check; nothing when all is well.

    Args:
        within_s: How long differences may go away by themselves: what has just been done may still be on its way.
    """
    give_up_at = time.monotonic() + within_s
    while True:
        found = _once(lab)
        if not any(found.values()) or time.monotonic() > give_up_at:
            return found
        time.sleep(_PAUSE_S)


def _once(lab: Lab) -> dict[str, list[str]]:
    view = View(lab)
    found: dict[str, list[str]] = {}
    for name, look in CHECKS.items():
        found[name] = []
        try:
            found[name].extend(look(view))
        except (DavitError, OSError) as error:
            found[name].append(f"cannot be checked: {error}")
    return found
