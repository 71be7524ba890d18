"""v1 `net_prio`: the priority of packets, by interface.

Source: kernel cgroup-v1/net_prio.rst.
"""

from __future__ import annotations

from services.executor.runtime.cgroups import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from services.executor.runtime.cgroups.interface import Resources, Stats

NAME = "net_prio"


def wanted(resources: Resources) -> str | None:
    return "linux.resources.network.priorities" if files.section(resources, "network").get("priorities") else None


def validate(directory: str, resources: Resources) -> None:
    """Interfaces are looked up by the kernel."""


def apply(directory: str, resources: Resources) -> None:
    for index, entry in enumerate(files.section(resources, "network").get("priorities") or ()):
        field = f"linux.resources.network.priorities[{index}]"
        files.write(directory, "net_prio.ifpriomap", f"{entry['name']} {entry['priority']}", field=field)


def stats(directory: str, into: Stats) -> None:
    """There are none."""
