"""Names of the cluster's members on the bus."""

from __future__ import annotations

from shared.bus.client import node_token


def bus_user(node: str) -> str:
    """Stands in the subjects on which a node's replies arrive."""
    return f"node-{node_token(node)}"
