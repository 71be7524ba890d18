"""Waiting until a lab, or some of its nodes, are ready for work; or until its timeline has come to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from lab.faults.keeping import state
from lab.lab import Lab
from lab.record import ON
from shared.errors import DavitError, DeadlineExceeded

_PAUSE_S = 0.1


def wait(lab: Lab, nodes: Iterable[str], timeout_s: float) -> None:
    """Until these nodes, or all that are to be on, are ready. Raises DeadlineExceeded with who is not."""
    chosen = [lab.node(name) for name in nodes] or [
        name for name in lab.machines if lab.record.nodes.get(name, ON) == ON
    ]
    _until(lambda: ", ".join(name for name in chosen if not _ready(lab, name)), timeout_s, "ready")


def wait_for_faults(lab: Lab, timeout_s: float) -> None:
    """Until the last action of the timeline is done. Raises DeadlineExceeded."""

    def left() -> str:
        found = state(lab)
        return "" if found["done"] == found["planned"] else f"{found['done']} of {found['planned']} faults"

    _until(left, timeout_s, "over")


def _until(missing: Callable[[], str], timeout_s: float, what: str) -> None:
    give_up_at = time.monotonic() + timeout_s
    while text := missing():
        if time.monotonic() > give_up_at:
            raise DeadlineExceeded(f"not {what} within {timeout_s:g} s: {text}")
        time.sleep(_PAUSE_S)


def _ready(lab: Lab, name: str) -> bool:
    """On, and doing what it is for: a manager answers, a worker is given work."""
    if name not in lab.running():
        return False
    try:
        if name in lab.topology.managers():
            lab.client(name).get("/_ping", timeout_s=5)
        elif name in lab.topology.nodes and lab.topology.nodes[name].role == "worker":
            return any(lab.cluster.knows(lab.client(manager), name) for manager in lab.topology.managers())
    except (DavitError, ValueError):
        return False
    return True
