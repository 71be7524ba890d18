"""From which NUMA nodes the container's process gets its memory.

Source: OCI runtime-spec 1.3, config-linux.md "Memory policy"; set_mempolicy(2), linux/mempolicy.h.
"""

from __future__ import annotations

from services.executor.runtime.errors import InvalidSpec
from services.executor.runtime.kernel import calls as kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MODES = {
    "MPOL_DEFAULT": 0,
    "MPOL_PREFERRED": 1,
    "MPOL_BIND": 2,
    "MPOL_INTERLEAVE": 3,
    "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}
FLAGS = {
    "MPOL_F_NUMA_BALANCING": 1 << 13,
    "MPOL_F_RELATIVE_NODES": 1 << 14,
    "MPOL_F_STATIC_NODES": 1 << 15,
}
_FIELD = "linux.memoryPolicy"
_MOST_NODES = 1024


class MemoryPolicy:
    """A mode with its flags, and the nodes as bits."""

    __slots__ = ("mode", "nodes")

    def __init__(self, mode: int, nodes: int) -> None:
        self.mode = mode
        self.nodes = nodes

    def apply(self) -> None:
        """For the calling process, and what it executes.

        Raises:
            KernelFailure: EINVAL, the mode, its flags and the nodes do not go together on this machine.
        """
        kernel.set_mempolicy(self.mode, self.nodes, _MOST_NODES)


def plan(policy: dict[str, Any] | None) -> MemoryPolicy | None:
    """`linux.memoryPolicy`; None where there is none to set.

    Raises:
        InvalidSpec: names the part at fault.
    """
    if policy is None:
        return None
    mode = policy.get("mode")
    if mode not in MODES:
        raise InvalidSpec(f"{_FIELD}.mode", f"invalid memory policy mode {mode!r}")
    value = MODES[mode]
    for flag in policy.get("flags") or []:
        if flag not in FLAGS:
            raise InvalidSpec(f"{_FIELD}.flags", f"invalid memory policy flag {flag!r}")
        value |= FLAGS[flag]
    return MemoryPolicy(value, _nodes(str(policy.get("nodes") or "")))


def _nodes(text: str) -> int:
    bits = 0
    for part in filter(None, text.replace(" ", "").split(",")):
        low, dash, high = part.partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()) or int(high or low) < int(low):
            raise InvalidSpec(f"{_FIELD}.nodes", f'invalid memory policy nodes "{text}"')
        if int(high or low) >= _MOST_NODES:
            raise InvalidSpec(f"{_FIELD}.nodes", f"invalid memory policy node {high or low}: too large")
        bits |= (1 << int(high or low) + 1) - (1 << int(low))
    return bits
