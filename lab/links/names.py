"""Names of the lab's devices in the kernel, 15 characters at most, the same each time."""

from __future__ import annotations

import hashlib


def bridge(net: str) -> str:
    return "b" + _digest(net)


def port(net: str, node: str) -> str:
    """The lab's end of a node's wire."""
    return "p" + _digest(net, node)


def parked(net: str, node: str) -> str:
    """The node's end while the node is away."""
    return "k" + _digest(net, node)


def _digest(*words: str) -> str:
    return hashlib.sha256("|".join(words).encode()).hexdigest()[:12]
