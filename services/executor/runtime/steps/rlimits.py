"""Resource limits. Source: OCI runtime-spec 1.2, config.md "POSIX process"; prlimit(2)."""

from __future__ import annotations

import resource

from services.executor.runtime.errors import InvalidSpec
from services.executor.runtime.kernel import calls as kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NAMES = "AS CORE CPU DATA FSIZE MEMLOCK MSGQUEUE NICE NOFILE NPROC RSS RTPRIO RTTIME SIGPENDING STACK".split()  # noqa: SIM905
#: RLIMIT_* -> number; those that Python does not know are asm-generic/resource.h's
KINDS = {f"RLIMIT_{name}": getattr(resource, f"RLIMIT_{name}", None) for name in _NAMES} | {
    "RLIMIT_LOCKS": 10,
    "RLIMIT_RTTIME": 15,
}
_INFINITY = 2**64 - 1


def plan(process: dict[str, Any], field: str = "process") -> list[tuple[str, int, int, int]]:
    """(name, number, soft, hard) of each limit; -1 is unlimited."""
    limits: list[tuple[str, int, int, int]] = []
    for i, entry in enumerate(process.get("rlimits") or []):
        name = entry.get("type")
        number = KINDS.get(name)
        if number is None:
            raise InvalidSpec(f"{field}.rlimits[{i}].type", f'unknown limit "{name}"')
        if any(name == other for other, *_ in limits):
            raise InvalidSpec(f"{field}.rlimits[{i}].type", f"{name} is given twice")
        soft, hard = entry.get("soft", 0), entry.get("hard", 0)
        if soft > hard:
            raise InvalidSpec(f"{field}.rlimits[{i}].soft", f"{soft} is more than the hard limit {hard}")
        limits.append((name, number, _value(soft), _value(hard)))
    return limits


def _value(limit: int) -> int:
    return -1 if limit < 0 or limit >= _INFINITY else limit


def apply(limits: list[tuple[str, int, int, int]], pid: int = 0) -> None:
    """Set the limits of process `pid` (0: this one)."""
    for name, number, soft, hard in limits:
        with kernel.reporting("prlimit", f"{name}={soft}:{hard}"):
            resource.prlimit(pid, number, (soft, hard))
