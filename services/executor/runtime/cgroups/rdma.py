"""`rdma`, whose files are the same on both versions: handles and objects by adapter.

Source: kernel cgroup-v1/rdma.rst, cgroup-v2.rst#rdma.
"""

from __future__ import annotations

from services.executor.runtime.cgroups import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from services.executor.runtime.cgroups.interface import Resources, Stats

NAME = "rdma"
_KEYS = (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object"))


def wanted(resources: Resources) -> str | None:
    return "linux.resources.rdma" if resources.get("rdma") else None


def validate(directory: str, resources: Resources) -> None:
    """Adapters are looked up by the kernel."""


def apply(directory: str, resources: Resources) -> None:
    for device, limits in files.section(resources, "rdma").items():
        parts = [f"{name}={limits[key]}" for key, name in _KEYS if limits.get(key) is not None]
        if parts:
            line = " ".join([device, *parts])
            files.write(directory, "rdma.max", line, field=f"linux.resources.rdma.{device}")


def stats(directory: str, into: Stats) -> None:
    current = files.read_optional(directory, "rdma.current")
    if current:
        limit = files.read_optional(directory, "rdma.max")
        into["rdma"] = {"current": _entries(current), "limit": _entries(limit)}


def _entries(text: str | None) -> list[dict[str, object]]:
    entries: list[dict[str, object]] = []
    for line in (text or "").splitlines():
        device, values = files.nested(line)
        numbers = {name: _number(values.get(name, "max")) for _, name in _KEYS}
        entries.append({"device": device, "hcaHandles": numbers["hca_handle"], "hcaObjects": numbers["hca_object"]})
    return entries


def _number(text: str) -> int:
    return 2**32 - 1 if text == "max" else int(text)
