"""Pressure stall information: how long processes waited for a resource.

Source: kernel accounting/psi.rst.
"""

from __future__ import annotations

from services.executor.runtime.cgroups import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def add(directory: str, name: str, into: dict[str, Any]) -> None:
    """Add `psi` with `some` and `full`; nothing on a kernel without it (or booted with psi=0)."""
    text = files.read_optional(directory, name)
    found: dict[str, Any] = {}
    for line in (text or "").splitlines():
        kind, values = files.nested(line)
        if kind in {"some", "full"}:
            found[kind] = {
                "avg10": float(values.get("avg10", 0)),
                "avg60": float(values.get("avg60", 0)),
                "avg300": float(values.get("avg300", 0)),
                "total": int(values.get("total", 0)),
            }
    if found:
        into["psi"] = found
